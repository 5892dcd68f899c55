//! W3C Trace Context: which trace a request belongs to.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::{HeaderMap, HeaderName, HeaderValue};

/// Trace ID, parent span ID and flags.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Data that tracing systems pass along.
#[cfg(feature = "otlp")]
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// The same for responses, from a draft of the W3C.
pub const TRACERESPONSE: HeaderName = HeaderName::from_static("traceresponse");

/// The bit of the flags that says that the span is recorded.
const SAMPLED: u8 = 1;

/// A span in a trace, as `traceparent` and `traceresponse` name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    /// Never 0.
    pub trace_id: u128,
    /// Never 0.
    pub span_id: u64,
    pub flags: u8,
}

impl TraceParent {
    /// The span of the client. A malformed header is ignored, as the standard demands.
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(&TRACEPARENT).iter();
        let value = values.next()?;
        match values.next() {
            None => Self::parse(value.to_str().ok()?),
            Some(_) => None,
        }
    }

    /// A child span that is not recorded, for a server that exports no spans.
    #[must_use]
    pub fn child(&self) -> Self {
        /// Random in each process, so that two servers do not make the same IDs.
        static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let span_id = HASHER.hash_one(COUNT.fetch_add(1, Ordering::Relaxed)).max(1);
        let flags = self.flags & !SAMPLED;
        Self {
            span_id,
            flags,
            ..*self
        }
    }

    pub fn to_header(self) -> Option<HeaderValue> {
        let Self {
            trace_id,
            span_id,
            flags,
        } = self;
        HeaderValue::try_from(format!("00-{trace_id:032x}-{span_id:016x}-{flags:02x}")).ok()
    }

    fn parse(text: &str) -> Option<Self> {
        let (head, tail) = text.split_at_checked(55)?;
        let mut parts = head.split('-');
        let version = hex(parts.next()?, 2)?;
        let trace_id = hex(parts.next()?, 32)?;
        let span_id = hex(parts.next()?, 16)? as u64;
        let flags = hex(parts.next()?, 2)? as u8;
        // A later version may have more after a dash.
        let known = match version {
            0 => tail.is_empty(),
            0xff => false,
            _ => tail.is_empty() || tail.starts_with('-'),
        };
        let valid = known && parts.next().is_none() && trace_id != 0 && span_id != 0;
        valid.then_some(Self {
            trace_id,
            span_id,
            flags,
        })
    }
}

/// Parses exactly this many lower-case hexadecimal digits.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let plain = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if plain && text.len() == digits {
        u128::from_str_radix(text, 16).ok()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn the_parts_are_parsed() {
        let parent = TraceParent::parse(GOOD).unwrap();
        assert_eq!(parent.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
        assert_eq!(parent.span_id, 0xb7ad_6b71_6920_3331);
        assert_eq!(parent.flags, 1);
        let later = GOOD.replacen("00", "cc", 1) + "-what-comes-later";
        assert_eq!(TraceParent::parse(&later), Some(parent));
    }

    #[test]
    fn a_child_is_an_unrecorded_span_of_the_same_trace() {
        let parent = TraceParent::parse(GOOD).unwrap();
        let (first, second) = (parent.child(), parent.child());
        assert_eq!((first.trace_id, first.flags), (parent.trace_id, 0));
        assert!(first.span_id != parent.span_id && first.span_id != second.span_id);
        let header = first.to_header().unwrap();
        assert_eq!(TraceParent::parse(header.to_str().unwrap()), Some(first));
    }

    #[test]
    fn a_malformed_header_is_ignored() {
        let zero_trace = format!("00-{}-b7ad6b7169203331-01", "0".repeat(32));
        for bad in [
            "",
            "00",
            &GOOD[..54],
            &GOOD.to_uppercase(),
            &GOOD.replacen("00", "ff", 1),
            &format!("{GOOD}-more"),
            &format!("{GOOD}0"),
            &format!("{}.", GOOD.replacen("00", "cc", 1)),
            &GOOD.replace("b7ad6b7169203331", "0000000000000000"),
            &GOOD.replace("0af7", "0ag7"),
            &GOOD.replace("0af7", "+af7"),
            &GOOD.replace('-', "_"),
            &zero_trace,
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0é",
        ] {
            assert_eq!(TraceParent::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn two_headers_are_ignored() {
        let mut headers = HeaderMap::new();
        assert_eq!(TraceParent::from_headers(&headers), None);
        headers.append(TRACEPARENT, HeaderValue::from_static(GOOD));
        assert!(TraceParent::from_headers(&headers).is_some());
        headers.append(TRACEPARENT, HeaderValue::from_static(GOOD));
        assert_eq!(TraceParent::from_headers(&headers), None);
    }
}
