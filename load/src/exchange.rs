use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::BytesMut;

use crate::error::Error;
use crate::response::{Response, ResponseReader};

/// Sends one request on a new connection and waits for the response, whose body is kept.
///
/// Meant for a request before, beside or after a load; a load itself is sent by
/// [`run`](fn@crate::run).
///
/// # Errors
///
/// If the server accepts no connection, closes it without a response, sends something other than an
/// HTTP/1.1 response, or is silent for `timeout`.
pub fn exchange(address: SocketAddr, request: &[u8], timeout: Duration) -> Result<Response, Error> {
    let mut stream =
        TcpStream::connect_timeout(&address, timeout).map_err(|source| Error::Connect { address, source })?;
    stream
        .set_read_timeout(Some(timeout))
        .and_then(|()| stream.set_write_timeout(Some(timeout)))
        .and_then(|()| exchange_on(&mut stream, request))
        .map_err(|source| Error::NoResponse { address, source })
}

/// Sends one request on a connection and waits for the response.
///
/// # Errors
///
/// Those of [`receive`]; or why the request could not be sent, if there was no response either.
pub fn exchange_on(stream: &mut TcpStream, request: &[u8]) -> io::Result<Response> {
    // A server may reject a request before it has read all of it, so a response counts more than
    // whether the request was sent in full.
    let sent = stream.write_all(request);
    receive(stream).or_else(|error| sent.and(Err(error)))
}

/// Waits for a response to a request that was sent on this connection.
///
/// # Errors
///
/// Those of the connection; [`ErrorKind::UnexpectedEof`] if the server closes it before the end of
/// a response; [`ErrorKind::InvalidData`] if it sends something other than an HTTP/1.1 response.
pub fn receive(stream: &mut TcpStream) -> io::Result<Response> {
    let mut reader = ResponseReader::keeping_bodies();
    let mut buffer = BytesMut::new();
    let mut piece = [0; 16 * 1024];
    loop {
        let length = stream.read(&mut piece)?;
        if length == 0 {
            return reader.closed().ok_or_else(|| ErrorKind::UnexpectedEof.into());
        }
        buffer.extend_from_slice(&piece[..length]);
        let response = reader
            .advance(&mut buffer)
            .map_err(|malformed| io::Error::new(ErrorKind::InvalidData, malformed))?;
        if let Some(response) = response {
            return Ok(response);
        }
    }
}
