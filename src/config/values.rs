//! Types of values. Each parses what an operator writes.
//!
//! Text that cannot be parsed is wrong usage on the command line. A value that can be parsed but
//! not used, such as a count of 0, is a mistake of the configuration whatever source it comes from,
//! so it is refused after the sources are merged: see [`Validate`].

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use clap::ValueEnum;
use classifier::Device;
use ipnet::IpNet;
use serde::de::{Error as _, Unexpected};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tracing_subscriber::EnvFilter;

use super::RateLimit;

/// The limits of a value that depend on no other value.
pub(super) trait Validate {
    /// The error says what was expected and what was found.
    fn validate(&self) -> Result<(), String> {
        Ok(())
    }
}

macro_rules! without_limits {
    ($($type:ty),+) => { $(impl Validate for $type {})+ };
}
without_limits!(
    AccessLogMode,
    Address,
    Device,
    HumanDuration,
    LogFormat,
    PathBuf,
    RateLimit,
    Size,
    String,
    bool,
    u32,
    u64
);

impl<T> Validate for List<T> {}

impl<T: Validate> Validate for Option<T> {
    fn validate(&self) -> Result<(), String> {
        self.as_ref().map_or(Ok(()), T::validate)
    }
}

/// A duration such as `250ms`, `5s` or `1m 30s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HumanDuration(pub Duration);

impl Deref for HumanDuration {
    type Target = Duration;

    fn deref(&self) -> &Duration {
        &self.0
    }
}

impl FromStr for HumanDuration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        humantime::parse_duration(text)
            .map(Self)
            .map_err(|error| format!("expected a duration such as 250ms or 5s, found {text:?} ({error})"))
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

impl<'de> Deserialize<'de> for HumanDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize_text(deserializer, "a duration such as \"250ms\" or \"5s\"")
    }
}

impl Serialize for HumanDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A duration of more than 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeout(pub Duration);

impl Deref for Timeout {
    type Target = Duration;

    fn deref(&self) -> &Duration {
        &self.0
    }
}

impl FromStr for Timeout {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(|HumanDuration(duration)| Self(duration))
    }
}

impl Validate for Timeout {
    fn validate(&self) -> Result<(), String> {
        if self.is_zero() {
            return Err(format!("expected more than 0, found {}", HumanDuration(self.0)));
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Timeout {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize_text(deserializer, "a duration such as \"250ms\" or \"5s\"")
    }
}

impl Serialize for Timeout {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        HumanDuration(self.0).serialize(serializer)
    }
}

/// A number of at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Count<T>(T);

impl<T: Copy> Count<T> {
    pub const fn new(count: T) -> Self {
        Self(count)
    }

    pub const fn get(self) -> T {
        self.0
    }
}

impl<T: FromStr> FromStr for Count<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, T::Err> {
        text.parse().map(Self)
    }
}

impl<T: PartialEq + Default> Validate for Count<T> {
    fn validate(&self) -> Result<(), String> {
        if self.0 == T::default() {
            return Err("expected at least 1, found 0".to_owned());
        }
        Ok(())
    }
}

impl<T: fmt::Display> fmt::Display for Count<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A size such as `512 KiB` or `16 MiB`, or a number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub ByteSize);

impl Deref for Size {
    type Target = ByteSize;

    fn deref(&self) -> &ByteSize {
        &self.0
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse()
            .map(Self)
            .map_err(|_| format!("expected a size such as 512 KiB or 16 MiB, found {text:?}"))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl serde::de::Visitor<'_> for Visitor {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as \"512 KiB\" or \"16 MiB\"")
            }

