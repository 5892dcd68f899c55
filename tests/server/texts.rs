//! Texts: every way to send one, what is refused, and that a batch changes no answer.

use std::fs;

use reqwest::RequestBuilder;
use reqwest::header::CONTENT_TYPE;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use crate::harness::{Server, changed_model, classifyd, ok, problem, some_models, square, white_row};

async fn results(request: RequestBuilder) -> Vec<Value> {
    let answer = ok(request.send().await.unwrap()).await;
    answer["results"].as_array().unwrap().clone()
}

/// The scores of each result, in the order of the labels.
fn scores(results: &[Value]) -> Vec<Vec<f64>> {
    let of = |result: &Value| {
        let mut top = result["top"].as_array().unwrap().clone();
        top.sort_by_key(|scored| scored["label"].as_str().unwrap().to_owned());
        top.iter()
            .map(|scored| scored["score"].as_f64().unwrap())
            .collect()
    };
    results.iter().map(of).collect()
}

fn assert_close(found: &[Vec<f64>], expected: &[Vec<f64>], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let near = found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-4);
        assert!(
            near && found.len() == expected.len(),
            "{what}, text {at}: expected {expected:?}, found {found:?}"
        );
    }
}

#[tokio::test]
async fn a_text_gets_the_same_answer_in_all_forms() {
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
async fn neither_a_batch_nor_a_bucket_changes_a_score() {
    // One to ninety words: every bucket, and some that are cut.
    let words = ["apple", "banana", "cherry", "pear", "!", "banana"];
    let texts: Vec<String> = (1..=90)
        .map(|count| {
            let words = (0..count).map(|at| words[(at * count + count) % words.len()]);
            words.collect::<Vec<_>>().join(" ")
        })
        .collect();
    let mut known: Option<(&str, Vec<Vec<f64>>)> = None;
    for (model, serving) in [
        ("words", ""),
        ("words", "[text]\nbuckets = []"),
        ("words", "[text]\nbuckets = [1, 2, 3, 5, 8, 13, 21, 34, 55]"),
        ("words", "[batch]\nmax_size = 4\nmax_tokens = 64"),
        ("words_left", "[text]\ntruncation = \"head_tail\"\nbuckets = []"),
        (
            "words_left",
            "[text]\ntruncation = \"head_tail\"\nbuckets = [8, 24]",
        ),
    ] {
        let models = changed_model(model, |directory| {
            fs::write(directory.join("serving.toml"), serving).unwrap();
        });
        let server = Server::start(models.path(), &[]);
        let mut alone = Vec::new();
        for text in &texts {
            alone.extend(scores(&results(server.send_text("", text)).await));
        }
        // The two models differ; each of them must give the same in every setting.
        match &known {
            Some((name, expected)) if *name == model => assert_close(&alone, expected, serving),
            _ => known = Some((model, alone.clone())),
        }
        // Several in a request, mixed in length, and all requests at once.
        let size = if serving.contains("max_size") { 4 } else { 32 };
        let shuffled: Vec<usize> = (0..texts.len()).map(|at| at * 37 % texts.len()).collect();
        let requests = shuffled.chunks(size).map(|places| {
            let inputs: Vec<&String> = places.iter().map(|&at| &texts[at]).collect();
            results(server.post("").json(&json!({"inputs": inputs})))
        });
        let together: Vec<Value> = futures_util::future::join_all(requests).await.concat();
        let expected: Vec<Vec<f64>> = shuffled.iter().map(|&at| alone[at].clone()).collect();
        assert_close(&scores(&together), &expected, serving);
        let one_by_one = texts.iter().map(|text| results(server.send_text("", text)));
        let crowd: Vec<Value> = futures_util::future::join_all(one_by_one).await.concat();
        assert_close(&scores(&crowd), &alone, serving);
        for (count, result) in (1..).zip(&crowd) {
            let cut = count > if model == "words" { 64 } else { 38 };
            assert_eq!(
                result.get("truncated"),
                cut.then_some(&json!(true)),
                "{model}, {count} words"
            );
        }
    }
}

#[tokio::test]
async fn a_request_is_run_by_bucket_and_within_the_limit_of_tokens() {
    let models = some_models(&["words"]);
    let server = Server::start(models.path(), &["--max-batch-tokens", "128", "--max-batch", "8"]);
    // At 16 tokens for each of 8 inputs: a text of 64 fills half a batch.
    let long = "banana ".repeat(60);
    let inputs = [long.as_str(), "apple", &long, "cherry", &long];
    let labels = results(server.post("").json(&json!({"inputs": inputs}))).await;
    let labels: Vec<&str> = labels
        .iter()
        .map(|result| result["label"].as_str().unwrap())
        .collect();
    assert_eq!(labels, ["b", "a", "b", "c", "b"]);
    let metrics = server.metrics().await;
    let batches = |series| metrics.get(&format!("classifyd_batch_size_{series}{{model=\"words\"}}"));
    assert_eq!(
        batches("count"),
        Some(3.0),
        "the short ones, and the long ones in two"
    );
    assert_eq!(batches("sum"), Some(5.0));
}

#[tokio::test]
async fn the_kind_of_input_chooses_the_model_where_that_is_clear() {
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
        "model: expected one of those that take a text (words, words_left), found none"
    );
    let server = Server::start(models.path(), &["--default-text-model", "words_left"]);
    let answer = ok(server.send_text("", "cherry").send().await.unwrap()).await;
    assert_eq!(answer["model"], "words_left");

    let models = some_models(&["linear", "nan"]);
    let server = Server::start(models.path(), &[]);
    let nobody = problem(server.send_text("", "cherry").send().await.unwrap()).await;
    assert_eq!(nobody["code"], "unsupported_media_type");
    let detail = "body: found a text, which none of the loaded models takes (linear, nan)";
    assert_eq!(nobody["detail"], detail);
}

