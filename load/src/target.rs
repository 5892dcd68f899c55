//! Where requests go, and the requests themselves: built once, before anything is measured.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use url::{Position, Url};

use crate::response::{Response, ResponseReader};

/// A server and the path to post to.
#[derive(Debug, Clone)]
pub struct Target {
    /// The URL that requests are posted to.
    pub url: Url,
    /// Header lines of every request, each with its line break.
    headers: String,
}

impl Target {
    /// Parses the URL to post to. The scheme may be left out (`localhost:8080/path`).
    pub fn parse(text: &str) -> Result<Self> {
        let with_scheme = if text.contains("://") {
            text.to_owned()
        } else {
            format!("http://{text}")
        };
        let url = Url::parse(&with_scheme).with_context(|| format!("expected a URL, found {text:?}"))?;
        ensure!(
            url.scheme() == "http",
            "expected an http:// URL, found {text:?}: TLS is not measured here, so name the server behind it"
        );
        ensure!(url.has_host(), "expected a URL with a host, found {text:?}");
        ensure!(
            url.username().is_empty() && url.password().is_none(),
            "expected a URL without a user and a password: use --header for credentials"
        );
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

    /// Adds a header to every request.
    pub fn add_header(&mut self, name: &str, value: &str) -> Result<()> {
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        ensure!(
            !name.is_empty() && name.bytes().all(is_token),
            "expected the name of a header, found {name:?}"
        );
        ensure!(
            !value.chars().any(|c| c.is_control() && c != '\t'),
            "expected a value without control characters for the header {name}"
        );
        for ours in ["host", "content-length", "content-type", "transfer-encoding"] {
            ensure!(
                !name.eq_ignore_ascii_case(ours),
                "the header {name} is set by the load generator"
            );
        }
        let _ = write!(self.headers, "{name}: {value}\r\n");
        Ok(())
    }

    /// Addresses of the host, in the order in which they are to be tried.
    pub fn addresses(&self) -> Result<Vec<SocketAddr>> {
        let authority = &self.url[Position::BeforeHost..Position::AfterHost];
        let port = self.url.port_or_known_default().unwrap_or(80);
        // Brackets belong to the URL, not to the address.
        let host = authority.trim_start_matches('[').trim_end_matches(']');
        let addresses: Vec<SocketAddr> = (host, port)
            .to_socket_addrs()
            .with_context(|| format!("the host {authority} was not found"))?
            .collect();
        ensure!(!addresses.is_empty(), "the host {authority} has no address");
        Ok(addresses)
    }

    /// A POST of `body`.
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

    /// A GET of another path of the same server.
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

/// Sends one request on a connection of its own and waits for the answer.
pub fn exchange(address: SocketAddr, request: &[u8], timeout: Duration) -> Result<Response> {
    let mut stream = TcpStream::connect_timeout(&address, timeout)
        .with_context(|| format!("no connection to {address}"))?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    // A server may refuse before it has read all; what counts is whether it answers.
    let sent = stream.write_all(request);
    let mut reader = ResponseReader::keeping_bodies();
    let mut buffer = BytesMut::new();
    let mut piece = [0; 16 * 1024];
    loop {
        let length = stream
            .read(&mut piece)
            .with_context(|| format!("no answer from {address}"))?;
        if length == 0 {
            sent.with_context(|| format!("{address} did not take the request"))?;
            return reader
                .closed()
                .with_context(|| format!("{address} closed the connection without an answer"));
        }
        buffer.extend_from_slice(&piece[..length]);
        if let Some(answer) = reader.advance(&mut buffer)? {
            return Ok(answer);
        }
    }
}

/// Content type of a file that can be classified, by its name.
fn content_type(file: &Path) -> Option<&'static str> {
    let extension = file.extension()?.to_str()?.to_ascii_lowercase();
    Some(match extension.as_str() {
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "webp" => "image/webp",
        "gif" => "image/gif",
        "bmp" => "image/bmp",
        "txt" => "text/plain; charset=utf-8",
        _ => return None,
    })
}

/// An input, ready to be posted.
#[derive(Debug, Clone)]
pub struct RequestBody {
    /// Value of the `Content-Type` header.
    pub content_type: &'static str,
    /// The file's bytes.
    pub body: Vec<u8>,
}

/// Reads files, and the files of directories (not of those below), in the order of their names.
pub fn read_files(paths: &[PathBuf]) -> Result<Vec<RequestBody>> {
    let mut inputs = Vec::new();
    let mut add = |path: &Path, content_type| -> Result<()> {
        let body = std::fs::read(path).with_context(|| path.display().to_string())?;
        inputs.push(RequestBody { content_type, body });
        Ok(())
    };
    for path in paths {
        if path.is_dir() {
            let mut files: Vec<(PathBuf, &str)> = std::fs::read_dir(path)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .with_context(|| path.display().to_string())?
                .into_iter()
                .map(|entry| entry.path())
                .filter(|file| file.is_file())
                .filter_map(|file| content_type(&file).map(|content_type| (file, content_type)))
                .collect();
            if files.is_empty() {
                bail!("{}: expected pictures or .txt files, found none", path.display());
            }
            files.sort();
            for (file, content_type) in &files {
                add(file, content_type)?;
            }
        } else {
            let content_type = content_type(path).with_context(|| {
                format!(
                    "{}: expected a name that ends in .png, .jpg, .webp, .gif, .bmp or .txt",
                    path.display()
                )
            })?;
            add(path, content_type)?;
        }
    }
    Ok(inputs)
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
    fn a_base_url_gets_the_endpoint_and_the_model() {
        assert_eq!(
            post("http://localhost:8080", Some("a b&c")),
            "POST /v1/classify?model=a+b%26c HTTP/1.1\r\nHost: localhost:8080\r\n\
             Content-Type: image/png\r\nContent-Length: 1\r\n\r\nx"
        );
        assert!(post("[::1]:9", None).starts_with("POST /v1/classify HTTP/1.1\r\nHost: [::1]:9\r\n"));
    }

    #[test]
    fn a_full_url_stays_as_it_is() {
        let request = post("http://h/predict?top_k=3", Some("m"));
        assert!(
            request.starts_with("POST /predict?top_k=3&model=m HTTP/1.1\r\nHost: h\r\n"),
            "{request}"
        );
    }

    #[test]
    fn addresses_of_either_family() {
        let of = |url: &str| Target::parse(url).unwrap().addresses().unwrap()[0].to_string();
        assert_eq!(of("127.0.0.1:81"), "127.0.0.1:81");
        assert_eq!(of("http://[::1]"), "[::1]:80");
    }

    #[test]
    fn urls_that_cannot_be_measured_say_why() {
        for (url, reason) in [
            ("https://localhost", "TLS is not measured"),
            ("ftp://localhost", "expected an http:// URL"),
            ("http://", "expected a URL"),
            ("http://me:secret@host", "use --header"),
        ] {
            let error = format!("{:#}", Target::parse(url).unwrap_err());
            assert!(error.contains(reason), "{url}: {error}");
        }
    }

    #[test]
    fn headers_cannot_break_out_of_their_line() {
        let mut target = Target::parse("h").unwrap();
        target.add_header("X-Tenant", "blue").unwrap();
        assert!(target.add_header("X", "a\r\nY: b").is_err());
        assert!(target.add_header("X Y", "a").is_err());
        assert!(target.add_header("content-length", "5").is_err());
        let request = String::from_utf8(target.post("text/plain", b"").to_vec()).unwrap();
        assert!(request.ends_with("X-Tenant: blue\r\n\r\n"), "{request}");
    }

    #[test]
    fn a_directory_gives_its_pictures_and_texts_in_order() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.txt", "a.PNG", "c.jpeg", "notes.md"] {
            std::fs::write(folder.path().join(name), name).unwrap();
        }
        let inputs = read_files(&[folder.path().to_path_buf()]).unwrap();
        let found: Vec<_> = inputs
            .iter()
            .map(|input| (input.body.as_slice(), input.content_type))
            .collect();
        assert_eq!(
            found,
            [
                (&b"a.PNG"[..], "image/png"),
                (b"b.txt", "text/plain; charset=utf-8"),
                (b"c.jpeg", "image/jpeg")
            ]
        );
        assert!(read_files(&[folder.path().join("notes.md")]).is_err());
        assert!(read_files(&[folder.path().join("missing.png")]).is_err());
    }
}
