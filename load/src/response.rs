//! Reads HTTP/1.1 answers, as far as a load generator must: the status, where the body ends, and whether the
//! connection can be used again.

use bytes::{Buf, Bytes, BytesMut};
use httparse::Status;

/// Largest head, chunk-size line or trailer that is waited for.
const MAX_HEAD: usize = 64 * 1024;
const MAX_HEADERS: usize = 64;

/// One complete answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// All bytes of it, head and framing included.
    pub bytes: u64,
    /// Whether the server keeps the connection open.
    pub reusable: bool,
    /// The body, if the reader was told to keep it.
    pub body: Bytes,
}

/// Bytes that are no HTTP/1.1 answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected an HTTP/1.1 answer, found {0}")]
pub struct Malformed(String);

/// How far an answer has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Head,
    /// So many bytes of the body are missing.
    Length(u64),
    ChunkSize,
    /// So many bytes of the chunk are missing.
    Chunk(u64),
    ChunkEnd,
    Trailer,
    /// The body ends where the connection does.
    UntilClose,
}

/// How the head says that the body is framed.
#[derive(Debug)]
struct Head {
    length: usize,
    status: u16,
    reusable: bool,
    body: State,
}

/// Reads one answer after the other off one connection.
#[derive(Debug)]
pub struct ResponseReader {
    state: State,
    status: u16,
    bytes: u64,
    reusable: bool,
    body: Option<BytesMut>,
}

impl Default for ResponseReader {
    fn default() -> Self {
        Self::new()
    }
}

impl ResponseReader {
    /// A reader that counts bodies and forgets them.
    pub fn new() -> Self {
        Self {
            state: State::Head,
            status: 0,
            bytes: 0,
            reusable: true,
            body: None,
        }
    }

    /// A reader that keeps bodies.
    pub fn keeping_bodies() -> Self {
        Self {
            body: Some(BytesMut::new()),
            ..Self::new()
        }
    }

    /// Takes out of `buffer` what belongs to the answer, and gives the answer once it is complete.
    pub fn advance(&mut self, buffer: &mut BytesMut) -> Result<Option<Response>, Malformed> {
        loop {
            match self.state {
                State::Head => {
                    let Some(head) = parse_head(buffer)? else {
                        return Ok(None);
                    };
                    self.skip(buffer, head.length);
                    // 100 Continue and the like announce the answer, they are not it.
                    if head.status >= 200 {
                        self.status = head.status;
                        self.reusable = head.reusable;
                        self.state = head.body;
                    }
                }
                State::Length(missing) => {
                    let missing = self.take(buffer, missing);
                    if missing == 0 {
                        return Ok(Some(self.finish()));
                    }
                    self.state = State::Length(missing);
                    return Ok(None);
                }
                State::ChunkSize => match httparse::parse_chunk_size(buffer) {
                    Ok(Status::Complete((length, size))) => {
                        self.skip(buffer, length);
                        self.state = if size == 0 {
                            State::Trailer
                        } else {
                            State::Chunk(size)
                        };
                    }
                    Ok(Status::Partial) if buffer.len() < MAX_HEAD => return Ok(None),
                    _ => return Err(Malformed("a chunk without a size".to_owned())),
                },
                State::Chunk(missing) => {
                    let missing = self.take(buffer, missing);
                    self.state = if missing == 0 {
                        State::ChunkEnd
                    } else {
                        State::Chunk(missing)
                    };
                    if missing > 0 {
                        return Ok(None);
                    }
                }
                State::ChunkEnd => match buffer.get(..2) {
                    None => return Ok(None),
                    Some(b"\r\n") => {
                        self.skip(buffer, 2);
                        self.state = State::ChunkSize;
                    }
                    Some(_) => return Err(Malformed("a chunk longer than its size".to_owned())),
                },
                State::Trailer => {
                    let Some(end) = buffer.windows(2).position(|pair| pair == b"\r\n") else {
                        return if buffer.len() < MAX_HEAD {
                            Ok(None)
                        } else {
                            Err(Malformed("an endless trailer".to_owned()))
                        };
                    };
                    self.skip(buffer, end + 2);
                    if end == 0 {
                        return Ok(Some(self.finish()));
                    }
                }
                State::UntilClose => {
                    self.take(buffer, u64::MAX);
                    return Ok(None);
                }
            }
        }
    }

    /// The server closed the connection: the answer, if that is what ends it.
    pub fn closed(&mut self) -> Option<Response> {
        (self.state == State::UntilClose).then(|| self.finish())
    }

    fn finish(&mut self) -> Response {
        let answer = Response {
            status: self.status,
            bytes: self.bytes,
            reusable: self.reusable,
            body: self
                .body
                .as_mut()
                .map(|body| body.split().freeze())
                .unwrap_or_default(),
        };
        self.state = State::Head;
        self.bytes = 0;
        answer
    }

    fn skip(&mut self, buffer: &mut BytesMut, length: usize) {
        buffer.advance(length);
        self.bytes += length as u64;
    }