            fn visit_i64<E: serde::de::Error>(self, bytes: i64) -> Result<Size, E> {
                let bytes =
                    u64::try_from(bytes).map_err(|_| E::invalid_value(Unexpected::Signed(bytes), &self))?;
                Ok(Size(ByteSize::b(bytes)))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Size, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// An IP address with a port. Host names are not accepted: a name can resolve to several addresses,
/// and they can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address(pub SocketAddr);

impl Deref for Address {
    type Target = SocketAddr;

    fn deref(&self) -> &SocketAddr {
        &self.0
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| {
            format!("expected an address with a port such as 127.0.0.1:8080 or [::]:8080, found {text:?}")
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize_text(deserializer, "an address with a port such as \"127.0.0.1:8080\"")
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Reads a value that is a string in the file.
pub(super) fn deserialize_text<'de, D, T>(deserializer: D, expected: &'static str) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr,
    T::Err: fmt::Display,
{
    struct Text<T>(&'static str, std::marker::PhantomData<T>);

    impl<T> serde::de::Visitor<'_> for Text<T>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }
    }

    deserializer.deserialize_str(Text(expected, std::marker::PhantomData))
}

/// An array in the file; separated by commas in a flag and in the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List<T>(pub Vec<T>);

impl<T> Deref for List<T> {
    type Target = Vec<T>;

    fn deref(&self) -> &Vec<T> {
        &self.0
    }
}

impl<T> FromStr for List<T>
where
    T: FromStr,
    T::Err: fmt::Display,
{
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        items.map(parse_item).collect::<Result<_, _>>().map(Self)
    }
}

fn parse_item<T>(item: &str) -> Result<T, String>
where
    T: FromStr,
    T::Err: fmt::Display,
{
    item.parse().map_err(|error| format!("{item:?}: {error}"))
}

impl<'de, T> Deserialize<'de> for List<T>
where
    T: FromStr,
    T::Err: fmt::Display,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let items = Vec::<String>::deserialize(deserializer)?;
        let items = items.iter().map(|item| parse_item(item));
        items
            .collect::<Result<_, _>>()
            .map(Self)
            .map_err(D::Error::custom)
    }
}

impl<T: fmt::Display> Serialize for List<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(ToString::to_string))
    }
}

/// A network such as `10.0.0.0/8`, or a single address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network(pub IpNet);

impl Deref for Network {
    type Target = IpNet;

    fn deref(&self) -> &IpNet {
        &self.0
    }
}

impl FromStr for Network {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        network
            .map(Self)
            .map_err(|_| "expected a network such as 10.0.0.0/8, or an address such as 10.0.0.1")
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A filter of log lines, such as `info,classifyd=debug`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct LogFilter(String);

impl LogFilter {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The filter for tracing. A part that tracing does not understand is left out; a checked
    /// configuration has none.
    pub fn to_env_filter(&self) -> EnvFilter {
        EnvFilter::new(&self.0)
    }
}

impl Default for LogFilter {
    fn default() -> Self {
        Self("info,ort=warn".to_owned())
    }
}

impl From<String> for LogFilter {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl Validate for LogFilter {
    fn validate(&self) -> Result<(), String> {
        match self.0.parse::<EnvFilter>() {
            Ok(_) => Ok(()),
            Err(error) => Err(format!(
                "expected a filter such as info or info,classifyd=debug, found {:?}: {error}",
                self.0
            )),
        }
    }
}

/// Format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// One JSON object per line.
    Json,
}

/// Which requests are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessLogMode {
    /// All; probes and scrapes only at level debug.
    On,
    /// Those with a status of 400 or more.
    Errors,
    /// None.
    Off,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_separated_by_commas() {
        let list = |text: &str| text.parse::<List<u32>>();
        assert_eq!(list("1, 2,3").unwrap().0, [1, 2, 3]);
        assert_eq!(list("").unwrap().0, Vec::<u32>::new());
        assert_eq!(list("1,x").unwrap_err(), "\"x\": invalid digit found in string");
    }

    #[test]
    fn a_wrong_duration_is_refused_with_an_example() {
        let error = "soon".parse::<HumanDuration>().unwrap_err();
        assert!(
            error.contains("250ms or 5s") && error.contains("\"soon\""),
            "{error}"
        );
    }
}
