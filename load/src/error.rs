use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why a request could not be built, or a load could not run.
///
/// Requests that fail *during* a load are no errors: they are counted as
/// [`Failure`](crate::Failure)s.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is not a URL that requests can be sent to.
    #[error("expected {expected}, found {found:?}")]
    Url {
        /// What was expected.
        expected: &'static str,
        /// The text.
        found: String,
    },
    /// The URL has a user or a password.
    #[error("expected a URL without a user and a password: send credentials in a header")]
    Credentials,
    /// A header that cannot be sent.
    #[error("header {name:?}: {reason}")]
    Header {
        /// The header's name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The name of the host could not be resolved.
    #[error("cannot resolve the host {host}")]
    Resolve {
        /// The host of the URL.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// The host has no address.
    #[error("expected an address to connect to, found none")]
    NoAddress,
    /// A file could not be read.
    #[error("{}", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The extension of a file names no known content type.
    #[error("{}: expected a name that ends in .png, .jpg, .webp, .gif, .bmp or .txt", .0.display())]
    FileType(PathBuf),
    /// A directory has no file of a known content type.
    #[error("{}: expected images or .txt files, found none", .0.display())]
    NoFiles(PathBuf),
    /// The server accepts no connection.
    #[error("no connection to {address}")]
    Connect {
        /// The server.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The server did not respond in time, closed the connection, or sent something other than an
    /// HTTP/1.1 response.
    #[error("no response from {address}")]
    NoResponse {
        /// The server.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// [`LoadSpec::requests`](crate::LoadSpec::requests) is empty.
    #[error("expected requests to send, found none")]
    NoRequests,
    /// The load generator could not start a thread or a runtime.
    #[error("cannot start the load generator")]
    Start(#[source] io::Error),
    /// A thread of the load generator panicked, so its counts are lost.
    #[error("a thread of the load generator panicked")]
    Panicked,
}
