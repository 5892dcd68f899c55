//! One connection, and one request and its response on it.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;
use tokio::time::Sleep;

use crate::response::{Response, ResponseReader};
use crate::tally::Failure;

/// Free bytes of the buffer before each read. Most responses are far smaller.
const READ: usize = 16 * 1024;

/// A connection that is opened when it is needed, and again after it broke.
#[derive(Debug)]
pub(crate) struct Connection {
    address: SocketAddr,
    timeout: Duration,
    stream: Option<TcpStream>,
    buffer: BytesMut,
    reader: ResponseReader,
    /// One timer for all requests. It is moved only when it fires, because moving it for every
    /// request costs more than firing early once per timeout.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Connection {
    pub(crate) fn new(address: SocketAddr, timeout: Duration) -> Self {
        Self {
            address,
            timeout,
            stream: None,
            buffer: BytesMut::with_capacity(READ),
            reader: ResponseReader::new(),
            timer: None,
        }
    }

    /// Forgets a connection that the server closed while it was idle, so that the next request does
    /// not fail for it.
    pub(crate) fn drop_if_stale(&mut self) {
        if let Some(stream) = &self.stream {
            let read = stream.try_read(&mut [0]);
            let is_open = matches!(read, Err(error) if error.kind() == ErrorKind::WouldBlock);
            if !is_open {
                self.stream = None;
            }
        }
    }

    /// Sends a request and waits for its response, or for the timeout.
    pub(crate) async fn exchange(&mut self, request: &Bytes) -> Result<Response, Failure> {
        let deadline = (Instant::now() + self.timeout).into();
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        let too_late = async {
            loop {
                timer.as_mut().await;
                if tokio::time::Instant::now() >= deadline {
                    return;
                }
                timer.as_mut().reset(deadline);
            }
        };
        let talk = async {
            let stream = match &mut self.stream {
                Some(stream) => stream,
                empty => {
                    self.buffer.clear();
                    self.reader = ResponseReader::new();
                    empty.insert(connect(self.address).await?)
                }
            };
            talk(stream, &mut self.buffer, &mut self.reader, request).await
        };
        let outcome = tokio::select! {
            biased;
            outcome = talk => outcome,
            () = too_late => Err(Failure::Timeout),
        };
        if !matches!(&outcome, Ok(response) if response.reusable) {
            self.stream = None;
        }
        outcome
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream, Failure> {
    let stream = TcpStream::connect(address).await.map_err(|_| Failure::Connect)?;
    stream.set_nodelay(true).map_err(|_| Failure::Connect)?;
    Ok(stream)
}

/// Sends a request and reads its response, which may come before the request is sent in full.
async fn talk(
    stream: &mut TcpStream,
    buffer: &mut BytesMut,
    reader: &mut ResponseReader,
    request: &[u8],
) -> Result<Response, Failure> {
    let (mut receiving, mut sending) = stream.split();
    let sent = sending.try_write(request).unwrap_or(0);
    let mut response = pin!(receive(&mut receiving, buffer, reader));
    if sent < request.len() {
        tokio::select! {
            biased;
            // The server rejected the request before it had read all of it. The rest of the request
            // cannot be taken back, so no other request can follow on this connection.
            early = &mut response => {
                return early.map(|response| Response { reusable: false, ..response });
            }
            // If the write fails, the response tells why.
            _ = sending.write_all(&request[sent..]) => {}
        }
    }
    response.await
}

async fn receive(
    stream: &mut ReadHalf<'_>,
    buffer: &mut BytesMut,
    reader: &mut ResponseReader,
) -> Result<Response, Failure> {
    loop {
        buffer.reserve(READ);
        match stream.read_buf(buffer).await {
            Ok(0) => return reader.closed().ok_or(Failure::Closed),
            Ok(_) => {}
            Err(_) => return Err(Failure::Broken),
        }
        if let Some(response) = reader.advance(buffer).map_err(|_| Failure::Malformed)? {
            // There was one request, so bytes behind its response are an error of the server.
            return if buffer.is_empty() {
                Ok(response)
            } else {
                Err(Failure::Malformed)
            };
        }
    }
}
