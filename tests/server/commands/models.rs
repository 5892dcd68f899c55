//! `classifyd models` and `classifyd check`, which read model directories without serving them.

use std::fs;

use serde_json::Value;

use super::{run, text};
use crate::harness::{fixture_models, root, some_models};

#[test]
fn models_lists_a_directory() {
    let directory = some_models(&["linear", "probabilities", "words"]);
    let config = directory.path().join("classifyd.toml");
    fs::write(&config, "default_image_model = \"probabilities\"").unwrap();
    let (models, config) = (directory.path().to_str().unwrap(), config.to_str().unwrap());

    let output = run(&["models", models, "--json", "--config", config]);
    assert!(output.status.success(), "{output:?}");
    let found: Vec<(String, bool)> = text(&output.stdout)
        .lines()
        .map(|line| {
            let model: Value = serde_json::from_str(line).unwrap();
            assert!(model["graph_bytes"].as_u64().unwrap() > 0);
            assert_eq!(model["version"], 1);
            (
                model["name"].as_str().unwrap().to_owned(),
                model["default"].as_bool().unwrap(),
            )
        })
        .collect();
    let expected = [("linear", false), ("probabilities", true), ("words", true)];
    assert_eq!(found, expected.map(|(name, default)| (name.to_owned(), default)));

    let output = run(&["models", root().join("models").to_str().unwrap()]);
    let printed = text(&output.stdout);
    let digits = printed.lines().find(|line| line.starts_with("digits")).unwrap();
    let words: Vec<&str> = digits.split_whitespace().collect();
    assert_eq!(words[..3], ["digits/1", "image", "1x28x28"], "{printed}");
    assert!(digits.contains("99.62 % MNIST"), "{printed}");
    for line in printed.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
}

#[test]
fn models_reports_an_unreadable_model_and_lists_the_others() {
    let directory = some_models(&["linear"]);
    fs::create_dir_all(directory.path().join("broken/3")).unwrap();
    let output = run(&["models", directory.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("linear"), "{output:?}");
    let errors = text(&output.stderr);
    assert!(
        errors.contains("broken/3") && errors.contains("1 of 2 models cannot be read"),
        "{errors}"
    );
}

#[test]
fn check_accepts_the_shipped_models() {
    let output = run(&["check", root().join("models").to_str().unwrap()]);
    let printed = text(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(printed.contains("digits/1: 1x28x28, 10 labels"), "{printed}");
    assert!(printed.contains("golden samples reproduced "), "{printed}");
}

#[test]
fn check_reports_a_faulty_model_and_checks_the_others() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["good", "bad"] {
        let directory = directory.path().join(name).join("1");
        fs::create_dir_all(&directory).unwrap();
        for file in ["model.onnx", "config.json", "preprocessor_config.json"] {
            fs::copy(fixture_models().join("linear/1").join(file), directory.join(file)).unwrap();
        }
    }
    fs::write(
        directory.path().join("bad/1/config.json"),
        r#"{"id2label": {"0": "a", "1": "b"}}"#,
    )
    .unwrap();
    let output = run(&["check", directory.path().to_str().unwrap()]);
    let printed = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        printed.contains("FAILED") && printed.contains("output logits: expected [batch, 2]"),
        "{printed}"
    );
    assert!(printed.contains("ok ") && printed.contains("good/1"), "{printed}");
    assert!(text(&output.stderr).contains("1 of 2 model directories failed"));
}

#[test]
fn every_command_names_a_model_directory_without_a_version() {
    let directory = some_models(&["linear"]);
    let wrong = directory.path().join("mine/v1");
    fs::create_dir_all(&wrong).unwrap();
    let models = directory.path().to_str().unwrap();
    let part = "mine: expected a directory named after a version (1, 2, ...), found v1";
    for options in [
        &["check", models][..],
        &["models", models],
        &["warm", "--models", models],
        &["classify", "--models", models, "--text", "a"],
    ] {
        let output = run(options);
        assert!(text(&output.stderr).contains(part), "{options:?}: {output:?}");
    }
    fs::remove_file(directory.path().join("linear")).unwrap();
    let output = run(&["check", models]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains(part), "{output:?}");
}
