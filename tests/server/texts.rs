//! Texts: every way to send one, how the server chooses a model for one, and how text models are
//! listed.

mod batches;
mod refusals;

use std::fs;

use reqwest::RequestBuilder;
use reqwest::header::CONTENT_TYPE;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use crate::harness::{Server, classifyd, ok, problem, some_models, white_row};

async fn results(request: RequestBuilder) -> Vec<Value> {
    let answer = ok(request.send().await.unwrap()).await;
    answer["results"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_text_gets_the_same_result_in_every_request_format() {
    let models = some_models(&["words"]);
    let server = Server::start(models.path(), &[]);
    let text = "A Banana, naïvely<br />🍌 — バナナ!";
    let typed = |content_type: &str| server.post("").header(CONTENT_TYPE, content_type).body(text);
    let part = || Part::text(text).mime_str("text/plain; charset=utf-8").unwrap();
    let raw = results(typed("text/plain")).await;
    assert_eq!(raw[0]["label"], "b");
    assert!(raw[0].get("truncated").is_none(), "{raw:?}");
    for request in [
        typed("text/plain; charset=UTF-8"),
        typed("Text/Plain;charset=\"utf-8\""),
        typed("text/plain; format=flowed"),
        server.post("").multipart(Form::new().text("text", text)),
        server.post("").multipart(Form::new().part("text", part())),
        server.post("").json(&json!({"inputs": text})),
        server.post("").json(&json!({"inputs": [text]})),
        server.post("").json(&json!({"inputs": {"text": text}})),
        server
            .post("")
            .json(&json!({"inputs": [{"text": text}], "model": "words"})),
        server.send_text("", format!("\u{feff}{text}")),
    ] {
        assert_eq!(results(request).await, raw);
    }
    let form = Form::new()
        .text("text", "cherry")
        .text("text", "banana")
        .text("top_k", "1");
    let several = results(server.post("").multipart(form)).await;
    assert_eq!([&several[0]["label"], &several[1]["label"]], ["c", "b"]);
    assert_eq!(several[0]["top"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn the_input_type_chooses_the_model_if_only_one_fits() {
    let models = some_models(&["linear", "nan", "words"]);
    let server = Server::start(models.path(), &["--default-image-model", "linear"]);
    assert_eq!(results(server.send_text("", "cherry")).await[0]["label"], "c");
    assert_eq!(server.label("", white_row(1)).await, "b");

    let models = some_models(&["linear", "words", "words_left"]);
    let server = Server::start(models.path(), &[]);
    assert_eq!(server.label("", white_row(1)).await, "b");
    let unclear = problem(server.send_text("", "cherry").send().await.unwrap()).await;
    assert_eq!(unclear["code"], "model_required");
    assert_eq!(
        unclear["detail"],
        "model: expected one of the models that take a text (words, words_left), found none"
    );
    let server = Server::start(models.path(), &["--default-text-model", "words_left"]);
    let answer = ok(server.send_text("", "cherry").send().await.unwrap()).await;
    assert_eq!(answer["model"], "words_left");

    let models = some_models(&["linear", "nan"]);
    let server = Server::start(models.path(), &[]);
    let nobody = problem(server.send_text("", "cherry").send().await.unwrap()).await;
    assert_eq!(nobody["code"], "unsupported_media_type");
    let detail = "body: no loaded model takes a text (linear, nan)";
    assert_eq!(nobody["detail"], detail);
}

#[tokio::test]
async fn text_models_are_listed_with_what_a_client_needs() {
    let models = some_models(&["linear", "words_left"]);
    let server = Server::start(models.path(), &[]);
    let listed = ok(server.get("/v1/models").send().await.unwrap()).await;
    let [linear, words] = listed["models"].as_array().unwrap().as_slice() else {
        panic!("{listed}");
    };
    assert_eq!(linear["task"], "image-classification");
    assert!(linear.get("text").is_none(), "{linear}");
    assert_eq!(words["task"], "text-classification");
    assert!(words.get("input_shape").is_none(), "{words}");
    let text = json!({"max_length": 40, "truncation": "head_tail", "buckets": [8, 24, 40]});
    assert_eq!(words["text"], text);
}

#[test]
fn classify_accepts_texts_and_text_files() {
    let models = some_models(&["words"]);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("review.txt");
    fs::write(&file, "cherry ".repeat(65)).unwrap();
    let file = file.to_str().unwrap();
    let output = classifyd()
        .args(["classify", "--top-k", "1", "--models"])
        .arg(models.path())
        .args([file, "Banana\tbanana!", ""])
        .output()
        .unwrap();
    let (out, err) = (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    );
    assert_eq!(
        out,
        format!("{file}\tc 0.9647\ttruncated\nBanana banana!\tb 0.8573\n"),
        "{err}"
    );
    assert!(
        err.contains("expected a text with at least one token") && err.contains("1 of 3 inputs failed"),
        "{err}"
    );
    assert_eq!(output.status.code(), Some(1));
}
