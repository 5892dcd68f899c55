//! The commands that need no server.

use std::fs;
use std::io::Write;
use std::process::{Output, Stdio};

use crate::harness::{classifyd, fixture_models, root, white_row};

fn run(options: &[&str]) -> Output {
    classifyd().args(options).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn classify_prints_labels_for_files_and_standard_input() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("row.png");
    fs::write(&file, white_row(2)).unwrap();
    let file = file.to_str().unwrap();
    let models = fixture_models();
    let classify = [
        "classify",
        "--models",
        models.to_str().unwrap(),
        "--model",
        "linear",
    ];

    let output = run(&[&classify[..], &["--top-k", "2", file]].concat());
    assert!(output.status.success(), "{output:?}");
    assert_eq!(text(&output.stdout), format!("{file}\tc 0.9647\ta 0.0177\n"));

    let mut child = classifyd()
        .args(classify)
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
fn classify_reports_bad_inputs_and_goes_on_with_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let (good, bad) = (folder.path().join("good.png"), folder.path().join("bad.png"));
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
        "not a picture",
        "a great film",
        "no such file",
        "2 of 3 inputs failed",
    ] {
        assert!(errors.contains(part), "expected {part:?} in: {errors}");
    }
}

#[test]
fn classify_asks_for_a_model_where_there_are_several() {
    let models = fixture_models();
    let output = run(&["classify", "--models", models.to_str().unwrap(), "picture.png"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("--model: expected one of"),
        "{output:?}"
    );
}

#[test]
fn check_proves_the_shipped_models() {
    let output = run(&["check", root().join("models").to_str().unwrap()]);
    let printed = text(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(
        printed.contains("digits/1: input [1, 28, 28], 10 labels"),
        "{printed}"
    );
    assert!(printed.contains("golden samples reproduced to"), "{printed}");
}

#[test]
fn check_names_what_is_wrong_and_checks_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["good", "bad"] {
        let directory = folder.path().join(name).join("1");
        fs::create_dir_all(&directory).unwrap();
        for file in ["model.onnx", "config.json", "preprocessor_config.json"] {
            fs::copy(fixture_models().join("linear/1").join(file), directory.join(file)).unwrap();
        }
    }
    fs::write(
        folder.path().join("bad/1/config.json"),
        r#"{"id2label": {"0": "a", "1": "b"}}"#,
    )
    .unwrap();
    let output = run(&["check", folder.path().to_str().unwrap()]);
    let printed = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        printed.contains("FAILED") && printed.contains("output logits: expected [batch, 2]"),
        "{printed}"
    );
    assert!(printed.contains("ok ") && printed.contains("good/1"), "{printed}");
    assert!(text(&output.stderr).contains("1 of 2 model directories failed"));
}
