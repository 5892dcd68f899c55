//! API keys, stored as hashes and compared in constant time.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderName};
use subtle::ConstantTimeEq;

use super::rate::Rate;
use crate::config::{ApiKey, KeyHash};
use crate::http::error::{Code, Error};
use crate::priority::RequestPriority;

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: String,
    hash: KeyHash,
    rate: Option<Rate>,
    /// The highest priority that it permits.
    pub(super) priority: RequestPriority,
}

impl Key {
    /// `Err` with the time to wait if the rate limit does not allow `count` more requests.
    pub(super) fn charge(&self, count: NonZeroU32) -> Result<(), Duration> {
        self.rate.as_ref().map_or(Ok(()), |rate| rate.charge(count))
    }

    /// `Err` with the time to wait if the rate limit is exceeded.
    pub(super) fn check_rate(&self) -> Result<(), Duration> {
        self.rate.as_ref().map_or(Ok(()), Rate::check)
    }
}

#[derive(Debug)]
pub(super) struct Keyring(Vec<Arc<Key>>);

impl Keyring {
    pub(super) fn new(api_keys: &[ApiKey]) -> Self {
        let key = |key: &ApiKey| {
            Arc::new(Key {
                name: key.name.clone(),
                hash: key.sha256,
                rate: key.rate_limit.map(Rate::new),
                priority: key.priority.unwrap_or_default(),
            })
        };
        Self(api_keys.iter().map(key).collect())
    }

    /// Compares with every key and every byte, so that the duration reveals nothing.
    pub(super) fn find(&self, sent: &[u8]) -> Option<Arc<Key>> {
        // A fast hash is enough: keys are random, not passwords that could be guessed.
        let hash = KeyHash::of(sent);
        let mut found = None;
        for key in &self.0 {
            if bool::from(key.hash.0.ct_eq(&hash.0)) {
                found = Some(key);
            }
        }
        found.map(Arc::clone)
    }
}

/// Reads the API key from `Authorization: Bearer KEY` or `X-Api-Key: KEY`.
pub(super) fn sent(headers: &HeaderMap) -> Result<&[u8], Error> {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.as_bytes().split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
    });
    let key = bearer.or_else(|| headers.get(X_API_KEY).map(|value| value.as_bytes().trim_ascii()));
    key.filter(|key| !key.is_empty()).ok_or_else(missing)
}

pub(in crate::http) fn missing() -> Error {
    Error::new(
        Code::Unauthorized,
        "expected an API key as Authorization: Bearer KEY or X-Api-Key: KEY, found none",
    )
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_key_is_found_by_its_hash_alone() {
        let key = |name: &str| ApiKey {
            name: name.to_owned(),
            sha256: KeyHash::of(name.as_bytes()),
            rate_limit: None,
            priority: None,
        };
        let keyring = Keyring::new(&[key("a"), key("b"), key("c")]);
        assert_eq!(keyring.find(b"b").unwrap().name, "b");
        assert!(keyring.find(b"d").is_none());
        assert!(keyring.find(&KeyHash::of(b"a").0).is_none());
    }

    #[test]
    fn a_key_may_be_sent_in_two_ways() {
        let read = |name: HeaderName, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            sent(&headers).map(<[u8]>::to_vec).ok()
        };
        assert_eq!(read(AUTHORIZATION, "Bearer abc").as_deref(), Some(&b"abc"[..]));
        assert_eq!(read(AUTHORIZATION, "bearer  abc ").as_deref(), Some(&b"abc"[..]));
        assert_eq!(read(X_API_KEY, "abc").as_deref(), Some(&b"abc"[..]));
        for bad in ["", "Bearer", "Bearer ", "Basic abc", "abc"] {
            assert_eq!(read(AUTHORIZATION, bad), None, "{bad}");
        }
        assert_eq!(read(X_API_KEY, ""), None);
    }

    #[test]
    fn a_proxys_own_authorization_does_not_hide_the_key() {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Basic abc"));
        headers.insert(X_API_KEY, HeaderValue::from_static("key"));
        assert_eq!(sent(&headers).unwrap(), b"key");
    }
}
