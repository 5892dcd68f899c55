//! Authentication, rate limits, headers for browsers and the admin listener.

mod admin_listener;
mod api_keys;
mod headers;
mod rate_limits;

use std::fs;
use std::path::PathBuf;

use reqwest::{RequestBuilder, StatusCode};

use crate::harness::{Server, classifyd, problem, some_models};

/// An API key that the binary has made, and its entry.
pub(crate) struct Made {
    pub(crate) key: String,
    pub(crate) entry: String,
}

pub(crate) fn make_key(name: &str) -> Made {
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
    Made { key, entry }
}

/// A file with this configuration, which is kept as long as the folder.
pub(crate) struct File {
    folder: tempfile::TempDir,
}

impl File {
    pub(crate) fn new(text: &str) -> Self {
        let file = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        file.write(text);
        file
    }

    fn write(&self, text: &str) {
        fs::write(self.path(), text).unwrap();
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("classifyd.toml")
    }
}

pub(crate) fn start(file: &File, options: &[&str]) -> Server {
    let models = some_models(&["linear"]);
    let path = file.path();
    let server = Server::start(
        models.path(),
        &[&["--config", path.to_str().unwrap()], options].concat(),
    );
    // The models are loaded.
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
