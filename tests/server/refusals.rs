//! Invalid requests: each gets an exact error, and the next request works.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use image::{DynamicImage, ImageFormat};
use reqwest::header::CONTENT_TYPE;
use reqwest::multipart::{Form, Part};
use reqwest::{Method, RequestBuilder};
use serde_json::json;

use crate::harness::{Server, encode, fixture_models, problem, square, white_row};

/// A request and the error that it must cause.
struct Case {
    name: &'static str,
    request: RequestBuilder,
    status: u16,
    code: &'static str,
    /// The detail must contain this.
    detail: &'static str,
}

fn case(
    name: &'static str,
    request: RequestBuilder,
    status: u16,
    code: &'static str,
    detail: &'static str,
) -> Case {
    Case {
        name,
        request,
        status,
        code,
        detail,
    }
}

#[tokio::test]
async fn each_invalid_request_gets_an_exact_error_and_the_next_one_works() {
    let options = [
        "--max-body",
        "1MB",
        "--max-image-side",
        "2000",
        "--max-image-pixels",
        "1000000",
    ];
    let server = Server::start(&fixture_models(), &options);
    let png = white_row(1);
    let truncated = png[..png.len() - 20].to_vec();
    let wide = encode(&DynamicImage::new_luma8(2001, 1), ImageFormat::Png);
    let many_pixels = encode(&DynamicImage::new_luma8(1001, 1000), ImageFormat::Png);
    let mut forty = Form::new().text("model", "linear");
    for _ in 0..40 {
        forty = forty.part("image", Part::bytes(png.clone()));
    }
    let two = Form::new()
        .part("image", Part::bytes(png.clone()))
        .part("image", Part::bytes(b"not an image".as_slice()));
    let typed = |content_type: &str, query: &str, body: Vec<u8>| {
        server.post(query).header(CONTENT_TYPE, content_type).body(body)
    };
    let linear = "?model=linear";
    let cases = [
        case(
            "no model",
            server.send_png("", png.clone()),
            400,
            "model_required",
            "linear",
        ),
        case(
            "unknown model",
            server.send_png("?model=nope", png.clone()),
            404,
            "model_not_found",
            "\"nope\"",
        ),
        case(
            "unknown route",
            server.get("/v2/classify"),
            404,
            "not_found",
            "/v2/classify",
        ),
        case(
            "unknown model route",
            server.get("/v1/models/nope"),
            404,
            "model_not_found",
            "nope",
        ),
        case(
            "GET",
            server.get("/v1/classify"),
            405,
            "method_not_allowed",
            "GET",
        ),
        case(
            "empty body",
            server.send_png(linear, vec![]),
            422,
            "invalid_image",
            "0 bytes",
        ),
        case(
            "not an image",
            server.send_png(linear, b"hello".to_vec()),
            422,
            "invalid_image",
            "68656c6c6f",
        ),
        case(
            "truncated",
            server.send_png(linear, truncated),
            422,
            "invalid_image",
            "png",
        ),
        case(
            "too wide",
            server.send_png(linear, wide),
            422,
            "image_too_large",
            "2001 x 1",
        ),
        case(
            "too many pixels",
            server.send_png(linear, many_pixels),
            422,
            "image_too_large",
            "1001 x 1000",
        ),
        case(
            "too long",
            server.send_png(linear, vec![0; 1_000_001]),
            413,
            "payload_too_large",
            "1000000",
        ),
        case(
            "no content type",
            server.post(linear).body(png.clone()),
            415,
            "unsupported_media_type",
            "found none",
        ),
        case(
            "svg",
            typed("image/svg+xml", linear, b"<svg/>".to_vec()),
            415,
            "unsupported_media_type",
            "svg",
        ),
        case(
            "text",
            typed("text/plain", linear, b"hi".to_vec()),
            415,
            "unsupported_media_type",
            "an image",
        ),
        case(
            "text, no UTF-8",
            typed("text/plain", linear, vec![0xff]),
            422,
            "invalid_text",
            "UTF-8",
        ),
        case(
            "query key",
            server.send_png("?model=linear&topk=2", png.clone()),
            400,
            "invalid_request",
            "topk",
        ),
        case(
            "top_k",
            server.send_png("?model=linear&top_k=0", png.clone()),
            400,
            "invalid_request",
            "top_k",
        ),
        case(
            "forty",
            server.post("").multipart(forty),
            413,
            "too_many_inputs",
            "at most 32, found 40",
        ),
        case(
            "second of two",
            server.post(linear).multipart(two),
            422,
            "invalid_image",
            "image[1]",
        ),
        case(
            "broken JSON",
            typed("application/json", "", b"{".to_vec()),
            400,
            "invalid_request",
            "EOF",
        ),
        case(
            "JSON text",
            server
                .post("")
                .json(&json!({"model": "linear", "inputs": ["hi"]})),
            400,
            "invalid_request",
            "inputs[0]: the model takes an image",
        ),
        case(
            "JSON picture",
            server
                .post("")
                .json(&json!({"model": "linear", "inputs": [{"image": "aGVsbG8="}]})),
            422,
            "invalid_image",
            "inputs[0].image",
        ),
        case(
            "NaN",
            server.send_png("?model=nan", square(255)),
            500,
            "internal",
            "log",
        ),
        case(
            "failing run",
            server.send_png("?model=fails", square(255)),
            500,
            "internal",
            "log",
        ),
        case(
            "strange method",
            server
                .client
                .request(Method::from_bytes(b"BREW").unwrap(), server.url("/v1/classify")),
            405,
            "method_not_allowed",
            "BREW",
        ),
    ];
    for Case {
        name,
        request,
        status,
        code,
        detail,
    } in cases
    {
        let response = request.send().await.unwrap();
        assert_eq!(
            response.status(),
            status,
            "{name}: {}",
            response.text().await.unwrap()
        );
        let problem = problem(response).await;
        assert_eq!(problem["code"], code, "{name}: {problem}");
        assert!(
            problem["detail"].as_str().unwrap().contains(detail),
            "{name}: {problem}"
        );
        assert_eq!(
            server.label("?model=linear", white_row(1)).await,
            "b",
            "after {name}"
        );
    }
    // The models that failed above classify valid inputs.
    assert_eq!(server.label("?model=nan", white_row(1)).await, "b");
    assert_eq!(server.label("?model=fails", white_row(1)).await, "b");
}

