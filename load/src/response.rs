//! Reads HTTP/1.1 responses as far as a load generator must: the status, the end of the body, and
//! whether the connection can be used again.
//!
//! There is a reader here, and not an HTTP client, because the load generator shares the CPUs with
//! the server under test: with 64 connections a request and its response cost it 8.5 µs of CPU
//! time, and hyper's client 11 to 13 µs without counting anything; a small request costs the server
//! 26 µs. The head itself is parsed by `httparse`, as in hyper.

use bytes::{Buf, Bytes, BytesMut};
use httparse::Status;

#[cfg(test)]
mod tests;

/// Largest head, chunk-size line or trailer that is waited for.
const MAX_HEAD: usize = 64 * 1024;
const MAX_HEADERS: usize = 64;

/// A complete response.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// Length of the whole response in bytes, head and framing included.
    pub bytes: u64,
    /// Whether the server keeps the connection open.
    pub reusable: bool,
    /// The body without its framing. Empty unless the reader keeps bodies.
    pub body: Bytes,
}

/// Bytes that are not an HTTP/1.1 response.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected an HTTP/1.1 response, found {0}")]
pub struct Malformed(String);

/// The part of a response that comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Head,
    /// A body of a known length, with the number of bytes that are missing.
    Length(u64),
    ChunkSize,
    /// A chunk, with the number of bytes that are missing.
    Chunk(u64),
    ChunkEnd,
    Trailer,
    /// A body that ends where the connection does.
    UntilClose,
}

/// What one step of the reader came to.
enum Step {
    Next,
    NeedsBytes,
    Complete,
}

/// The parts of a head that matter here.
#[derive(Debug)]
struct Head {
    length: usize,
    status: u16,
    reusable: bool,
    body: State,
}

/// Reads the responses of one connection, one after the other, from bytes in pieces of any size.
///
/// ```
/// use bytes::BytesMut;
/// use load::ResponseReader;
///
/// let mut reader = ResponseReader::keeping_bodies();
/// let mut buffer = BytesMut::from("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe");
/// assert_eq!(reader.advance(&mut buffer)?, None);
/// buffer.extend_from_slice(b"llo");
/// let response = reader.advance(&mut buffer)?.unwrap();
/// assert_eq!((response.status, &response.body[..]), (200, &b"hello"[..]));
/// # Ok::<(), load::Malformed>(())
/// ```
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
    /// A reader that counts the bytes of bodies and drops them.
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

    /// Takes from `buffer` what belongs to the current response, and returns the response once it
    /// is complete. `None` means that more bytes are needed. Bytes of the next response stay in
    /// `buffer`.
    ///
    /// # Errors
    ///
    /// If the bytes are not an HTTP/1.1 response. The connection cannot be read any further then.
    pub fn advance(&mut self, buffer: &mut BytesMut) -> Result<Option<Response>, Malformed> {
        loop {
            match self.step(buffer)? {
                Step::Next => {}
                Step::NeedsBytes => return Ok(None),
                Step::Complete => return Ok(Some(self.finish())),
            }
        }
    }

    /// To be called when the server closed the connection: the response, if closing ends its body.
    pub fn closed(&mut self) -> Option<Response> {
        (self.state == State::UntilClose).then(|| self.finish())
    }

    fn step(&mut self, buffer: &mut BytesMut) -> Result<Step, Malformed> {
        match self.state {
            State::Head => self.read_head(buffer),
            State::Length(missing) => {
                let missing = self.take(buffer, missing);
                self.state = State::Length(missing);
                Ok(if missing == 0 {
                    Step::Complete
                } else {
                    Step::NeedsBytes
                })
            }
            State::ChunkSize => self.read_chunk_size(buffer),
            State::Chunk(missing) => {
                let missing = self.take(buffer, missing);
                if missing > 0 {
                    self.state = State::Chunk(missing);
                    return Ok(Step::NeedsBytes);
                }
                self.state = State::ChunkEnd;
                Ok(Step::Next)
            }
            State::ChunkEnd => match buffer.get(..2) {
                None => Ok(Step::NeedsBytes),
                Some(b"\r\n") => {
                    self.skip(buffer, 2);
                    self.state = State::ChunkSize;
                    Ok(Step::Next)
                }
                Some(_) => Err(Malformed("a chunk longer than its size".to_owned())),
            },
            State::Trailer => self.read_trailer(buffer),
            State::UntilClose => {
                self.take(buffer, u64::MAX);
                Ok(Step::NeedsBytes)
            }
        }
    }

    fn read_head(&mut self, buffer: &mut BytesMut) -> Result<Step, Malformed> {
        let Some(head) = parse_head(buffer)? else {
            return Ok(Step::NeedsBytes);
        };
        self.skip(buffer, head.length);
        // An interim response (100 Continue) is followed by the real one.
        if head.status >= 200 {
            self.status = head.status;
            self.reusable = head.reusable;
            self.state = head.body;
        }
        Ok(Step::Next)
    }

    fn read_chunk_size(&mut self, buffer: &mut BytesMut) -> Result<Step, Malformed> {
        match httparse::parse_chunk_size(buffer) {
            Ok(Status::Complete((length, size))) => {
                self.skip(buffer, length);
                self.state = if size == 0 {
                    State::Trailer
                } else {
                    State::Chunk(size)
                };
                Ok(Step::Next)
            }
            Ok(Status::Partial) if buffer.len() < MAX_HEAD => Ok(Step::NeedsBytes),
            _ => Err(Malformed("a chunk without a size".to_owned())),
        }
    }

    /// Reads one line of the trailer. An empty line ends it, and the response.
    fn read_trailer(&mut self, buffer: &mut BytesMut) -> Result<Step, Malformed> {
        match buffer.windows(2).position(|pair| pair == b"\r\n") {
            Some(end) => {
                self.skip(buffer, end + 2);
                Ok(if end == 0 { Step::Complete } else { Step::Next })
            }
            None if buffer.len() < MAX_HEAD => Ok(Step::NeedsBytes),
            None => Err(Malformed("an endless trailer".to_owned())),
        }
    }

    fn finish(&mut self) -> Response {
        let response = Response {
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
        response
    }

    fn skip(&mut self, buffer: &mut BytesMut, length: usize) {
        buffer.advance(length);
        self.bytes += length as u64;
    }

    /// Takes up to `missing` bytes of the body, and returns how many are still missing.
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
        Err(error) => return Err(Malformed(format!("an invalid head ({error})"))),
    };
    let status = response.code.unwrap_or_default();
    let mut reusable = response.version == Some(1);
    let mut content_length = None;
    let mut chunked = false;
    let mut encoded = false;
    for header in &*response.headers {
        if header.name.eq_ignore_ascii_case("content-length") {
            let length = parse_length(header.value)?;
            if content_length.is_some_and(|other| other != length) {
                return Err(Malformed("two different values of content-length".to_owned()));
            }
            content_length = Some(length);
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
    // The order of RFC 9112, section 6.3.
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

fn parse_length(value: &[u8]) -> Result<u64, Malformed> {
    std::str::from_utf8(value)
        .ok()
        // `parse` alone would accept a sign.
        .filter(|value| value.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|value| value.parse().ok())
        .ok_or_else(|| Malformed("a content-length that is not a number".to_owned()))
}

/// The elements of a comma-separated header value, in lower case.
fn tokens(value: &[u8]) -> impl Iterator<Item = String> {
    value
        .split(|&byte| byte == b',')
        .map(|token| String::from_utf8_lossy(token.trim_ascii()).to_ascii_lowercase())
}
