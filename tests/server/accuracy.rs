//! Accuracy over HTTP on a fixed sample of each shipped classifier's test split. The images are the
//! first of each class, written by `trainer samples SET --sheet tests/fixtures/samples/MODEL.png
//! --per-class 20`. The reviews are 100 of each label, evenly spread, written by `trainer samples
//! imdb --out tests/fixtures/samples --per-class 100`. `scripts/test-accuracy-over-http.sh` tests
//! the complete splits.

use reqwest::header::CONTENT_TYPE;
use serde_json::Value;

use crate::harness::{Server, encode, ok, root, shipped_models};

/// The fraction of the sample reviews that the model labelled correctly when it was exported.
const STATED_OF_REVIEWS: f64 = 0.945;
/// Images of each class in a sheet.
const PER_CLASS: u32 = 20;

/// Sends every image of a model's sheet, and returns the fraction with the correct label.
async fn accuracy(server: &Server, model: &str) -> f64 {
    let sheet = image::open(root().join(format!("tests/fixtures/samples/{model}.png"))).unwrap();
    let config = std::fs::read(shipped_models().join(model).join("1/config.json")).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    let side = sheet.width() / PER_CLASS;
    let classes = sheet.height() / side;
    let mut right = 0;
    for class in 0..classes {
        let label = config["id2label"][class.to_string()].as_str().unwrap();
        for column in 0..PER_CLASS {
            let image = sheet.crop_imm(column * side, class * side, side, side);
            let image = encode(&image, image::ImageFormat::Png);
            let found = server.label(&format!("?model={model}"), image).await;
            right += u32::from(found == label);
        }
    }
    f64::from(right) / f64::from(classes * PER_CLASS)
}

#[tokio::test]
async fn accuracy_on_test_samples_matches_the_model_cards() {
    let server = Server::start(&shipped_models(), &[]);
    // The accuracy measured on these 200 images each, minus two images, because another CPU may
    // round differently.
    for (model, stated) in [("digits", 1.0), ("fashion", 0.945), ("images", 0.945)] {
        let found = accuracy(&server, model).await;
        assert!(
            found > stated - 0.011,
            "{model}: expected {stated}, found {found}"
        );
    }
}

#[tokio::test]
async fn accuracy_on_sample_reviews_matches_the_model_card() {
    let server = Server::start(&shipped_models(), &[]);
    let lines = std::fs::read_to_string(root().join("tests/fixtures/samples/imdb.jsonl")).unwrap();
    let (mut right, mut count) = (0, 0);
    for line in lines.lines() {
        let review: Value = serde_json::from_str(line).unwrap();
        let request = server
            .post("?model=sentiment")
            .header(CONTENT_TYPE, "text/plain; charset=utf-8");
        let answer = ok(request
            .body(review["text"].as_str().unwrap().to_owned())
            .send()
            .await
            .unwrap())
        .await;
        right += u32::from(answer["results"][0]["label"] == review["label"]);
        count += 1;
    }
    assert_eq!(count, 200);
    let (stated, found) = (STATED_OF_REVIEWS, f64::from(right) / f64::from(count));
    assert!(found > stated - 0.011, "expected {stated}, found {found}");
}
