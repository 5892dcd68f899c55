//! The OpenAPI document is current, lists every route, and has correct examples.

use std::collections::BTreeSet;
use std::fs;

use image::{DynamicImage, ImageFormat};
use reqwest::header::CONTENT_TYPE;
use reqwest::multipart::{Form, Part};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::harness::{Server, classifyd, encode, ok, problem, root, shipped_models, some_models, square};
use crate::security::{ConfigFile, make_key};

/// The settings of `classifyd.toml`.
const DEFAULTS: &[&str] = &[
    "--default-image-model",
    "images",
    "--default-text-model",
    "sentiment",
];

fn document() -> Value {
    serde_json::from_str(&fs::read_to_string(root().join("openapi/openapi.json")).unwrap()).unwrap()
}

#[test]
fn the_checked_in_openapi_documents_are_current() {
    for (file, options) in [
        ("openapi/openapi.json", &["openapi"][..]),
        ("openapi/openapi.yaml", &["openapi", "--format", "yaml"]),
    ] {
        let printed = classifyd().args(options).output().unwrap();
        let checked_in = fs::read(root().join(file)).unwrap();
        assert!(
            printed.stdout == checked_in,
            "{file}: run `make openapi` and look at the difference"
        );
    }
}

#[tokio::test]
async fn the_document_lists_every_route_and_nothing_else() {
    let models = some_models(&["linear"]);
    let server = Server::start(models.path(), &[]);
    let answer = ok(server.get("/openapi.json").send().await.unwrap()).await;
    assert_eq!(answer, document());
    let yaml = server.get("/openapi.yaml").send().await.unwrap();
    assert_eq!(yaml.headers()[CONTENT_TYPE], "application/yaml");
    let checked_in = fs::read_to_string(root().join("openapi/openapi.yaml")).unwrap();
    assert_eq!(yaml.text().await.unwrap(), checked_in);

    let paths: Vec<&String> = answer["paths"].as_object().unwrap().keys().collect();
    let expected = [
        "/",
        "/assets/{file}",
        "/docs",
        "/livez",
        "/metrics",
        "/openapi.json",
        "/openapi.yaml",
        "/readyz",
        "/v1/classify",
        "/v1/models",
        "/v1/models/{name}",
        "/v1/models/{name}/examples",
        "/v1/models/{name}/examples/{example}",
    ];
    assert_eq!(paths, expected);
    for path in paths {
        let concrete = path
            .replace("{name}", "linear")
            .replace("{file}", "playground.js")
            .replace("{example}", "none");
        let method = if path == "/v1/classify" {
            Method::POST
        } else {
            Method::GET
        };
        let response = server.client.request(method, server.url(&concrete)).send();
        let status = response.await.unwrap().status();
        assert_ne!(status, 405, "{path}");
        // The fixture has no examples, and a classification needs a body.
        let expected = match path.as_str() {
            "/v1/models/{name}/examples/{example}" => 404,
            "/v1/classify" => 415,
            _ => 200,
        };
        assert_eq!(status, expected, "{path}");
        let unsupported = server.client.delete(server.url(&concrete)).send().await.unwrap();
        assert!(unsupported.headers().contains_key("allow"), "{path}");
        assert_eq!(problem(unsupported).await["code"], "method_not_allowed", "{path}");
    }
}

/// All example problems of the document: operation, code and problem.
fn problem_examples(document: &Value) -> Vec<(String, String, Value)> {
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for operation in item.as_object().unwrap().values() {
            for (status, response) in operation["responses"].as_object().unwrap() {
                let content = &response["content"]["application/problem+json"];
                if content.is_null() {
                    continue;
                }
                let examples = content["examples"].as_object();
                let examples = examples.unwrap_or_else(|| panic!("{path}: {status} has no example"));
                for (code, example) in examples {
                    assert_eq!(example["value"]["status"].to_string(), *status, "{path}: {code}");
                    found.push((path.clone(), code.clone(), example["value"].clone()));
                }
            }
        }
    }
    found
}

/// Compares responses with the examples, and records which were compared.
struct Examples {
    promised: Vec<(String, String, Value)>,
    seen: BTreeSet<(String, String)>,
}

impl Examples {
    /// Asserts that the response to this request equals the example for this operation and code,
    /// except for the request ID.
    async fn check(&mut self, path: &str, code: &str, request: RequestBuilder) {
        let mut found = problem(request.send().await.unwrap()).await;
        let (.., promised) = self
            .promised
            .iter()
            .find(|(of, example, _)| of == path && example == code)
            .unwrap_or_else(|| panic!("{path} promises no {code}"));
        found["request_id"] = promised["request_id"].clone();
        if code == "rate_limited" {
            // The time varies.
            let words = |text: &Value| text.as_str().unwrap().rsplit_once(' ').unwrap().0.to_owned();
            assert_eq!(words(&found["detail"]), words(&promised["detail"]));
            found["detail"] = promised["detail"].clone();
        }
        assert_eq!(&found, promised, "{path}: {code}");
        self.seen.insert((path.to_owned(), code.to_owned()));
    }
}

