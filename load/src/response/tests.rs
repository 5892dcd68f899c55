use bytes::BytesMut;

use super::{MAX_HEAD, Malformed, Response, ResponseReader};

/// The responses in `text`, fed in pieces of `step` bytes; then the connection is closed.
fn read(text: &str, step: usize) -> Result<Vec<Response>, Malformed> {
    let mut reader = ResponseReader::keeping_bodies();
    let mut buffer = BytesMut::new();
    let mut responses = Vec::new();
    for piece in text.as_bytes().chunks(step) {
        buffer.extend_from_slice(piece);
        while let Some(response) = reader.advance(&mut buffer)? {
            responses.push(response);
            if buffer.is_empty() {
                break;
            }
        }
    }
    responses.extend(reader.closed());
    Ok(responses)
}

fn one(text: &str) -> Response {
    let whole = read(text, usize::MAX).unwrap();
    for step in [1, 2, 3, 7] {
        assert_eq!(read(text, step).unwrap(), whole, "in pieces of {step}");
    }
    assert_eq!(whole.len(), 1, "{whole:?}");
    assert_eq!(whole[0].bytes, text.len() as u64);
    whole[0].clone()
}

#[test]
fn a_body_of_known_length_is_read_in_pieces_of_any_size() {
    let response = one("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!((response.status, response.reusable), (200, true));
    assert_eq!(response.body, "hello");
}

#[test]
fn chunks_with_extensions_and_trailers_are_read() {
    let response = one(
        "HTTP/1.1 503 Service Unavailable\r\ntransfer-encoding: gzip, Chunked\r\n\r\n\
         3;x=1\r\nabc\r\nA\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n",
    );
    assert_eq!((response.status, response.reusable), (503, true));
    assert_eq!(response.body, "abc0123456789");
}

#[test]
fn closing_the_connection_ends_a_body_without_a_length() {
    let response = one("HTTP/1.1 200 OK\r\n\r\nhello");
    assert_eq!(response.body, "hello");
    assert!(!response.reusable);
}

#[test]
fn a_response_may_have_no_body() {
    assert_eq!(one("HTTP/1.1 204 No Content\r\n\r\n").status, 204);
    assert_eq!(one("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").bytes, 38);
}

#[test]
fn an_interim_response_is_skipped() {
    let response = one(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    );
    assert_eq!((response.status, response.reusable), (413, false));
}

#[test]
fn http_1_0_closes_the_connection_unless_it_says_keep_alive() {
    assert!(!one("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx").reusable);
    assert!(one("HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: Keep-Alive\r\n\r\nx").reusable);
}

#[test]
fn one_reader_reads_many_responses() {
    let text = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na".repeat(3);
    assert_eq!(read(&text, 5).unwrap().len(), 3);
}

#[test]
fn bytes_that_are_not_http_are_an_error() {
    for text in [
        "SSH-2.0-OpenSSH\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n",
    ] {
        assert!(read(text, usize::MAX).is_err(), "{text:?}");
    }
    assert!(read(&format!("HTTP/1.1 200 OK\r\nX: {}", "y".repeat(MAX_HEAD)), 4096).is_err());
}

#[test]
fn a_connection_that_closes_early_gives_no_response() {
    for text in [
        "",
        "HTTP/1.1 200 OK\r\nContent-Le",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ] {
        assert_eq!(read(text, 4).unwrap(), [], "{text:?}");
    }
}
