//! The three request formats and their responses.

use image::{DynamicImage, ImageFormat};
use reqwest::RequestBuilder;
use reqwest::header::CONTENT_TYPE;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use crate::harness::{Server, encode, fixture_models, ok, root, shipped_models, some_models, white_row};

/// Test digits of MNIST. The first character of a file name is the label.
fn digits() -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(root().join("tests/fixtures/digits"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let digits = files.iter().map(|file| {
        let name = file.file_stem().unwrap().to_str().unwrap();
        (name[..1].to_owned(), std::fs::read(file).unwrap())
    });
    digits.collect()
}

fn labels(answer: &Value) -> Vec<&str> {
    let results = answer["results"].as_array().unwrap();
    results
        .iter()
        .map(|result| result["label"].as_str().unwrap())
        .collect()
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn send_digit(server: &Server, image: &[u8]) -> RequestBuilder {
    server.send_png("?model=digits", image.to_vec())
}

#[tokio::test]
async fn real_digits_get_their_labels_in_all_three_request_formats() {
    let server = Server::start(&shipped_models(), &[]);
    let digits = digits();
    assert!(digits.len() >= 30, "a few dozen fixtures");
    let mut wrong = 0;
    for (label, image) in &digits {
        let raw = ok(send_digit(&server, image).send().await.unwrap()).await;
        wrong += usize::from(labels(&raw) != [label.as_str()]);

        let part = Part::bytes(image.clone())
            .file_name("digit.png")
            .mime_str("image/png")
            .unwrap();
        let form = Form::new().part("image", part).text("model", "digits");
        let multipart = ok(server.post("").multipart(form).send().await.unwrap()).await;
        let body = json!({"model": "digits", "inputs": [{"image": base64(image)}]});
        let json = ok(server.post("").json(&body).send().await.unwrap()).await;
        let uri = format!("data:image/png;base64,{}", base64(image));
        let body = json!({"model": "digits", "inputs": {"image": uri}});
        let data_uri = ok(server.post("").json(&body).send().await.unwrap()).await;
        assert_eq!(raw, multipart);
        assert_eq!(raw, json);
        assert_eq!(raw, data_uri);
    }
    assert!(
        wrong <= 1,
        "{wrong} of {} real test digits were read wrongly",
        digits.len()
    );
}

#[tokio::test]
async fn many_images_in_one_request_keep_their_order() {
    let server = Server::start(&shipped_models(), &[]);
    let digits = digits();
    let mut form = Form::new();
    let mut singly = Vec::new();
    for (_, image) in digits.iter().take(30) {
        let raw = ok(send_digit(&server, image).send().await.unwrap()).await;
        singly.push(raw["results"][0].clone());
        form = form.part("image", Part::bytes(image.clone()));
    }
    let together = ok(server.post("?model=digits").multipart(form).send().await.unwrap()).await;
    let together = together["results"].as_array().unwrap();
    assert_eq!(together.len(), singly.len());
    for (together, alone) in together.iter().zip(&singly) {
        assert_eq!(together["label"], alone["label"]);
        let difference = together["score"].as_f64().unwrap() - alone["score"].as_f64().unwrap();
        assert!(
            difference.abs() < 1e-5,
            "a batch changes no score: {together} {alone}"
        );
    }
}

#[tokio::test]
async fn a_response_names_the_model_and_its_version_and_lists_the_top_labels() {
    let server = Server::start(&fixture_models(), &[]);
    let response = server
        .send_png("?model=linear&top_k=2", white_row(1))
        .send()
        .await
        .unwrap();
    let headers = response.headers().clone();
    let answer = ok(response).await;
    // The logits are 0, 4, 0, so the score is exp(4) / (exp(4) + 2) = 0.96466.
    assert_eq!(answer["model"], "linear");
    assert_eq!(answer["version"], "1");
    let result = &answer["results"][0];
    assert_eq!(result["label"], "b");
    assert!(
        (result["score"].as_f64().unwrap() - 0.964_663).abs() < 1e-5,
        "{result}"
    );
    assert_eq!(result["top"].as_array().unwrap().len(), 2);
    assert_eq!(result["top"][0]["label"], "b");
    assert_eq!(
        result["top"][1]["label"], "a",
        "equal scores keep the order of the labels"
    );
    let timing = headers["server-timing"].to_str().unwrap();
    for stage in ["decode;dur=", "queue;dur=", "inference;dur="] {
        assert!(timing.contains(stage), "{timing}");
    }
}

#[tokio::test]
async fn every_kind_of_model_gives_the_scores_its_directory_defines() {
    let server = Server::start(&fixture_models(), &[]);
    let scores = async |model: &str| -> Vec<f64> {
        let answer = ok(server
            .send_png(&format!("?model={model}"), white_row(2))
            .send()
            .await
            .unwrap())
        .await;
        let mut top: Vec<Value> = answer["results"][0]["top"].as_array().unwrap().clone();
        top.sort_by_key(|scored| scored["label"].as_str().unwrap().to_owned());
        top.iter()
            .map(|scored| scored["score"].as_f64().unwrap())
            .collect()
    };
    let close = |found: &[f64], expected: [f64; 3]| {
        let near = found
            .iter()
            .zip(expected)
            .all(|(found, expected)| (found - expected).abs() < 1e-5);
        assert!(near, "expected {expected:?}, found {found:?}");
    };
    let softmax = [0.017_668, 0.017_668, 0.964_663];
    close(&scores("linear").await, softmax);
    close(&scores("linear_nhwc").await, softmax);
    close(&scores("probabilities").await, softmax);
    // The sigmoid of 0, 0 and 4.
    close(&scores("multilabel").await, [0.5, 0.5, 0.982_014]);
}

#[tokio::test]
async fn images_of_every_format_size_and_colour_type_are_accepted() {
    let models = some_models(&["linear"]);
    let server = Server::start(models.path(), &[]);
    let large = image::GrayImage::from_fn(400, 400, |_, y| image::Luma([if y / 100 == 1 { 255 } else { 0 }]));
    let gray = DynamicImage::from(large);
    let colour = DynamicImage::from(gray.to_rgb8());
    let sixteen = DynamicImage::from(gray.to_luma16());
    let alpha = DynamicImage::from(gray.to_rgba8());
    for (name, image, format, content_type) in [
        ("gray png", &gray, ImageFormat::Png, "image/png"),
        ("16-bit png", &sixteen, ImageFormat::Png, "image/png"),
        ("png with alpha", &alpha, ImageFormat::Png, "image/png"),
        ("gray jpeg", &gray, ImageFormat::Jpeg, "image/jpeg"),
        ("jpeg", &colour, ImageFormat::Jpeg, "image/jpeg"),
        ("webp", &colour, ImageFormat::WebP, "image/webp"),
        ("gif", &alpha, ImageFormat::Gif, "image/gif"),
        ("bmp", &colour, ImageFormat::Bmp, "image/bmp"),
        ("jpeg that is called png", &colour, ImageFormat::Jpeg, "image/png"),
    ] {
        let request = server
            .post("")
            .header(CONTENT_TYPE, content_type)
            .body(encode(image, format));
        let answer = ok(request.send().await.unwrap()).await;
        assert_eq!(labels(&answer), ["b"], "{name}");
    }
}

#[tokio::test]
async fn a_request_need_not_name_the_model_if_only_one_fits() {
    let one = some_models(&["linear"]);
    let server = Server::start(one.path(), &[]);
    assert_eq!(server.label("", white_row(0)).await, "a");
    let server = Server::start(&fixture_models(), &["--default-image-model", "linear"]);
    assert_eq!(server.label("", white_row(2)).await, "c");
}

#[tokio::test]
async fn the_model_list_has_what_a_client_needs() {
    let server = Server::start(&shipped_models(), &[]);
    let all = ok(server.get("/v1/models").send().await.unwrap()).await;
    let digits = ok(server.get("/v1/models/digits").send().await.unwrap()).await;
    let listed = all["models"].as_array().unwrap();
    assert!(listed.contains(&digits), "{all}");
    assert_eq!(
        digits["labels"],
        json!(["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"])
    );
    assert_eq!(digits["input_shape"], json!([1, 28, 28]));
    assert_eq!(digits["available"], true);
    assert!(
        digits["measured"]["accuracy"].as_f64().unwrap() >= 0.995,
        "{digits}"
    );
}

#[tokio::test]
async fn the_shipped_configuration_names_default_models() {
    let config = root().join("classifyd.toml");
    let server = Server::start(&shipped_models(), &["--config", config.to_str().unwrap()]);
    let image = std::fs::read(shipped_models().join("digits/1/golden/7_0.png")).unwrap();
    let answer = ok(server.send_png("", image).send().await.unwrap()).await;
    assert_eq!(answer["model"], "images");
    let answer = ok(server.send_text("", "A wonderful film.").send().await.unwrap()).await;
    assert_eq!(answer["model"], "sentiment");
    assert_eq!(labels(&answer), ["positive"]);
}
