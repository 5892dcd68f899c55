//! Runs the program in a temporary directory.

#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

/// A temporary directory for data, runs and models.
pub(crate) struct Work {
    directory: tempfile::TempDir,
    /// Arguments that are added to every command line.
    common: &'static [&'static str],
}

impl Work {
    /// Creates a directory with a data set, which `write` puts into the directory that it gets. All
    /// commands use this data set.
    pub(crate) fn new(write: impl Fn(&Path)) -> Self {
        let work = Self {
            common: &["--data", "data"],
            ..Self::empty()
        };
        fs::create_dir(work.path("data")).unwrap();
        write(&work.path("data"));
        work
    }

    /// Creates an empty directory.
    pub(crate) fn empty() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            common: &[],
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    pub(crate) fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_trainer"));
        command
            .args(arguments.split_whitespace())
            .args(self.common)
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // The program looks for the library relative to its working directory, which is another one
        // here.
        let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.onnxruntime/libonnxruntime.so.1.31.1");
        if library.exists() {
            command.env("ORT_DYLIB_PATH", library);
        }
        command
    }

    pub(crate) fn run(&self, arguments: &str) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command that must succeed, and returns its standard output.
    pub(crate) fn succeed(&self, arguments: &str) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Runs a command that must succeed, and returns its standard output followed by its log.
    pub(crate) fn succeed_with_log(&self, arguments: &str) -> String {
        let output = self.run(arguments);
        let all = text(&output.stdout) + &text(&output.stderr);
        assert!(output.status.success(), "{arguments}: {all}");
        all
    }

    /// Runs a command that must exit with code 1, and returns its log.
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

    /// Starts a command, waits until `reached` returns true, and sends it a signal such as `-INT`.
    pub(crate) fn stop(&self, arguments: &str, signal: &str, reached: impl Fn() -> bool) -> ExitStatus {
        let mut child: Child = self.command(arguments).spawn().unwrap();
        let started = Instant::now();
        while !reached() {
            assert!(started.elapsed() < Duration::from_mins(3), "no progress");
            assert_eq!(child.try_wait().unwrap(), None, "ended before it was stopped");
            thread::sleep(Duration::from_millis(2));
        }
        let sent = Command::new("kill")
            .args([signal, &child.id().to_string()])
            .status();
        assert!(sent.unwrap().success());
        child.wait().unwrap()
    }

    /// Returns the progress of a training run, or null before its first checkpoint.
    pub(crate) fn state(&self, run: &str) -> serde_json::Value {
        let text = fs::read_to_string(self.path(run).join("state.json")).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Returns the graph of a model directory.
    pub(crate) fn model(&self, directory: &str) -> Vec<u8> {
        fs::read(self.path(directory).join("model.onnx")).unwrap()
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}