#[tokio::test]
async fn every_problem_example_matches_the_servers_response() {
    let mut examples = Examples {
        promised: problem_examples(&document()),
        seen: BTreeSet::new(),
    };
    let classify = "/v1/classify";
    let server = Server::start(&shipped_models(), DEFAULTS);
    let seven = fs::read(shipped_models().join("digits/1/golden/7_0.png")).unwrap();
    let typed = |content_type: &str, query: &str, body: Vec<u8>| {
        server.post(query).header(CONTENT_TYPE, content_type).body(body)
    };
    let mut many = Form::new().text("model", "digits");
    for _ in 0..33 {
        many = many.part("image", Part::bytes(seven.clone()));
    }
    let wide = encode(&DynamicImage::new_luma8(16_385, 1), ImageFormat::Png);
    for (code, request) in [
        ("invalid_request", server.send_png("?top_k=0", seven.clone())),
        ("model_not_found", server.send_png("?model=nope", seven.clone())),
        (
            "payload_too_large",
            server.send_png("", vec![0; 16 * 1024 * 1024 + 1]),
        ),
        ("too_many_inputs", server.post("").multipart(many)),
        ("unsupported_media_type", typed("image/tiff", "", b"II*".to_vec())),
        ("invalid_image", server.send_png("", b"no image".to_vec())),
        ("image_too_large", server.send_png("", wide)),
        ("invalid_text", typed("text/plain", "", vec![0xff])),
    ] {
        examples.check(classify, code, request).await;
    }
    for (path, code, asked) in [
        ("/v1/models/{name}", "model_not_found", "/v1/models/nope"),
        (
            "/v1/models/{name}/examples",
            "model_not_found",
            "/v1/models/nope/examples",
        ),
        (
            "/v1/models/{name}/examples/{example}",
            "model_not_found",
            "/v1/models/nope/examples/7_0.png",
        ),
        (
            "/v1/models/{name}/examples/{example}",
            "not_found",
            "/v1/models/digits/examples/nope",
        ),
        ("/assets/{file}", "not_found", "/assets/nope"),
    ] {
        examples.check(path, code, server.get(asked)).await;
    }
    let server = Server::start(&shipped_models(), &[]);
    examples
        .check(classify, "model_required", server.send_png("", seven))
        .await;

    // Examples of the guard: the only request that the rate allows has no API key, and the next one
    // comes too early.
    let key = make_key("lab");
    for (path, item) in document()["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if operation["security"].is_null() {
                continue;
            }
            let file = ConfigFile::new(&format!("rate_limit = \"1/h\"\n{}", key.entry));
            let server = crate::security::start(&file, &[]);
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            for code in ["unauthorized", "rate_limited"] {
                let request = server.client.request(method.clone(), server.url(path));
                examples.check(path, code, request).await;
            }
        }
    }

    let fails = some_models(&["fails"]);
    let server = Server::start(fails.path(), &[]);
    examples
        .check(classify, "internal", server.send_png("", square(255)))
        .await;

    let hanging = some_models(&["hang"]);
    let narrow = [
        "--lanes",
        "1",
        "--max-batch",
        "1",
        "--queue-capacity",
        "1",
        "--drain-delay",
        "3s",
        "--grace",
        "100ms",
    ];
    let server = Server::start(hanging.path(), &narrow);
    let running = server.send_png("", square(255));
    let running = tokio::spawn(async move { running.send().await });
    server
        .wait_for_metric("classifyd_batch_size_count{model=\"hang\"}", 1.0)
        .await;
    examples
        .check(
            classify,
            "deadline_exceeded",
            server.send_png("?timeout_ms=300", square(0)),
        )
        .await;
    let waiting = server.send_png("?priority=low", square(0));
    let waiting = tokio::spawn(async move { waiting.send().await });
    server.wait_for_queue("hang", 1.0).await;
    examples
        .check(
            classify,
            "queue_full",
            server.send_png("?priority=low", square(0)),
        )
        .await;
    examples
        .check(
            classify,
            "forbidden",
            server.send_png("?priority=high", square(0)),
        )
        .await;
    let drained = server.send_png("", square(0));
    server.signal("TERM");
    server.wait_for_log(&["draining"]).await;
    examples.check("/readyz", "draining", server.get("/readyz")).await;
    // This request displaces the waiting one, and fails at the end of the drain.
    examples.check(classify, "draining", drained).await;
    for request in [running, waiting] {
        request.abort();
    }

    let promised: BTreeSet<(String, String)> = examples
        .promised
        .iter()
        .map(|(path, code, _)| (path.clone(), code.clone()))
        // No client can end a lane or block the server's threads, so `http::document` compares
        // these.
        .filter(|(path, code)| code != "model_unavailable" && path != "/livez")
        .collect();
    assert_eq!(promised, examples.seen, "every example is provoked");
}