    /// Takes up to `missing` bytes of the body, and gives how many are still missing.
    fn take(&mut self, buffer: &mut BytesMut, missing: u64) -> u64 {
        let here = usize::try_from(missing).unwrap_or(usize::MAX).min(buffer.len());
        if let Some(body) = &mut self.body {
            body.extend_from_slice(&buffer[..here]);
        }
        self.skip(buffer, here);
        missing - here as u64
    }
}

fn parse_head(buffer: &[u8]) -> Result<Option<Head>, Malformed> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(buffer) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) if buffer.len() < MAX_HEAD => return Ok(None),
        Ok(Status::Partial) => return Err(Malformed(format!("a head of more than {MAX_HEAD} bytes"))),
        Err(error) => return Err(Malformed(format!("a head with an {error}"))),
    };
    let status = response.code.unwrap_or_default();
    let mut reusable = response.version == Some(1);
    let mut content_length = None;
    let mut chunked = false;
    let mut encoded = false;
    for header in &*response.headers {
        if header.name.eq_ignore_ascii_case("content-length") {
            let value = std::str::from_utf8(header.value).ok();
            let value = value
                .filter(|value| value.bytes().all(|byte| byte.is_ascii_digit()))
                .and_then(|value| value.parse::<u64>().ok());
            if value.is_none() || content_length.is_some_and(|other| Some(other) != value) {
                return Err(Malformed("a content-length that is no length".to_owned()));
            }
            content_length = value;
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            encoded = true;
            chunked = tokens(header.value).last().is_some_and(|last| last == "chunked");
        } else if header.name.eq_ignore_ascii_case("connection") {
            for token in tokens(header.value) {
                match token.as_str() {
                    "close" => reusable = false,
                    "keep-alive" => reusable = true,
                    _ => {}
                }
            }
        }
    }
    // In the order of RFC 9112, section 6.3.
    let body = if matches!(status, 204 | 304) {
        State::Length(0)
    } else if chunked {
        State::ChunkSize
    } else if encoded {
        State::UntilClose
    } else {
        content_length.map_or(State::UntilClose, State::Length)
    };
    Ok(Some(Head {
        length,
        status,
        reusable: reusable && body != State::UntilClose,
        body,
    }))
}

fn tokens(value: &[u8]) -> impl Iterator<Item = String> {
    value
        .split(|&byte| byte == b',')
        .map(|token| String::from_utf8_lossy(token.trim_ascii()).to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answers in `text`, fed in pieces of `step` bytes; the connection closes behind it.
    fn read(text: &str, step: usize) -> Result<Vec<Response>, Malformed> {
        let mut reader = ResponseReader::keeping_bodies();
        let mut buffer = BytesMut::new();
        let mut answers = Vec::new();
        for piece in text.as_bytes().chunks(step) {
            buffer.extend_from_slice(piece);
            while let Some(answer) = reader.advance(&mut buffer)? {
                answers.push(answer);
                if buffer.is_empty() {
                    break;
                }
            }
        }
        answers.extend(reader.closed());
        Ok(answers)
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
    fn a_body_of_a_known_length_in_any_pieces() {
        let answer = one("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
        assert_eq!((answer.status, answer.reusable), (200, true));
        assert_eq!(answer.body, "hello");
    }

    #[test]
    fn chunks_with_extensions_and_trailers() {
        let answer = one(
            "HTTP/1.1 503 Service Unavailable\r\ntransfer-encoding: gzip, Chunked\r\n\r\n\
             3;x=1\r\nabc\r\nA\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n",
        );
        assert_eq!((answer.status, answer.reusable), (503, true));
        assert_eq!(answer.body, "abc0123456789");
    }

    #[test]
    fn a_body_that_ends_with_the_connection() {
        let answer = one("HTTP/1.1 200 OK\r\n\r\nhello");
        assert_eq!(answer.body, "hello");
        assert!(!answer.reusable);
    }

    #[test]
    fn answers_without_a_body() {
        assert_eq!(one("HTTP/1.1 204 No Content\r\n\r\n").status, 204);
        assert_eq!(one("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").bytes, 38);
    }

    #[test]
    fn an_interim_answer_is_not_the_answer() {
        let answer = one(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        );
        assert_eq!((answer.status, answer.reusable), (413, false));
    }

    #[test]
    fn http_1_0_closes_unless_it_says_otherwise() {
        assert!(!one("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx").reusable);
        assert!(one("HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: Keep-Alive\r\n\r\nx").reusable);
    }

    #[test]
    fn one_answer_after_the_other() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na".repeat(3);
        assert_eq!(read(&text, 5).unwrap().len(), 3);
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
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
    fn a_connection_that_closes_early_gives_no_answer() {
        for text in [
            "",
            "HTTP/1.1 200 OK\r\nContent-Le",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        ] {
            assert_eq!(read(text, 4).unwrap(), [], "{text:?}");
        }
    }
}
