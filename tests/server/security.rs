//! Authentication, rate limits, headers for browsers and the admin listener.

mod admin_listener;
mod api_keys;
mod headers;
mod rate_limits;

use std::fs;
use std::path::PathBuf;

use reqwest::{RequestBuilder, StatusCode};

use crate::harness::{Server, classifyd, problem, some_models};

/// An API key made by the binary, and its entry for the configuration.
pub(crate) struct ApiKey {
    pub(crate) key: String,
    pub(crate) entry: String,
}

pub(crate) fn make_key(name: &str) -> ApiKey {
    let output = classifyd().args(["api-key", name]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let (entry, told) = (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    );
    let key = told.lines().last().unwrap().to_owned();
    assert!(key.starts_with("cfd_") && key.len() > 40, "{told}");
    assert!(!entry.contains(&key), "{entry}");
    assert!(told.contains("the end of the file"), "{told}");
    ApiKey { key, entry }
}

/// A configuration file in a temporary directory.
pub(crate) struct ConfigFile {
    directory: tempfile::TempDir,
}

impl ConfigFile {
    pub(crate) fn new(text: &str) -> Self {
        let file = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        file.write(text);
        file
    }

    fn write(&self, text: &str) {
        fs::write(self.path(), text).unwrap();
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("classifyd.toml")
    }
}

pub(crate) fn start(file: &ConfigFile, options: &[&str]) -> Server {
    let models = some_models(&["linear"]);
    let path = file.path();
    let server = Server::start(
        models.path(),
        &[&["--config", path.to_str().unwrap()], options].concat(),
    );
    // The server has loaded the models, so their directory may go.
    drop(models);
    server
}

async fn status(request: RequestBuilder) -> StatusCode {
    request.send().await.unwrap().status()
}

async fn code(request: RequestBuilder) -> String {
    problem(request.send().await.unwrap()).await["code"]
        .as_str()
        .unwrap()
        .to_owned()
}
