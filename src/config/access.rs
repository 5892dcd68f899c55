//! Values for authentication, rate limits and CORS.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use axum::http::{HeaderValue, Uri};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::values::deserialize_text;
use crate::priority::RequestPriority;

/// Longest name of an API key.
const MAX_NAME: usize = 64;

/// An entry `[[api_keys]]` of the file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ApiKey {
    /// A label of metrics.
    pub name: String,
    pub sha256: KeyHash,
    /// For all clients that use the key together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// The highest priority that a request with the key may have. Default: normal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<RequestPriority>,
}

impl ApiKey {
    pub fn check_name(name: &str) -> Result<(), String> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(plain) {
            return Ok(());
        }
        Err(format!(
            "expected 1 to {MAX_NAME} letters, digits, '-', '_' or '.', found {name:?}"
        ))
    }
}

/// SHA-256 of an API key. It is no secret, because keys are random, but it does not belong in a
/// log.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyHash(pub [u8; 32]);

impl KeyHash {
    pub fn of(key: &[u8]) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, key).as_ref());
        Self(hash)
    }
}

impl FromStr for KeyHash {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut hash = [0; 32];
        // The error does not repeat the text, which may be the key itself.
        hex::decode_to_slice(text, &mut hash).map_err(|_| {
            "expected the 64 hexadecimal digits that `classifyd api-key` prints, found something else"
                .to_owned()
        })?;
        Ok(Self(hash))
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

/// Printed in place of a secret.
const REDACTED: &str = "[redacted]";

impl Serialize for KeyHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(REDACTED)
    }
}

impl<'de> Deserialize<'de> for KeyHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize_text(deserializer, "a SHA-256 in hexadecimal digits")
    }
}

/// A number of requests per unit of time, with a burst: `100/s`, `600/m burst 20`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    count: NonZeroU32,
    unit: Unit,
    /// Requests that are accepted at once after a pause.
    pub burst: NonZeroU32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Second,
    Minute,
    Hour,
}

impl RateLimit {
    /// Time after which one more request is accepted.
    pub fn period(self) -> Duration {
        let unit = match self.unit {
            Unit::Second => Duration::from_secs(1),
            Unit::Minute => Duration::from_mins(1),
            Unit::Hour => Duration::from_hours(1),
        };
        (unit / self.count.get()).max(Duration::from_nanos(1))
    }
}

impl FromStr for RateLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        let mut read = || {
            let (count, unit) = words.next()?.split_once('/')?;
            let count = count.parse().ok()?;
            let unit = match unit {
                "s" => Unit::Second,
                "m" => Unit::Minute,
                "h" => Unit::Hour,
                _ => return None,
            };
            let burst = match (words.next(), words.next(), words.next()) {
                (None, ..) => count,
                (Some("burst"), Some(burst), None) => burst.parse().ok()?,
                _ => return None,
            };
            Some(Self { count, unit, burst })
        };
        read()
            .ok_or_else(|| format!("expected a rate such as 100/s, 600/m or 600/m burst 20, found {text:?}"))
    }
}

impl fmt::Display for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.unit {
            Unit::Second => "s",
            Unit::Minute => "m",
            Unit::Hour => "h",
        };
        write!(f, "{}/{unit}", self.count)?;
        if self.burst != self.count {
            write!(f, " burst {}", self.burst)?;
        }
        Ok(())
    }
}

impl Serialize for RateLimit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RateLimit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize_text(deserializer, "a rate such as \"100/s\"")
    }
}

/// An origin of web pages as browsers send it, `https://example.org`, or `*` for all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CorsOrigin(HeaderValue);

impl CorsOrigin {
    /// The value that `Access-Control-Allow-Origin` has.
    pub fn header(&self) -> &HeaderValue {
        &self.0
    }

    pub fn is_any(&self) -> bool {
        self.0 == "*"
    }
}

impl FromStr for CorsOrigin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_origin = |uri: &Uri| {
            let scheme = uri
                .scheme_str()
                .is_some_and(|scheme| ["http", "https"].contains(&scheme));
            // Browsers send no path and no slash after the host: an origin with one would never
            // match.
            scheme && uri.authority().is_some_and(|host| text.ends_with(host.as_str()))
        };
        let well_formed = text == "*" || text.parse().is_ok_and(|uri| is_origin(&uri));
        match HeaderValue::from_str(text) {
            Ok(value) if well_formed => Ok(Self(value)),
            _ => Err("expected an origin such as https://example.org, without a path, or *".to_owned()),
        }
    }
}

impl fmt::Display for CorsOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.to_str().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_and_written() {
        for (text, period, burst) in [
            ("100/s", Duration::from_millis(10), 100),
            ("60/m burst 5", Duration::from_secs(1), 5),
            ("2/h", Duration::from_mins(30), 2),
        ] {
            let rate: RateLimit = text.parse().unwrap();
            assert_eq!((rate.period(), rate.burst.get()), (period, burst));
            assert_eq!(rate.to_string(), text);
        }
        for bad in [
            "",
            "100",
            "0/s",
            "100/d",
            "-1/s",
            "5/s burst",
            "5/s burst 0",
            "5/s burst 1 x",
            "5/s bust 1",
        ] {
            let error = bad.parse::<RateLimit>().unwrap_err();
            assert!(
                error.contains("100/s") && error.contains(&format!("{bad:?}")),
                "{error}"
            );
        }
    }

    #[test]
    fn an_origin_has_no_path() {
        for good in ["*", "https://example.org", "http://localhost:5173"] {
            assert_eq!(good.parse::<CorsOrigin>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "example.org",
            "https://example.org/",
            "https://example.org/app",
            "ftp://example.org",
            "null",
        ] {
            assert!(bad.parse::<CorsOrigin>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_hash_is_not_shown() {
        let hash = KeyHash::of(b"key");
        assert_eq!(format!("{hash:?}"), "[redacted]");
        let text = hex::encode(hash.0);
        assert_eq!(text.parse::<KeyHash>().unwrap(), hash);
        let error = "cfd_the_key_itself".parse::<KeyHash>().unwrap_err();
        assert!(
            error.contains("classifyd api-key") && !error.contains("itself"),
            "{error}"
        );
    }
}
