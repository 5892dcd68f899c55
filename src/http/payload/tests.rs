use std::time::Duration;

use axum::http::header::CONTENT_TYPE;

use super::body::{LONGEST_PIECE, Pieces};
use super::*;
use crate::budget::Budget;
use crate::cpu::Workers;
use crate::http::error::Code;
use batching::Flow;

async fn read_with(content_type: &str, query: Option<&str>, body: impl Into<Body>) -> Result<Payload, Error> {
    read_up_to(1000, content_type, query, body).await
}

async fn read_up_to(
    max_body: u64,
    content_type: &str,
    query: Option<&str>,
    body: impl Into<Body>,
) -> Result<Payload, Error> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, content_type.parse().unwrap());
    let deadline = Instant::now() + Duration::from_secs(1);
    let options = Options::from_query(query)?;
    read(
        &headers,
        options,
        body.into(),
        max_body,
        deadline,
        &Workers::start(1, 0).unwrap().pool(1),
        Budget::new(64 * 1024 * 1024).share(Flow::default()),
    )
    .await
}

#[test]
fn a_body_in_parts_is_kept_whole_and_takes_little_more_than_its_length() {
    let budget = Budget::new(64 * 1024 * 1024);
    for length in [1, 20_000, 300_000, 3_000_000] {
        let body: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
        for (longest, most) in [(length, length), (usize::MAX, length + LONGEST_PIECE)] {
            for part in [7, 10_000, 1_000_000] {
                let mut share = budget.share(Flow::default());
                let mut pieces = Pieces::default();
                for data in body.chunks(part) {
                    assert!(pieces.add(data, longest, &mut share).is_ok());
                }
                let taken = budget.used();
                assert!(
                    (length as u64..=most as u64).contains(&taken),
                    "{taken} for {length}"
                );
                assert_eq!(pieces.join(), body);
            }
        }
    }
}

fn image(bytes: &'static [u8]) -> Input {
    Input::Image(Bytes::from_static(bytes))
}

fn form(parts: &[(&str, &str)]) -> String {
    let part = |(name, content): &(&str, &str)| {
        format!("--XX\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{content}\r\n")
    };
    parts.iter().map(part).collect::<String>() + "--XX--\r\n"
}

#[tokio::test]
async fn raw_bodies_take_their_options_from_the_query() {
    let payload = read_with("image/png", Some("model=digits&top_k=3"), "picture")
        .await
        .unwrap();
    assert_eq!(payload.inputs, [image(b"picture")]);
    assert_eq!(payload.options.model.as_deref(), Some("digits"));
    assert_eq!(payload.options.top_k, Some(3));
    let payload = read_with("Text/Plain; charset=utf-8", None, "a film")
        .await
        .unwrap();
    assert_eq!(payload.inputs, [Input::Text("a film".into())]);
}

