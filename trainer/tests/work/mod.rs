//! Runs the program in a directory of its own.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

/// A directory with data, in which runs and models are written.
pub(crate) struct Work(tempfile::TempDir);

impl Work {
    /// `write` puts a data set into the directory that it is given.
    pub(crate) fn new(write: impl Fn(&Path)) -> Self {
        let work = Self(tempfile::tempdir().unwrap());
        fs::create_dir(work.path("data")).unwrap();
        write(&work.path("data"));
        work
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_trainer"));
        command
            .args(arguments.split_whitespace())
            .args(["--data", "data"])
            .current_dir(self.0.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // Cargo gives the library's path relative to nothing that a test could rely on.
        let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.onnxruntime/libonnxruntime.so.1.31.1");
        if library.exists() {
            command.env("ORT_DYLIB_PATH", library);
        }
        command
    }

    pub(crate) fn run(&self, arguments: &str) -> Output {
        self.command(arguments).output().unwrap()
    }

    pub(crate) fn succeed(&self, arguments: &str) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    pub(crate) fn fail(&self, arguments: &str) -> String {
        let output = self.run(arguments);
        assert_eq!(
            output.status.code(),
            Some(1),
            "{arguments}: {}",
            text(&output.stdout)
        );
        text(&output.stderr)
    }

    pub(crate) fn model(&self, directory: &str) -> Vec<u8> {
        fs::read(self.path(directory).join("model.onnx")).unwrap()
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}
