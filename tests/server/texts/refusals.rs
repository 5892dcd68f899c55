//! Texts, text models and settings that are rejected.

use std::fs;

use reqwest::header::CONTENT_TYPE;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use super::results;
use crate::harness::{Server, changed_model, classifyd, problem, some_models, square};

#[tokio::test]
async fn the_server_does_not_start_with_a_default_text_model_that_takes_no_text() {
    let models = some_models(&["linear", "words"]);
    for (name, part) in [
        ("linear", "take a text (words), found \"linear\""),
        ("none", "found \"none\""),
    ] {
        let output = classifyd()
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--default-text-model",
                name,
                "--models",
            ])
            .arg(models.path())
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(
            text.contains("default_text_model: expected one of the loaded models") && text.contains(part),
            "{text}"
        );
    }
}

#[tokio::test]
async fn invalid_texts_are_rejected_with_the_field_at_fault() {
    let models = some_models(&["linear", "words"]);
    let server = Server::start(models.path(), &[]);
    let text = |query: &str, content_type: &str, body: &[u8]| {
        let request = server.post(query).header(CONTENT_TYPE, content_type);
        request.body(body.to_vec())
    };
    let json = |body: Value| server.post("").json(&body);
    let latin = Part::bytes(b"caf\xe9".to_vec())
        .mime_str("text/plain; charset=iso-8859-1")
        .unwrap();
    let form = |parts: [(&'static str, &'static str); 2]| {
        let form = Form::new()
            .text(parts[0].0, parts[0].1)
            .text(parts[1].0, parts[1].1);
        server.post("").multipart(form)
    };
    let none = "expected a text with at least one token";
    for (request, status, code, detail) in [
        (text("", "text/plain", b""), 422, "invalid_text", none),
        (text("", "text/plain", b" \r\n\t"), 422, "invalid_text", none),
        (text("", "text/plain", b"<br /><br>"), 422, "invalid_text", none),
        (
            text("", "text/plain", b"banana\xff"),
            422,
            "invalid_text",
            "body: invalid UTF-8 at byte 6",
        ),
        (
            text("", "text/plain; charset=utf-16", b"b\0a\0"),
            415,
            "unsupported_media_type",
            "Content-Type: expected charset=utf-8",
        ),
        (
            text("", "text/html", b"<p>banana"),
            415,
            "unsupported_media_type",
            "text/plain",
        ),
        (
            text("?model=linear", "text/plain", b"banana"),
            415,
            "unsupported_media_type",
            "body: the model takes an image, found a text, model \"linear\"",
        ),
        (
            server.send_png("?model=words", square(0)),
            415,
            "unsupported_media_type",
            "body: the model takes a text",
        ),
        (
            json(json!({"inputs": [""]})),
            422,
            "invalid_text",
            "inputs[0]: expected a text",
        ),
        (
            json(json!({"inputs": ["banana", {"text": " "}]})),
            422,
            "invalid_text",
            "inputs[1]: expected a text",
        ),
        (
            json(json!({"model": "linear", "inputs": ["banana"]})),
            400,
            "invalid_request",
            "inputs[0]: the model takes an image",
        ),
        (
            json(json!({"model": "words", "inputs": ["banana", {"image": "AAAA"}]})),
            400,
            "invalid_request",
            "inputs[1].image: the model takes a text",
        ),
        (
            json(json!({"inputs": ["banana", {"image": "AAAA"}]})),
            400,
            "invalid_request",
            "inputs[1].image: the model takes a text",
        ),
        (
            json(json!({"inputs": ["banana", 7]})),
            400,
            "invalid_request",
            "inputs[1]: invalid type",
        ),
        (
            text("", "application/json", br#"{"inputs": ["\ud800"]}"#),
            400,
            "invalid_request",
            "inputs[0]",
        ),
        (
            text("", "application/json", b"{\"inputs\": [\"\xff\"]}"),
            400,
            "invalid_request",
            "inputs[0]",
        ),
        (
            form([("text", "banana"), ("text", "")]),
            422,
            "invalid_text",
            "text[1]: expected a text",
        ),
        (
            form([("text", "banana"), ("image", "x")]),
            400,
            "invalid_request",
            "image[1]: the model takes a text",
        ),
        (
            server.post("").multipart(Form::new().part("text", latin)),
            415,
            "unsupported_media_type",
            "text[0]: expected charset=utf-8",
        ),
    ] {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), status, "{detail}");
        let problem = problem(response).await;
        assert_eq!(problem["code"], code, "{problem}");
        assert!(
            problem["detail"].as_str().unwrap().contains(detail),
            "expected {detail:?} in {problem}"
        );
        assert_eq!(
            results(server.send_text("", "banana")).await[0]["label"],
            "b",
            "after {detail}"
        );
    }
}

#[test]
fn a_graph_with_a_smaller_vocabulary_than_its_tokenizer_is_rejected() {
    let models = changed_model("words", |directory| {
        let file = directory.join("tokenizer.json");
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains("\"cherry\": 6"), "{text}");
        fs::write(&file, text.replace("\"cherry\": 6", "\"cherry\": 6, \"date\": 9")).unwrap();
    });
    let output = classifyd()
        .args(["serve", "--listen", "127.0.0.1:0", "--models"])
        .arg(models.path())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("expected a graph that runs") && text.contains("out of data bounds"),
        "{text}"
    );
}

#[test]
fn a_graph_that_ignores_the_attention_mask_is_rejected() {
    let models = changed_model("words_unmasked", |directory| {
        fs::create_dir(directory.join("golden")).unwrap();
        fs::write(directory.join("golden/b.txt"), "banana").unwrap();
        let golden = r#"{"tolerance": 0.999, "samples": [{"file": "golden/b.txt", "label": "b", "scores": [0, 1, 0]}]}"#;
        fs::write(directory.join("golden.json"), golden).unwrap();
    });
    for command in [
        vec!["serve", "--listen", "127.0.0.1:0", "--models"],
        vec!["check"],
    ] {
        let output = classifyd().args(&command).arg(models.path()).output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(
            text.contains("as for the text alone, in a batch with a longer one"),
            "{command:?}: {text}"
        );
    }
}