#[tokio::test]
async fn json_takes_one_input_or_a_list_in_every_shape() {
    for (body, expected) in [
        (r#"{"inputs": "a film"}"#, vec![Input::Text("a film".into())]),
        (
            r#"{"inputs": {"text": "a\tfilm"}}"#,
            vec![Input::Text("a\tfilm".into())],
        ),
        (
            r#"{"inputs": {"image": "cGljdHVyZQ=="}}"#,
            vec![image(b"picture")],
        ),
        (r#"{"inputs": {"image": "cGljdHVyZQ"}}"#, vec![image(b"picture")]),
        (
            r#"{"inputs": {"image": "cGljdHVy\u005aQ=="}}"#,
            vec![image(b"picture")],
        ),
        (
            r#"{"inputs": [{"image": "data:image/png;base64,cGljdHVyZQ=="}, "b"], "model": null}"#,
            vec![image(b"picture"), Input::Text("b".into())],
        ),
    ] {
        let payload = read_with("application/json", None, body).await.unwrap();
        assert_eq!(payload.inputs, expected, "{body}");
    }
}

#[tokio::test]
async fn long_json_is_read_like_short_json() {
    let text = "a film ".repeat(INLINE_JSON);
    let read = |body: String| read_up_to(u64::MAX, "application/json", None, body);
    let payload = read(format!(r#"{{"inputs": "{text}", "top_k": 3}}"#))
        .await
        .unwrap();
    assert_eq!(payload.options.top_k, Some(3));
    assert_eq!(payload.inputs, [Input::Text(text.clone())]);
    let error = read(format!(r#"{{"inputs": "{text}", "topk": 3}}"#))
        .await
        .unwrap_err();
    assert_eq!(error.code, Code::InvalidRequest);
    assert!(error.to_string().contains("topk"), "{error}");
}

#[tokio::test]
async fn multipart_takes_pictures_and_options_in_any_order() {
    let body = form(&[
        ("image", "one"),
        ("top_k", "2"),
        ("image", "two"),
        ("model", "digits"),
    ]);
    let payload = read_with("multipart/form-data; boundary=XX", None, body)
        .await
        .unwrap();
    assert_eq!(payload.inputs, [image(b"one"), image(b"two")]);
    assert_eq!(payload.options.top_k, Some(2));
    assert_eq!(payload.options.model.as_deref(), Some("digits"));
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let json = "application/json";
    let multipart = "multipart/form-data; boundary=XX";
    let cases: Vec<(&str, Option<&str>, String, Code, &str)> = vec![
        (
            "application/xml",
            None,
            "x".into(),
            Code::UnsupportedMediaType,
            "found \"application/xml\"",
        ),
        (
            "image/tiff",
            None,
            "x".into(),
            Code::UnsupportedMediaType,
            "image/png",
        ),
        (
            "multipart/form-data",
            None,
            "x".into(),
            Code::InvalidRequest,
            "boundary",
        ),
        (
            "image/png",
            Some("topk=3"),
            "x".into(),
            Code::InvalidRequest,
            "topk",
        ),
        (
            "image/png",
            Some("top_k=x"),
            "x".into(),
            Code::InvalidRequest,
            "top_k=x",
        ),
        (
            "image/png",
            Some("top_k=0"),
            "x".into(),
            Code::InvalidRequest,
            "top_k: expected at least 1",
        ),
        (
            "image/png",
            Some("timeout_ms=0"),
            "x".into(),
            Code::InvalidRequest,
            "timeout_ms",
        ),
        (
            "image/png",
            None,
            "x".repeat(1001),
            Code::PayloadTooLarge,
            "at most 1000 bytes",
        ),
        (json, None, "{".into(), Code::InvalidRequest, "body: EOF"),
        (json, None, "[]".into(), Code::InvalidRequest, "a JSON object"),
        (
            json,
            None,
            "{}".into(),
            Code::InvalidRequest,
            "missing field `inputs`",
        ),
        (
            json,
            None,
            r#"{"inputs": []}"#.into(),
            Code::InvalidRequest,
            "inputs: expected at least one",
        ),
        (
            json,
            None,
            r#"{"inputs": 7}"#.into(),
            Code::InvalidRequest,
            "inputs: invalid type",
        ),
        (
            json,
            None,
            r#"{"inputs": [{}]}"#.into(),
            Code::InvalidRequest,
            "inputs[0]: expected a string",
        ),
        (
            json,
            None,
            r#"{"inputs": {"img": ""}}"#.into(),
            Code::InvalidRequest,
            "unknown field `img`",
        ),
        (
            json,
            None,
            r#"{"inputs": [{"image": "a", "text": "b"}]}"#.into(),
            Code::InvalidRequest,
            "found two",
        ),
        (
            json,
            None,
            r#"{"inputs": ["a", {"image": "*"}]}"#.into(),
            Code::InvalidRequest,
            "inputs[1].image: expected base64",
        ),
        (
            json,
            None,
            r#"{"inputs": {"image": "data:image/png,abc"}}"#.into(),
            Code::InvalidRequest,
            "inputs[0].image: expected a data: URI with ;base64",
        ),
        (
            json,
            None,
            r#"{"inputs": "a"} x"#.into(),
            Code::InvalidRequest,
            "one JSON object",
        ),
        (
            json,
            None,
            r#"{"inputs": "a", "topk": 1}"#.into(),
            Code::InvalidRequest,
            "topk",
        ),
        (
            json,
            None,
            r#"{"inputs": "a", "top_k": -1}"#.into(),
            Code::InvalidRequest,
            "top_k: invalid value",
        ),
        (
            json,
            None,
            r#"{"inputs": "a", "timeout_ms": 1.5}"#.into(),
            Code::InvalidRequest,
            "timeout_ms: invalid value: 1.5, expected a whole number",
        ),
        (
            json,
            Some("model=a"),
            r#"{"inputs": "a", "model": "b"}"#.into(),
            Code::InvalidRequest,
            "model: expected the same",
        ),
        (json, None, "[".repeat(900), Code::InvalidRequest, "body"),
        (
            multipart,
            None,
            form(&[("picture", "x")]),
            Code::InvalidRequest,
            "found \"picture\"",
        ),
        (
            multipart,
            None,
            form(&[("top_k", "many")]),
            Code::InvalidRequest,
            "top_k: expected a whole number",
        ),
        (
            json,
            None,
            r#"{"inputs": "a", "priority": "urgent"}"#.into(),
            Code::InvalidRequest,
            "priority: unknown variant `urgent`",
        ),
        (
            multipart,
            None,
            form(&[("priority", "urgent")]),
            Code::InvalidRequest,
            "priority: expected high, normal or low",
        ),
        (
            multipart,
            None,
            form(&[("model", "a"), ("model", "b")]),
            Code::InvalidRequest,
            "found several",
        ),
        (
            multipart,
            None,
            form(&[("model", "a")]),
            Code::InvalidRequest,
            "image or text: expected at least one",
        ),
        (
            multipart,
            None,
            "--XX\r\nbroken".into(),
            Code::InvalidRequest,
            "multipart/form-data",
        ),
    ];
    for (content_type, query, body, code, part) in cases {
        let error = read_with(content_type, query, body.clone()).await.unwrap_err();
        assert_eq!(error.code, code, "{content_type} {query:?} {body}: {error}");
        assert!(
            error.detail.contains(part),
            "{content_type} {query:?} {body}: {error}"
        );
    }
    let error = read_with("text/plain", None, &b"\xff"[..]).await.unwrap_err();
    assert_eq!(error.code, Code::InvalidText);
}

proptest::proptest! {
    #[test]
    fn no_body_whatever_is_a_panic_or_a_fault_of_ours(
        content_type in proptest::sample::select(vec![
            "application/json", "multipart/form-data; boundary=XX", "text/plain", "text/plain;charset=\"UTF-8\"",
            "text/plain; charset=", "text/plain; charset=utf-16", "text/plain;;=;charset",
        ]),
        parts in proptest::collection::vec(proptest::sample::select(vec![
            "{", "}", "[", "]", ":", ",", "\"inputs\"", "\"image\"", "\"text\"", "\"model\"", "\"top_k\"", "null", "-1",
            "1e999", "\"data:image/png;base64,AAAA\"", "\"\\ud800\"", "\u{0}", "--XX", "--XX--", "\r\n", "\r\n\r\n",
            "Content-Disposition: form-data; name=\"image\"", "Content-Disposition: form-data; name=\"top_k\"",
            "Content-Disposition: form-data; name=\"text\"", "Content-Type: text/plain; charset=koi8-r", "\u{feff}", "<br />", "🍌",
        ]), 0..40),
        noise in proptest::collection::vec(proptest::num::u8::ANY, 0..20),
    ) {
        let mut body = parts.concat().into_bytes();
        body.extend(noise);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        match runtime.block_on(read_with(content_type, None, body)) {
            Ok(payload) => proptest::prop_assert!(!payload.inputs.is_empty()),
            Err(error) => proptest::prop_assert!(
                matches!(
                    error.code,
                    Code::InvalidRequest | Code::InvalidText | Code::PayloadTooLarge | Code::UnsupportedMediaType
                ),
                "{}", error
            ),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_end_is_given_up_at_the_deadline() {
    let body = Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
    let error = read_with("image/png", None, body).await.unwrap_err();
    assert_eq!(error.code, Code::DeadlineExceeded);
}