#[tokio::test]
async fn a_default_that_does_not_take_texts_keeps_the_server_from_starting() {
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
async fn what_is_no_text_for_the_model_is_refused_by_name() {
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
            "body: expected UTF-8, found bytes that are none at position 6",
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
            "body: expected a picture, which is what the model takes, found a text, model \"linear\"",
        ),
        (
            server.send_png("?model=words", square(0)),
            415,
            "unsupported_media_type",
            "body: expected a text",
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
            "inputs[0]: expected a picture",
        ),
        (
            json(json!({"model": "words", "inputs": ["banana", {"image": "AAAA"}]})),
            400,
            "invalid_request",
            "inputs[1].image: expected a text",
        ),
        (
            json(json!({"inputs": ["banana", {"image": "AAAA"}]})),
            400,
            "invalid_request",
            "inputs[1].image: expected a text",
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
            "image[1]: expected a text",
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

#[tokio::test]
async fn long_and_strange_texts_are_answered_and_memory_stays_bounded() {
    let models = some_models(&["words"]);
    let server = Server::start(models.path(), &[]);
    let memory = async || {
        server
            .metrics()
            .await
            .get("process_resident_memory_bytes")
            .unwrap()
    };
    let before = memory().await;
    let mega = 1 << 20;
    let noise: String = (0..300_000_u32)
        .filter_map(|at| char::from_u32(at.wrapping_mul(2_654_435_761) >> 11))
        .collect();
    for (what, text, label, cut) in [
        ("100,000 words", "banana ".repeat(100_000), "b", true),
        ("one word of 15 MiB", "banana".repeat(15 * mega / 6), "a", true),
        (
            "a word before 15 MiB of blanks",
            format!("banana{}", " ".repeat(15 * mega)),
            "b",
            true,
        ),
        (
            "15 MiB of breaks and a word",
            "<br />".repeat(15 * mega / 6) + "banana",
            // Not read so far; where it was cut, half of a break is left.
            "a",
            true,
        ),
        (
            "15 MiB of accents",
            format!("banana {}", "\u{301}".repeat(7 * mega)),
            "b",
            true,
        ),
        ("15 MiB of punctuation", "!".repeat(15 * mega), "c", true),
        ("15 MiB of ideographs", "蕉".repeat(5 * mega), "a", true),
        ("unicode at random", noise, "a", true),
        ("emoji", "🍌👩‍👩‍👧".to_owned(), "a", false),
        ("zero bytes", "\0\0banana\0".to_owned(), "b", false),
        (
            "special tokens",
            "[PAD] [CLS] banana [SEP]".to_owned(),
            "b",
            false,
        ),
    ] {
        let answer = results(server.send_text("", text)).await;
        let result = &answer[0];
        assert_eq!(result["label"], label, "{what}: {result}");
        assert_eq!(result.get("truncated").is_some(), cut, "{what}: {result}");
        assert_eq!(
            results(server.send_text("", "cherry")).await[0]["label"],
            "c",
            "after {what}"
        );
    }
    let grown = (memory().await - before) / 1e6;
    assert!(grown < 150.0, "memory grew by {grown} MB");
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
fn a_graph_that_knows_fewer_words_than_the_tokenizer_is_refused() {
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
fn a_graph_that_does_not_mask_its_padding_is_refused() {
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
            text.contains("as the text has alone, beside a longer one"),
            "{command:?}: {text}"
        );
    }
}

#[test]
fn classify_takes_texts_and_files_of_them() {
    let models = some_models(&["words"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("review.txt");
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
