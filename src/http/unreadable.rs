//! Problem documents for requests that hyper cannot parse.
//!
//! hyper responds to them itself, with a status and no body, and closes the connection; the service
//! never sees them. This wrapper around the stream replaces such a response. Bytes that hyper
//! writes while no response of the service is being written are hyper's own.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http::error::{Code, Error};

/// Makes the headers and body that replace those of hyper's own response, for this client and
/// status.
pub type Replace = Arc<dyn Fn(SocketAddr, StatusCode) -> (HeaderMap, Bytes) + Send + Sync>;

/// The error of a request that hyper refused with this status.
pub fn error(status: StatusCode, max_header_size: u64) -> Error {
    match status {
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => Error::new(
            Code::HeaderTooLarge,
            format!("head: expected at most {max_header_size} bytes and 100 headers, found more"),
        ),
        StatusCode::URI_TOO_LONG => {
            Error::new(Code::UriTooLong, "path: expected at most 65534 bytes, found more")
        }
        _ => Error::invalid_request(
            "head: invalid HTTP/1.1 request head: malformed method, path, version, header or Content-Length",
        ),
    }
}

/// Whether a response of the service is being written.
#[derive(Debug, Default)]
pub struct Answering(AtomicBool);

impl Answering {
    /// The service has returned a response to hyper.
    pub fn begin(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// hyper has written everything.
    fn end(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

pub struct Readable<S> {
    inner: S,
    peer: SocketAddr,
    answering: Arc<Answering>,
    replace: Option<Replace>,
    /// The rest of the replacement that is being written.
    replacement: Option<Bytes>,
}

impl<S> fmt::Debug for Readable<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readable").finish_non_exhaustive()
    }
}

impl<S> Readable<S> {
    /// `answering.begin()` must be called for each response before hyper gets it.
    pub fn new(inner: S, peer: SocketAddr, answering: Arc<Answering>, replace: Option<Replace>) -> Self {
        Self {
            inner,
            peer,
            answering,
            replace,
            replacement: None,
        }
    }

    /// Whether these bytes are replaced.
    fn replaces(&mut self, bytes: &[u8]) -> bool {
        if self.replacement.is_some() {
            return true;
        }
        if self.answering.is_on() {
            return false;
        }
        if let (Some(replace), Some(status)) = (&self.replace, refusal(bytes)) {
            let (headers, body) = replace(self.peer, status);
            self.replacement = Some(with(bytes, &headers, &body));
        }
        self.replacement.is_some()
    }
}

/// The status of a response that hyper made itself.
fn refusal(bytes: &[u8]) -> Option<StatusCode> {
    let status = bytes.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
    let status = StatusCode::from_bytes(status).ok()?;
    (status.is_client_error() && bytes.ends_with(b"\r\n\r\n")).then_some(status)
}

/// Replaces the headers and the body of hyper's response. Keeps its status line and date.
fn with(answer: &[u8], headers: &HeaderMap, body: &[u8]) -> Bytes {
    let mut text = Vec::with_capacity(1024);
    let lines = answer.split_inclusive(|&byte| byte == b'\n');
    for line in lines.filter(|line| line.starts_with(b"HTTP/1.1 ") || line.starts_with(b"date: ")) {
        text.extend_from_slice(line);
    }
    for (name, value) in headers {
        text.extend_from_slice(name.as_ref());
        text.extend_from_slice(b": ");
        text.extend_from_slice(value.as_bytes());
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
    text.extend_from_slice(body);
    text.into()
}

impl<S: AsyncWrite + Unpin> Readable<S> {
    /// Writes the replacement, and then reports hyper's bytes as written.
    fn poll_replacement(&mut self, cx: &mut Context<'_>, instead_of: usize) -> Poll<io::Result<usize>> {
        while let Some(rest) = self.replacement.as_mut().filter(|rest| !rest.is_empty()) {
            let count = ready!(Pin::new(&mut self.inner).poll_write(cx, rest))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let _ = rest.split_to(count);
        }
        self.replacement = None;
        Poll::Ready(Ok(instead_of))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Readable<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Readable<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.replaces(bytes) {
            return self.poll_replacement(cx, bytes.len());
        }
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match slices {
            // hyper's own responses have no body, so they are a single slice.
            [only] if self.replaces(only) => self.poll_replacement(cx, only.len()),
            _ => Pin::new(&mut self.inner).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    /// hyper calls this when it has nothing left to write.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.answering.end();
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    const BARE: &[u8] =
        b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\ndate: Mon\r\n\r\n";

    /// What arrives of these writes through a stream that takes 7 bytes at a time.
    async fn written(answering: &Arc<Answering>, writes: &[&[u8]]) -> String {
        let (near, mut far) = tokio::io::duplex(7);
        let replace: Replace = Arc::new(|_, status| {
            let headers = HeaderMap::from_iter([(
                axum::http::header::CONTENT_TYPE,
                axum::http::HeaderValue::from_static("text/plain"),
            )]);
            (headers, Bytes::from(format!("refused with {}", status.as_u16())))
        });
        let mut stream = Readable::new(
            near,
            "127.0.0.1:1".parse().unwrap(),
            Arc::clone(answering),
            Some(replace),
        );
        let writing = async move {
            for bytes in writes {
                stream.write_all(bytes).await.unwrap();
            }
        };
        let mut text = String::new();
        let reading = tokio::io::AsyncReadExt::read_to_string(&mut far, &mut text);
        tokio::join!(writing, async { reading.await.unwrap() });
        text
    }

    #[tokio::test]
    async fn an_answer_of_hypers_own_is_replaced() {
        let answering = Arc::default();
        assert_eq!(
            written(&answering, &[BARE]).await,
            "HTTP/1.1 400 Bad Request\r\ndate: Mon\r\ncontent-type: text/plain\r\ncontent-length: 16\r\n\r\nrefused with 400"
        );
        let other = b"HTTP/1.1 100 Continue\r\n\r\n";
        assert_eq!(written(&answering, &[other]).await.as_bytes(), other);
    }

    #[tokio::test]
    async fn an_answer_of_the_service_stays_as_it_is_until_it_is_written() {
        let answering = Arc::<Answering>::default();
        answering.begin();
        assert_eq!(written(&answering, &[BARE]).await.as_bytes(), BARE);
        answering.end();
        assert_ne!(written(&answering, &[BARE]).await.as_bytes(), BARE);
    }
}