#[tokio::test]
async fn the_cause_of_an_internal_error_goes_to_the_log_and_not_to_the_client() {
    let server = Server::start(&fixture_models(), &[]);
    let response = server.send_png("?model=nan", square(255)).send().await.unwrap();
    let problem = problem(response).await;
    let told = problem.to_string();
    assert!(!told.contains("NaN"), "{told}");
    server.wait_for_log(&["NaN", "\"level\":\"ERROR\""]).await;
}

#[tokio::test]
async fn a_405_response_lists_the_allowed_methods() {
    let server = Server::start(&fixture_models(), &[]);
    let response = server
        .client
        .delete(server.url("/v1/models"))
        .send()
        .await
        .unwrap();
    assert_eq!(response.headers()["allow"], "GET,HEAD");
    problem(response).await;
}

#[tokio::test]
async fn a_valid_request_id_is_kept_and_an_invalid_one_is_replaced() {
    let server = Server::start(&fixture_models(), &[]);
    let send_request = async |id: &str| {
        let response = server
            .get("/livez")
            .header("X-Request-Id", id)
            .send()
            .await
            .unwrap();
        response.headers()["x-request-id"].to_str().unwrap().to_owned()
    };
    assert_eq!(send_request("trace-7.a_B").await, "trace-7.a_B");
    let made = send_request("two words").await;
    assert!(
        made.len() == 16 && made != send_request("two words").await,
        "{made}"
    );
}

#[tokio::test]
async fn a_stalled_upload_is_abandoned_at_the_deadline() {
    let server = Server::start(&fixture_models(), &["--request-timeout", "300ms"]);
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
        .write_all(
            b"POST /v1/classify?model=linear HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 100\r\n\r\n12345",
        )
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
    assert!(
        answer.contains("deadline_exceeded") && answer.contains("body"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_connection_whose_request_head_never_ends_is_closed() {
    let server = Server::start(&fixture_models(), &["--header-timeout", "300ms"]);
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(b"POST /v1/classify HTTP/1.1\r\nHos").unwrap();
    let mut answer = Vec::new();
    let closed = stream.read_to_end(&mut answer);
    assert!(closed.is_ok(), "closed, rather than left open: {closed:?}");
    assert_eq!(server.label("?model=linear", white_row(1)).await, "b");
}
