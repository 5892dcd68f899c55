//! The server contacts no host and writes no file that was not configured.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{classifyd, fixture_models, root};

/// The command with an empty home and no telemetry variable.
fn at_home(home: &Path) -> Command {
    let mut command = classifyd();
    let library = root().join(".onnxruntime/libonnxruntime.so.1.31.1");
    command
        .env_clear()
        .env("HOME", home)
        .env("ORT_DYLIB_PATH", library);
    command
}

fn files_below(directory: &Path) -> Vec<String> {
    let entries = walkdir::WalkDir::new(directory).min_depth(1);
    entries
        .into_iter()
        .map(|entry| entry.unwrap().path().display().to_string())
        .collect()
}

#[test]
fn every_command_that_loads_the_library_turns_its_telemetry_off() {
    let home = tempfile::tempdir().unwrap();
    let model = fixture_models().join("linear/1");
    let mut child = at_home(home.path())
        .args(["serve", "--listen", "127.0.0.1:0", "--models"])
        .arg(root().join("models"))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let environment = format!("/proc/{}/environ", child.id());
    let begun = Instant::now();
    let told = loop {
        let variables = std::fs::read(&environment).unwrap();
        let mut variables = variables.split(|byte| *byte == 0);
        if variables.any(|variable| variable == b"ORT_DISABLE_TELEMETRY=1") {
            break true;
        }
        if begun.elapsed() > Duration::from_secs(20) {
            break false;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    // Gives the library time to write, in case it does.
    std::thread::sleep(Duration::from_secs(2));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(
        told,
        "the environment of the running server lacks ORT_DISABLE_TELEMETRY=1"
    );

    let output = at_home(home.path()).arg("check").arg(&model).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(files_below(home.path()), Vec::<String>::new());
}

#[test]
fn an_operators_telemetry_setting_is_kept() {
    let home = tempfile::tempdir().unwrap();
    let mut child = at_home(home.path())
        .args(["serve", "--listen", "127.0.0.1:0", "--models"])
        .arg(root().join("models"))
        .env("ORT_DISABLE_TELEMETRY", "yes")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The program may re-execute itself before its first log line, but not after it.
    let mut line = String::new();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    log.read_line(&mut line).unwrap();
    let variables = std::fs::read(format!("/proc/{}/environ", child.id())).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!line.is_empty(), "the server ended without a log line");
    let values: Vec<_> = variables
        .split(|byte| *byte == 0)
        .filter(|variable| variable.starts_with(b"ORT_DISABLE_TELEMETRY"))
        .collect();
    assert_eq!(values, [b"ORT_DISABLE_TELEMETRY=yes"]);
}

#[test]
fn a_re_executed_process_keeps_its_arguments_and_exit_code() {
    let home = tempfile::tempdir().unwrap();
    let output = at_home(home.path())
        .args(["check", "a folder that is not there"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("a folder that is not there"), "{text}");
    let output = at_home(home.path()).arg("--no-such-flag").output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}
