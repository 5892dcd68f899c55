//! Checks the `Host` header, against DNS rebinding.
//!
//! A web page can make its own name resolve to 127.0.0.1 and then send requests to a server there
//! as if the server belonged to the page. The browser sends the page's name as `Host`, so a server
//! that knows its names can refuse them.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::extract::Request;
use axum::http::header::HOST;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Uri, Version};
use axum::response::{IntoResponse, Response};
use futures_util::future::{Either, Ready, ready};
use tower::{Layer, Service};

use super::unread;
use crate::http::error::{Code, Error, quoted};

/// The host names that a listener accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedHosts {
    Any,
    /// Names of the loopback interface: `localhost`, those below it, 127.0.0.0/8 and `::1`.
    Loopback,
    /// In lower case. `*.example.org` is every name below `example.org`.
    Names(Vec<String>),
    /// Also `localhost` and every address. Scrapers use addresses, and a page whose name is rebound
    /// sends that name.
    NamesAndAddresses(Vec<String>),
}

impl AllowedHosts {
    /// For the listener at `address`, with `allowed_hosts` set to `names`.
    pub fn new(names: &[String], address: SocketAddr) -> Self {
        if names.iter().any(|name| name == "*") {
            Self::Any
        } else if !names.is_empty() {
            Self::Names(names.iter().map(|name| name.to_ascii_lowercase()).collect())
        } else if address.ip().is_loopback() {
            Self::Loopback
        } else {
            Self::Any
        }
    }

    /// For the listener of probes and metrics.
    pub fn for_admin(names: &[String], address: SocketAddr) -> Self {
        match Self::new(names, address) {
            Self::Names(names) => Self::NamesAndAddresses(names),
            other => other,
        }
    }

    fn allows(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let address = || {
            let plain = host.trim_start_matches('[').trim_end_matches(']');
            plain.parse::<IpAddr>()
        };
        let is_localhost = || host == "localhost" || host.ends_with(".localhost");
        let is_listed = |names: &[String]| {
            names.iter().any(|name| match name.strip_prefix('*') {
                Some(below) => host.ends_with(below) && host.len() > below.len(),
                None => *name == host,
            })
        };
        match self {
            Self::Any => true,
            Self::Loopback => is_localhost() || address().is_ok_and(|address| address.is_loopback()),
            Self::Names(names) => is_listed(names),
            Self::NamesAndAddresses(names) => is_localhost() || address().is_ok() || is_listed(names),
        }
    }

    fn check(&self, version: Version, headers: &HeaderMap, uri: &Uri) -> Result<(), Error> {
        let mut sent = headers.get_all(HOST).iter();
        let authority = match (sent.next(), sent.next()) {
            (_, Some(_)) => {
                return Err(Error::invalid_request("Host: expected one header, found several"));
            }
            (None, None) if version < Version::HTTP_11 => None,
            (None, None) => {
                return Err(Error::invalid_request(
                    "Host: expected the header (required by HTTP/1.1), found none",
                ));
            }
            (Some(sent), None) => {
                let text = String::from_utf8_lossy(sent.as_bytes());
                let parsed = text.parse::<Authority>().ok();
                let plain = parsed.filter(|_| !text.contains('@'));
                let invalid = || {
                    let found = quoted(&text);
                    Error::invalid_request(format!(
                        "Host: expected a name or address with an optional port, found {found}"
                    ))
                };
                Some(plain.ok_or_else(invalid)?)
            }
        };
        if *self == Self::Any || is_probe(uri.path()) {
            return Ok(());
        }
        // The request line overrides the header (RFC 9112, section 3.2.2).
        let host = uri.host().or(authority.as_ref().map(Authority::host));
        // HTTP/1.0 does not require a host, and browsers do not use it.
        let Some(host) = host else { return Ok(()) };
        if self.allows(host) {
            return Ok(());
        }
        let expected = match self {
            Self::Names(_) => "one of allowed_hosts",
            Self::NamesAndAddresses(_) => "an address, localhost or one of allowed_hosts",
            _ => {
                "localhost or a loopback address (the server listens on loopback and allowed_hosts is not set)"
            }
        };
        Err(Error::new(
            Code::MisdirectedRequest,
            format!("Host: expected {expected}, found {}", quoted(host)),
        ))
    }
}

/// Orchestrators use addresses, and the responses reveal nothing.
fn is_probe(path: &str) -> bool {
    matches!(path, "/livez" | "/readyz")
}