/// Asserts equality except for rounding, which differs between CPUs.
fn assert_alike(found: &Value, expected: &Value, at: &str) {
    match (found, expected) {
        (Value::Number(found), Value::Number(expected)) => {
            let difference = found.as_f64().unwrap() - expected.as_f64().unwrap();
            assert!(difference.abs() < 1e-3, "{at}: {found} instead of {expected}");
        }
        (Value::Array(found), Value::Array(expected)) => {
            assert_eq!(found.len(), expected.len(), "{at}");
            for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
                assert_alike(found, expected, &format!("{at}[{index}]"));
            }
        }
        (Value::Object(found), Value::Object(expected)) => {
            let keys = |object: &serde_json::Map<String, Value>| object.keys().cloned().collect::<Vec<_>>();
            assert_eq!(keys(found), keys(expected), "{at}");
            for (key, found) in found {
                assert_alike(found, &expected[key], &format!("{at}.{key}"));
            }
        }
        _ => assert_eq!(found, expected, "{at}"),
    }
}

#[tokio::test]
async fn every_example_request_gets_its_example_response() {
    let server = Server::start(&shipped_models(), DEFAULTS);
    let document = document();
    let operation = &document["paths"]["/v1/classify"]["post"];
    let requests = &operation["requestBody"]["content"];
    let answers = &operation["responses"]["200"]["content"]["application/json"]["examples"];
    let bodies = requests["application/json"]["examples"].as_object().unwrap();
    assert_eq!(bodies.len(), answers.as_object().unwrap().len());
    for (name, example) in bodies {
        let found = ok(server.post("").json(&example["value"]).send().await.unwrap()).await;
        assert_alike(&found, &answers[name]["value"], name);
    }
    let text = requests["text/plain"]["example"].as_str().unwrap();
    let found = ok(server.send_text("", text).send().await.unwrap()).await;
    assert_alike(&found, &answers["text"]["value"], "text/plain");
    let form = &requests["multipart/form-data"]["example"];
    let mut parts = Form::new();
    for (name, value) in form.as_object().unwrap() {
        for value in value.as_array().unwrap_or(&vec![value.clone()]) {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            parts = parts.text(name.clone(), text);
        }
    }
    let found = ok(server.post("").multipart(parts).send().await.unwrap()).await;
    assert_alike(&found, &answers["texts"]["value"], "multipart/form-data");
    let encoded = bodies["picture"]["value"]["inputs"][0]["image"].as_str().unwrap();
    let shipped = fs::read(shipped_models().join("digits/1/golden/7_0.png")).unwrap();
    let decoded = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, encoded).unwrap();
    assert_eq!(decoded, shipped, "the picture of the example is a golden sample");
}

#[tokio::test]
async fn the_example_model_descriptions_match_the_shipped_models() {
    let server = Server::start(&shipped_models(), &[]);
    let document = document();
    let schemas = &document["components"]["schemas"];
    let digits = ok(server.get("/v1/models/digits").send().await.unwrap()).await;
    let sentiment = ok(server.get("/v1/models/sentiment").send().await.unwrap()).await;
    let listed = ok(server.get("/v1/models/digits/examples").send().await.unwrap()).await;
    let listed = listed["examples"].as_array().unwrap();
    let example = listed
        .iter()
        .find(|example| example["name"] == "7_0.png")
        .unwrap();
    for (schema, shown) in [
        ("ModelDescription", &digits),
        ("Accuracy", &digits["measured"]),
        ("TextDescription", &sentiment["text"]),
        ("ExampleDescription", example),
    ] {
        let mut compared = 0;
        for (name, property) in schemas[schema]["properties"].as_object().unwrap() {
            if let Some(expected) = property.get("example") {
                assert_eq!(&shown[name], expected, "{schema}.{name}");
                compared += 1;
            }
        }
        assert!(compared > 2, "{schema} has {compared} examples");
    }
    let image = server
        .get("/v1/models/digits/examples/7_0.png")
        .send()
        .await
        .unwrap();
    assert_eq!(image.headers()[CONTENT_TYPE], "image/png");
    let answer = ok(server
        .send_png("?model=digits", image.bytes().await.unwrap().to_vec())
        .send()
        .await
        .unwrap())
    .await;
    assert_eq!(answer["results"][0]["label"], example["label"]);
    let text = server
        .get("/v1/models/sentiment/examples/positive_1.txt")
        .send()
        .await
        .unwrap();
    assert_eq!(text.headers()[CONTENT_TYPE], "text/plain; charset=utf-8");
    let answer = ok(server
        .send_text("?model=sentiment", text.text().await.unwrap())
        .send()
        .await
        .unwrap())
    .await;
    assert_eq!(answer["results"][0]["label"], json!("positive"));
}
