//! `classifyd classify`.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::{run, text};
use crate::busy::Busy;
use crate::harness::{Server, classifyd, fixture_models, root, some_models, white_row};

/// `classifyd classify` with a model of the fixtures.
fn classify(model: &str) -> Command {
    let mut command = classifyd();
    command.args(["classify", "--model", model, "--models"]);
    command.arg(fixture_models());
    command
}

#[test]
fn classify_prints_labels_for_files_and_standard_input() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("row.png");
    fs::write(&file, white_row(2)).unwrap();
    let file = file.to_str().unwrap();
    let output = classify("linear").args(["--top-k", "2", file]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(text(&output.stdout), format!("{file}\tc 0.9647\ta 0.0177\n"));

    let mut child = classify("linear")
        .args(["--json", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&white_row(0)).unwrap();
    let output = child.wait_with_output().unwrap();
    let line: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(line["label"], "a");
    assert_eq!(line["top"].as_array().unwrap().len(), 3);
}

#[test]
fn classify_reports_invalid_inputs_and_continues_with_the_others() {
    let directory = tempfile::tempdir().unwrap();
    let (good, bad) = (
        directory.path().join("good.png"),
        directory.path().join("bad.png"),
    );
    fs::write(&good, white_row(1)).unwrap();
    fs::write(&bad, "no picture").unwrap();
    let models = fixture_models();
    let output = run(&[
        "classify",
        "--models",
        models.to_str().unwrap(),
        "--model",
        "linear",
        bad.to_str().unwrap(),
        "a great film",
        good.to_str().unwrap(),
    ]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("good.png\tb 0.9647"), "{output:?}");
    let errors = text(&output.stderr);
    for part in [
        "bad.png",
        "unknown image format",
        "a great film",
        "no such file",
        "2 of 3 inputs failed",
    ] {
        assert!(errors.contains(part), "expected {part:?} in: {errors}");
    }
}

#[test]
fn every_input_has_a_json_line_even_if_it_failed() {
    let directory = labelled_images();
    fs::write(directory.path().join("b/0.png"), "no picture").unwrap();
    let output = classify_in(directory.path(), &["--json", "nosuch.png", "b"]);
    assert_eq!(output.status.code(), Some(1));
    let lines: Vec<Value> = text(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let inputs: Vec<&str> = lines.iter().map(|line| line["input"].as_str().unwrap()).collect();
    assert_eq!(inputs, ["nosuch.png", "b/0.png", "b/1.png"]);
    assert!(
        lines[0]["error"].as_str().unwrap().contains("no such file"),
        "{output:?}"
    );
    assert!(
        lines[1]["error"]
            .as_str()
            .unwrap()
            .contains("unknown image format"),
        "{output:?}"
    );
    assert_eq!(lines[1]["label"], Value::Null);
    assert_eq!(
        (&lines[2]["label"], &lines[2]["error"]),
        (&"b".into(), &Value::Null)
    );
}

#[test]
fn the_csv_example_of_the_command_line_guide_works() {
    let guide = fs::read_to_string(root().join("docs/cli.md")).unwrap();
    let filter = guide
        .split_once("| jq -r '")
        .unwrap()
        .1
        .split_once('\'')
        .unwrap()
        .0;
    let directory = labelled_images();
    let output = classify_in(directory.path(), &["--json", "nosuch.png", "b"]);
    let lines = directory.path().join("lines.json");
    fs::write(&lines, &output.stdout).unwrap();
    let Ok(output) = Command::new("jq").args(["-r", filter]).arg(lines).output() else {
        eprintln!("left out: there is no jq");
        return;
    };
    let table = text(&output.stdout);
    let rows: Vec<&str> = table.lines().collect();
    assert!(rows[0].starts_with("\"nosuch.png\",,,\"expected"), "{table}");
    assert!(
        rows[1].starts_with("\"b/1.png\",\"b\",0.96") && rows[1].ends_with(','),
        "{table}"
    );
}

#[test]
fn classify_names_the_files_in_a_directory_that_it_skips() {
    let directory = labelled_images();
    for name in ["c/scan.tiff", "c/phone.HEIC"] {
        fs::write(directory.path().join(name), "not looked at").unwrap();
    }
    let output = classify_in(directory.path(), &["c"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(text(&output.stdout).lines().count(), 2, "{output:?}");
    let errors = text(&output.stderr);
    assert!(
        errors.contains("skipped 2 files whose names do not end in")
            && errors.contains(": c/phone.HEIC, c/scan.tiff"),
        "{errors}"
    );
}

#[test]
fn classify_requires_model_if_there_are_several() {
    let models = fixture_models();
    let output = run(&["classify", "--models", models.to_str().unwrap(), "picture.png"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("--model: expected one of"),
        "{output:?}"
    );
}

/// Directories `a`, `b` and `c` with images. The fixture `linear` labels each as its directory,
/// except one in `c`, which is an `a`.
fn labelled_images() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (file, row) in [("a/1.png", 0), ("b/1.png", 1), ("c/1.png", 2), ("c/2.png", 0)] {
        let path = directory.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, white_row(row)).unwrap();
    }
    fs::write(directory.path().join("notes.md"), "no picture").unwrap();
    directory
}

/// Runs `classifyd classify` in a directory, with the fixture `linear`.
fn classify_in(directory: &Path, options: &[&str]) -> Output {
    let mut command = classifyd();
    command
        .current_dir(directory)
        .args(["classify", "--model", "linear"]);
    if !options.contains(&"--url") {
        command.arg("--models").arg(fixture_models());
    }
    command.args(options).output().unwrap()
}

#[test]
fn classify_accepts_directories_and_patterns() {
    let directory = labelled_images();
    let all = "./a/1.png\ta 0.9647\n./b/1.png\tb 0.9647\n./c/1.png\tc 0.9647\n./c/2.png\ta 0.9647\n";
    let output = classify_in(directory.path(), &["--top-k", "1", "."]);
    assert_eq!(text(&output.stdout), all, "{output:?}");
    let output = classify_in(
        directory.path(),
        &["--top-k", "1", "--concurrency", "1", "*/1.png"],
    );
    assert_eq!(
        text(&output.stdout),
        "a/1.png\ta 0.9647\nb/1.png\tb 0.9647\nc/1.png\tc 0.9647\n"
    );
    let output = classify_in(directory.path(), &["*.gif", "c"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout).lines().count(), 2, "{output:?}");
    assert!(
        text(&output.stderr).contains("*.gif: expected an image file"),
        "{output:?}"
    );
}

#[test]
fn classify_does_not_treat_a_mistyped_file_name_as_a_text() {
    let run_words = |options: &[&str]| classify("words").args(options).output().unwrap();
    for name in ["nosuch.txt", "./nosuch", "nosuch/review"] {
        let output = run_words(&[name]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        assert!(text(&output.stderr).contains("found no such file"), "{output:?}");
        let output = run_words(&["--text", name]);
        assert!(output.status.success(), "{output:?}");
        assert!(text(&output.stdout).starts_with(name), "{output:?}");
    }
}

#[test]
fn classify_prints_the_accuracy_against_directory_names() {
    let directory = labelled_images();
    let output = classify_in(directory.path(), &["--labels-from-folders", "--top-k", "1", "."]);
    assert!(output.status.success(), "{output:?}");
    let printed = text(&output.stdout);
    assert!(
        printed.ends_with("./c/2.png\ta 0.9647\texpected c\n"),
        "{printed}"
    );
    assert!(
        text(&output.stderr).contains("accuracy 75.00 %: 3 of 4"),
        "{output:?}"
    );
    fs::create_dir(directory.path().join("d")).unwrap();
    fs::write(directory.path().join("d/1.png"), white_row(0)).unwrap();
    let output = classify_in(directory.path(), &["--labels-from-folders", "--json", "c", "d"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("(a, b, c), found \"d\""),
        "{output:?}"
    );
    assert!(text(&output.stdout).contains("\"expected\":\"c\""), "{output:?}");
}

#[test]
fn classify_prints_the_same_with_and_without_a_server() {
    let server = Server::start(some_models(&["linear", "words"]).path(), &[]);
    let url = server.url("");
    let directory = labelled_images();
    fs::write(directory.path().join("bad.png"), "no picture").unwrap();
    for options in [
        &["."][..],
        &["--json", "."],
        &["--top-k", "1", "--labels-from-folders", "."],
    ] {
        let here = classify_in(directory.path(), options);
        let there = classify_in(directory.path(), &[options, &["--url", &url]].concat());
        // Except for the reason of a failure, which includes the code of the server's response.
        let printed = |output: &Output| {
            let lines = text(&output.stdout);
            let lines = lines
                .lines()
                .map(|line| line.split("\"error\"").next().unwrap().to_owned());
            lines.collect::<Vec<_>>()
        };
        assert_eq!(printed(&here), printed(&there), "{there:?}");
        assert_eq!((here.status.code(), there.status.code()), (Some(1), Some(1)));
        let errors = text(&there.stderr);
        for part in [
            "bad.png",
            "422 invalid_image",
            "unknown image format",
            "1 of 5 inputs failed",
        ] {
            assert!(errors.contains(part), "expected {part:?} in: {errors}");
        }
    }

    // Without a model, the server chooses one by the type of the input.
    let output = classifyd()
        .current_dir(directory.path())
        .args([
            "classify",
            "--url",
            &server.address.to_string(),
            "--json",
            "notes.md",
            "a/1.png",
        ])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let labels: Vec<Value> = text(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(labels[0]["top"].as_array().unwrap().len(), 3);
    assert_eq!(labels[1]["label"], "a");
}

#[test]
fn classify_retries_on_a_busy_server_and_sends_its_api_key() {
    let server = Server::start(some_models(&["linear"]).path(), &[]);
    let busy = Busy::before(server.address, 2);
    let directory = labelled_images();
    let options = [
        "--url",
        &format!("http://{}", busy.address),
        "--api-key",
        "key-of-a-test",
        "a",
        "b",
    ];
    let output = classify_in(directory.path(), &options);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(text(&output.stdout).lines().count(), 2, "{output:?}");
    let requests = busy.requests();
    // One request for the model's description and two for images, two of which had to be retried.
    assert_eq!(requests.len(), 5, "{requests:?}");
    for request in requests {
        assert_eq!(request.header("authorization"), Some("Bearer key-of-a-test"));
    }
}

#[test]
fn classify_explains_why_a_server_cannot_be_used() {
    let server = Server::start(some_models(&["linear"]).path(), &[]);
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = unused.local_addr().unwrap().to_string();
    drop(unused);
    for (url, model, reason) in [
        (
            server.url(""),
            "nope",
            "404 model_not_found: model: expected one of linear",
        ),
        (nobody, "linear", "no response from http://127.0.0.1:"),
        (
            "ftp://localhost".to_owned(),
            "linear",
            "--url: expected an http:// or https:// URL",
        ),
    ] {
        let output = run(&["classify", "--url", &url, "--model", model, "x.png"]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(text(&output.stderr).contains(reason), "{output:?}");
    }
}
