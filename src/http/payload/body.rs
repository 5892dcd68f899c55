//! Reading a request's body within its limits of length, time and memory.

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_LENGTH;
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::time::{Instant, timeout_at};

use crate::budget::Share;
use crate::http::error::{Code, Error};

/// A body that arrives in several chunks is kept in pieces. Each piece is as long as all pieces
/// before it together, within these lengths.
const FIRST_PIECE: usize = 16 * 1024;
pub(super) const LONGEST_PIECE: usize = 256 * 1024;

pub(super) async fn read(
    headers: &HeaderMap,
    body: Body,
    max_body: u64,
    deadline: Instant,
    memory: &mut Share,
) -> Result<Bytes, Error> {
    let too_long = |found: &str| {
        Error::new(
            Code::PayloadTooLarge,
            format!("body: expected at most {max_body} bytes, found {found}"),
        )
    };
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if let Some(length) = announced.filter(|length| *length > max_body) {
        return Err(refuse(too_long(&length.to_string()), body, max_body, deadline).await);
    }
    let limit = usize::try_from(max_body).unwrap_or(usize::MAX);
    let longest = announced.map_or(limit, |length| limit.min(length as usize));
    match timeout_at(deadline, collect(Limited::new(body, limit), longest, memory)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(Broken::NoMemory)) => {
            let error = Error::new(
                Code::QueueFull,
                format!(
                    "this client's requests in flight use its share of the {} bytes for request bodies (body_memory)",
                    memory.limit()
                ),
            );
            Err(error.with_body_unread())
        }
        Ok(Err(Broken::Body(error))) if error.is::<LengthLimitError>() => {
            Err(too_long("more").with_body_unread())
        }
        Ok(Err(Broken::Body(error))) => {
            Err(Error::invalid_request(format!("body: incomplete: {error}")).with_body_unread())
        }
        Err(_) => Err(Error::new(
            Code::DeadlineExceeded,
            "body: not received by the request's deadline",
        )
        .with_body_unread()),
    }
}

pub(super) enum Broken {
    Body(axum::BoxError),
    NoMemory,
}

/// Collects the body in contiguous memory. If the chunks were kept as they are, a chunk of one byte
/// would take forty times its length.
async fn collect(mut body: Limited<Body>, longest: usize, share: &mut Share) -> Result<Bytes, Broken> {
    let mut first = Bytes::new();
    let mut pieces = Pieces::default();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(Broken::Body)?.into_data() else {
            continue;
        };
        if first.is_empty() && pieces.length == 0 {
            // Most bodies arrive in one frame, which needs no copy.
            if !share.grow_to(data.len() as u64) {
                return Err(Broken::NoMemory);
            }
            first = data;
            continue;
        }
        pieces.add(&std::mem::take(&mut first), longest, share)?;
        pieces.add(&data, longest, share)?;
    }
    if first.is_empty() {
        Ok(pieces.join())
    } else {
        Ok(first)
    }
}

/// The part of a body that has arrived.
///
/// It is kept in pieces, because a vector that grows needs its old and its new memory at the same
/// time: a client that sends slowly would use twice the memory that is counted.
#[derive(Default)]
pub(super) struct Pieces {
    pieces: Vec<Vec<u8>>,
    length: usize,
}

impl Pieces {
    /// Starts a new piece, and takes memory for it from `share`, whenever the last one is full.
    pub(super) fn add(&mut self, mut data: &[u8], longest: usize, share: &mut Share) -> Result<(), Broken> {
        while !data.is_empty() {
            let room = self
                .pieces
                .last()
                .map_or(0, |piece| piece.capacity() - piece.len());
            if room == 0 {
                // Not longer than the rest of the body, unless the client sends more than it
                // announced.
                let left = longest.saturating_sub(self.length).max(data.len());
                let capacity = self.length.clamp(FIRST_PIECE, LONGEST_PIECE).min(left);
                if !share.grow_to((self.length + capacity) as u64) {
                    return Err(Broken::NoMemory);
                }
                self.pieces.push(Vec::with_capacity(capacity));
                continue;
            }
            let (now, rest) = data.split_at(room.min(data.len()));
            if let Some(last) = self.pieces.last_mut() {
                last.extend_from_slice(now);
            }
            self.length += now.len();
            data = rest;
        }
        Ok(())
    }

    pub(super) fn join(mut self) -> Bytes {
        if self.pieces.len() == 1 {
            return self.pieces.pop().unwrap_or_default().into();
        }
        let mut whole = Vec::with_capacity(self.length);
        for piece in self.pieces {
            whole.extend_from_slice(&piece);
        }
        whole.into()
    }
}

/// Refuses a request before its body was read.
///
/// A body of up to twice the allowed length is still read: a client that is still sending would
/// otherwise see a connection reset instead of the response.
pub async fn refuse(error: Error, body: Body, max_body: u64, deadline: Instant) -> Error {
    let limit = usize::try_from(max_body.saturating_mul(2)).unwrap_or(usize::MAX);
    let mut rest = Limited::new(body, limit);
    let discarded = timeout_at(deadline, async {
        while let Some(frame) = rest.frame().await {
            frame?;
        }
        Ok::<_, axum::BoxError>(())
    });
    match discarded.await {
        Ok(Ok(())) => error,
        _ => error.with_body_unread(),
    }
}
