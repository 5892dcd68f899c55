//! The server, and requests to it.

use std::fmt::Write as _;
use std::net::{SocketAddr, ToSocketAddrs};

use bytes::Bytes;
use url::{Position, Url};

use crate::error::Error;

/// A server, the URL to post to, and the headers of every request.
///
/// Requests are built once, before a load starts, so that building them costs no CPU time during
/// it.
///
/// ```
/// use load::Target;
///
/// let mut target = Target::parse("localhost:8080")?
///     .with_default_path("/v1/classify")
///     .with_query("model", "digits");
/// target.add_header("Authorization", "Bearer secret")?;
/// let request = target.post("image/png", b"...");
/// assert!(request.starts_with(b"POST /v1/classify?model=digits HTTP/1.1\r\nHost: localhost:8080\r\n"));
/// # Ok::<(), load::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Target {
    url: Url,
    /// Header lines of every request, each with its line break.
    headers: String,
}

impl Target {
    /// Parses the URL to post to. The scheme may be left out, as in `localhost:8080/path`.
    ///
    /// # Errors
    ///
    /// If the text is not a URL, has a scheme other than `http` (TLS is not supported), no host, or
    /// a user or password.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let rejected = |expected| Error::Url {
            expected,
            found: text.to_owned(),
        };
        let with_scheme = if text.contains("://") {
            text.to_owned()
        } else {
            format!("http://{text}")
        };
        let url = Url::parse(&with_scheme).map_err(|_| rejected("a URL"))?;
        if url.scheme() != "http" {
            return Err(rejected("an http:// URL (TLS is not supported)"));
        }
        if !url.has_host() {
            return Err(rejected("a URL with a host"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Error::Credentials);
        }
        Ok(Self {
            url,
            headers: String::new(),
        })
    }

    /// Sets the path to post to if the URL has none.
    #[must_use]
    pub fn with_default_path(mut self, path: &str) -> Self {
        if self.url.path() == "/" {
            self.url.set_path(path);
        }
        self
    }

    /// Appends a parameter to the query of the URL to post to.
    #[must_use]
    pub fn with_query(mut self, name: &str, value: &str) -> Self {
        self.url.query_pairs_mut().append_pair(name, value);
        self
    }

    /// Adds a header to every request that is built from now on.
    ///
    /// # Errors
    ///
    /// If the name or the value cannot be sent, or if it is a header that [`post`](Self::post)
    /// sets.
    pub fn add_header(&mut self, name: &str, value: &str) -> Result<(), Error> {
        let rejected = |reason| Error::Header {
            name: name.to_owned(),
            reason,
        };
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty() || !name.bytes().all(is_token) {
            return Err(rejected("expected a header name"));
        }
        if value.chars().any(|c| c.is_control() && c != '\t') {
            return Err(rejected("expected a value without control characters"));
        }
        let own = ["host", "content-length", "content-type", "transfer-encoding"];
        if own.iter().any(|own| name.eq_ignore_ascii_case(own)) {
            return Err(rejected("is set by the load generator"));
        }
        let _ = write!(self.headers, "{name}: {value}\r\n");
        Ok(())
    }

    /// The URL that [`post`](Self::post) posts to.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Resolves the host. The addresses are in the order in which they should be tried, see
    /// [`reachable`](crate::reachable).
    ///
    /// # Errors
    ///
    /// If the host cannot be resolved. The list is never empty.
    pub fn addresses(&self) -> Result<Vec<SocketAddr>, Error> {
        let authority = &self.url[Position::BeforeHost..Position::AfterHost];
        let port = self.url.port_or_known_default().unwrap_or(80);
        // The brackets of an IPv6 address belong to the URL, not to the address.
        let host = authority.trim_start_matches('[').trim_end_matches(']');
        let addresses: Vec<SocketAddr> = (host, port)
            .to_socket_addrs()
            .map_err(|source| Error::Resolve {
                host: authority.to_owned(),
                source,
            })?
            .collect();
        if addresses.is_empty() {
            return Err(Error::NoAddress);
        }
        Ok(addresses)
    }

    /// Builds a POST request with a body.
    pub fn post(&self, content_type: &str, body: &[u8]) -> Bytes {
        let path = &self.url[Position::BeforePath..Position::AfterQuery];
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n{}\r\n",
            self.host(),
            body.len(),
            self.headers,
        );
        [head.as_bytes(), body].concat().into()
    }

    /// Builds a GET request for another path of the same server. The server closes the connection
    /// after it.
    pub fn get(&self, path: &str) -> Bytes {
        format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{}\r\n",
            self.host(),
            self.headers
        )
        .into()
    }

    fn host(&self) -> &str {
        &self.url[Position::BeforeHost..Position::AfterPort]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn post(url: &str, model: Option<&str>) -> String {
        let mut target = Target::parse(url).unwrap().with_default_path("/v1/classify");
        if let Some(model) = model {
            target = target.with_query("model", model);
        }
        let request = target.post("image/png", b"x");
        String::from_utf8(request.to_vec()).unwrap()
    }

    #[test]
    fn a_base_url_gets_the_default_path_and_the_query() {
        assert_eq!(
            post("http://localhost:8080", Some("a b&c")),
            "POST /v1/classify?model=a+b%26c HTTP/1.1\r\nHost: localhost:8080\r\n\
             Content-Type: image/png\r\nContent-Length: 1\r\n\r\nx"
        );
        assert!(post("[::1]:9", None).starts_with("POST /v1/classify HTTP/1.1\r\nHost: [::1]:9\r\n"));
    }

    #[test]
    fn a_full_url_keeps_its_path_and_query() {
        let request = post("http://h/predict?top_k=3", Some("m"));
        assert!(
            request.starts_with("POST /predict?top_k=3&model=m HTTP/1.1\r\nHost: h\r\n"),
            "{request}"
        );
    }

    #[test]
    fn an_address_of_either_ip_family_is_resolved() {
        let of = |url: &str| Target::parse(url).unwrap().addresses().unwrap()[0].to_string();
        assert_eq!(of("127.0.0.1:81"), "127.0.0.1:81");
        assert_eq!(of("http://[::1]"), "[::1]:80");
    }

    #[test]
    fn an_unusable_url_is_rejected_with_the_reason() {
        for (url, reason) in [
            ("https://localhost", "TLS is not supported"),
            ("ftp://localhost", "expected an http:// URL"),
            ("http://", "expected a URL"),
            ("http://me:secret@host", "send credentials in a header"),
        ] {
            let error = format!("{:#}", Target::parse(url).unwrap_err());
            assert!(error.contains(reason), "{url}: {error}");
        }
    }

    #[test]
    fn a_header_cannot_contain_a_line_break() {
        let mut target = Target::parse("h").unwrap();
        target.add_header("X-Tenant", "blue").unwrap();
        assert!(target.add_header("X", "a\r\nY: b").is_err());
        assert!(target.add_header("X Y", "a").is_err());
        assert!(target.add_header("content-length", "5").is_err());
        let request = String::from_utf8(target.post("text/plain", b"").to_vec()).unwrap();
        assert!(request.ends_with("X-Tenant: blue\r\n\r\n"), "{request}");
    }
}