/// Refuses requests whose `Host` is missing, invalid or not allowed.
#[derive(Debug, Clone)]
pub struct HostLayer(Arc<AllowedHosts>);

impl HostLayer {
    pub fn new(allowed: AllowedHosts) -> Self {
        Self(Arc::new(allowed))
    }
}

impl<S> Layer<S> for HostLayer {
    type Service = CheckHost<S>;

    fn layer(&self, inner: S) -> CheckHost<S> {
        CheckHost {
            inner,
            allowed: Arc::clone(&self.0),
        }
    }
}

#[derive(Debug, Clone)]
pub struct CheckHost<S> {
    inner: S,
    allowed: Arc<AllowedHosts>,
}

impl<S> Service<Request> for CheckHost<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Either<Ready<Result<Response, Infallible>>, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        match self
            .allowed
            .check(request.version(), request.headers(), request.uri())
        {
            Ok(()) => Either::Right(self.inner.call(request)),
            Err(error) => Either::Left(ready(Ok(unread(error, &request).into_response()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn check(allowed: &AllowedHosts, hosts: &[&str], uri: &str) -> Result<(), Code> {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(HOST, HeaderValue::from_str(host).unwrap());
        }
        let checked = allowed.check(Version::HTTP_11, &headers, &uri.parse().unwrap());
        checked.map_err(|error| error.code)
    }

    #[test]
    fn a_request_names_one_host() {
        let any = AllowedHosts::Any;
        assert_eq!(check(&any, &["a.example:80"], "/"), Ok(()));
        for bad in [&[][..], &["a", "a"], &["a b"], &["user@a"], &["a/b"], &["a:b:c"]] {
            assert_eq!(check(&any, bad, "/"), Err(Code::InvalidRequest), "{bad:?}");
        }
        let none = HeaderMap::new();
        assert!(any.check(Version::HTTP_10, &none, &"/".parse().unwrap()).is_ok());
    }

    #[test]
    fn on_the_loopback_interface_only_its_names_are_answered() {
        let loopback = AllowedHosts::new(&[], "127.0.0.1:8080".parse().unwrap());
        assert_eq!(loopback, AllowedHosts::Loopback);
        for good in [
            "localhost",
            "LOCALHOST:8080",
            "a.localhost",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]:8080",
            "localhost.",
        ] {
            assert_eq!(check(&loopback, &[good], "/v1/models"), Ok(()), "{good}");
        }
        for bad in [
            "evil.example",
            "localhost.evil.example",
            "10.0.0.1",
            "127.0.0.1.evil.example",
            "[::2]",
        ] {
            assert_eq!(
                check(&loopback, &[bad], "/v1/models"),
                Err(Code::MisdirectedRequest),
                "{bad}"
            );
            assert_eq!(check(&loopback, &[bad], "/livez"), Ok(()), "{bad}");
        }
        // The request line is stronger.
        assert_eq!(
            check(&loopback, &["localhost"], "http://evil.example/"),
            Err(Code::MisdirectedRequest)
        );
        assert_eq!(
            AllowedHosts::new(&[], "0.0.0.0:8080".parse().unwrap()),
            AllowedHosts::Any
        );
    }

    #[test]
    fn listed_names_are_answered() {
        let names = ["api.example.org".to_owned(), "*.Example.net".to_owned()];
        let listed = AllowedHosts::new(&names, "127.0.0.1:8080".parse().unwrap());
        for good in ["API.example.org:443", "a.example.net", "a.b.example.net"] {
            assert_eq!(check(&listed, &[good], "/"), Ok(()), "{good}");
        }
        for bad in [
            "localhost",
            "example.net",
            "xexample.net",
            ".example.net.evil",
            "example.org",
        ] {
            assert_eq!(
                check(&listed, &[bad], "/"),
                Err(Code::MisdirectedRequest),
                "{bad}"
            );
        }
        let admin = AllowedHosts::for_admin(&names, "0.0.0.0:8081".parse().unwrap());
        for good in ["api.example.org", "10.0.0.1:8081", "[fd00::1]", "localhost:8081"] {
            assert_eq!(check(&admin, &[good], "/metrics"), Ok(()), "{good}");
        }
        for bad in ["evil.example", "10.0.0.1.evil.example"] {
            assert_eq!(
                check(&admin, &[bad], "/metrics"),
                Err(Code::MisdirectedRequest),
                "{bad}"
            );
        }
        assert_eq!(
            AllowedHosts::new(&["*".to_owned()], "127.0.0.1:8080".parse().unwrap()),
            AllowedHosts::Any
        );
    }
}
