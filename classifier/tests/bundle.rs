//! Every mistake in a model directory is an error that names the file, the key, what was expected and what was found.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};

use classifier::runtime::library;
use classifier::{Bundle, Classifier, SessionOptions};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/fixtures/models")
        .join(name)
        .join("1")
}

/// A copy of the fixture `linear`, changed.
fn changed(change: impl FnOnce(&Path)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture("linear")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    change(folder.path());
    folder
}

fn open(directory: &Path) -> Result<usize, String> {
    library::load(None).unwrap();
    let open = || -> Result<usize, classifier::Error> {
        let bundle = Bundle::open(directory)?;
        let mut classifier = Classifier::new(bundle, &SessionOptions::default())?;
        Ok(classifier.check_golden()?.0)
    };
    open().map_err(|error| error.to_string())
}

#[test]
fn mistakes_are_named() {
    type Case = (&'static str, fn(&Path), &'static [&'static str]);
    fn write(directory: &Path, file: &str, text: &str) {
        fs::write(directory.join(file), text).unwrap();
    }
    fn copy_model(directory: &Path, from: &str) {
        fs::copy(fixture(from).join("model.onnx"), directory.join("model.onnx")).unwrap();
    }
    fn preprocessor(directory: &Path, more: &str) {
        let size = r#""do_convert_grayscale": true, "size": {"height": 4, "width": 4}"#;
        write(
            directory,
            "preprocessor_config.json",
            &format!("{{{size}, {more}}}"),
        );
    }
    fn golden(directory: &Path, entry: &str) {
        write(directory, "golden.json", &format!("{{\"samples\": [{entry}]}}"));
    }
    let cases: &[Case] = &[
        (
            "no graph",
            |d| fs::remove_file(d.join("model.onnx")).unwrap(),
            &["model.onnx", "expected an ONNX graph", "No such file"],
        ),
        (
            "empty graph",
            |d| write(d, "model.onnx", ""),
            &["model.onnx", "an empty file"],
        ),
        (
            "not ONNX",
            |d| write(d, "model.onnx", "hello, this is text"),
            &["model.onnx", "expected an ONNX graph"],
        ),
        (
            "no config",
            |d| fs::remove_file(d.join("config.json")).unwrap(),
            &["config.json", "No such file"],
        ),
        (
            "broken config",
            |d| write(d, "config.json", "{"),
            &["config.json", "EOF"],
        ),
        (
            "no labels",
            |d| write(d, "config.json", r#"{"id2label": {}}"#),
            &["config.json: id2label", "at least one label"],
        ),
        (
            "labels with a gap",
            |d| write(d, "config.json", r#"{"id2label": {"0": "a", "2": "c"}}"#),
            &["config.json: id2label", "\"0\" to \"1\"", "found \"2\""],
        ),
        (
            "a label twice",
            |d| {
                write(
                    d,
                    "config.json",
                    r#"{"id2label": {"0": "a", "1": "b", "2": "a"}}"#,
                )
            },
            &["config.json: id2label.2", "a label of its own", "\"a\""],
        ),
        (
            "a label that is a number",
            |d| write(d, "config.json", r#"{"id2label": {"0": 7}}"#),
            &["config.json: id2label", "invalid type"],
        ),
        (
            "problem type",
            |d| {
                write(
                    d,
                    "config.json",
                    r#"{"id2label": {"0": "a"}, "problem_type": "regression"}"#,
                )
            },
            &[
                "config.json: problem_type",
                "regression",
                "single_label_classification",
            ],
        ),
        (
            "more labels than outputs",
            |d| {
                write(
                    d,
                    "config.json",
                    r#"{"id2label": {"0": "a", "1": "b", "2": "c", "3": "d"}}"#,
                )
            },
            &[
                "model.onnx: output logits",
                "expected [batch, 4], for config.json has 4 labels",
                "3",
            ],
        ),
        (
            "no preprocessor",
            |d| fs::remove_file(d.join("preprocessor_config.json")).unwrap(),
            &["preprocessor_config.json", "No such file"],
        ),
        (
            "a row that the graph does not take",
            |d| {
                write(
                    d,
                    "preprocessor_config.json",
                    r#"{"do_convert_grayscale": true, "size": {"height": 5, "width": 4}}"#,
                )
            },
            &["model.onnx: input pixel_values", "float32 [batch, 1, 5, 4]"],
        ),
        (
            "three channels for one",
            |d| {
                write(
                    d,
                    "preprocessor_config.json",
                    r#"{"size": {"height": 4, "width": 4}}"#,
                )
            },
            &["model.onnx: input pixel_values", "[batch, 3, 4, 4]"],
        ),
        (
            "layout",
            |d| copy_model(d, "linear_nhwc"),
            &[
                "model.onnx: input pixel_values",
                "as preprocessor_config.json and the layout say",
            ],
        ),
        (
            "size of a wrong type",
            |d| write(d, "preprocessor_config.json", r#"{"size": "big"}"#),
            &["preprocessor_config.json: size"],
        ),
        (
            "no size",
            |d| write(d, "preprocessor_config.json", r#"{"do_resize": true}"#),
            &["preprocessor_config.json: size", "found none"],
        ),
        (
            "a size that depends on the picture",
            |d| write(d, "preprocessor_config.json", r#"{"size": {"shortest_edge": 4}}"#),
            &["preprocessor_config.json: size", "do_center_crop"],
        ),
        (
            "huge size",
            |d| {
                write(
                    d,
                    "preprocessor_config.json",
                    r#"{"size": {"height": 4, "width": 1000000}}"#,
                )
            },
            &["size: expected sides between 1 and 4096"],
        ),
        (
            "resample",
            |d| preprocessor(d, r#""resample": 9"#),
            &["preprocessor_config.json: resample", "found 9", "lanczos"],
        ),
        (
            "padding",
            |d| preprocessor(d, r#""do_pad": true"#),
            &["preprocessor_config.json: do_pad", "not supported"],
        ),
        (
            "means",
            |d| preprocessor(d, r#""image_mean": [0.5, 0.5, 0.5], "image_std": [1, 1, 1]"#),
            &["image_std: expected 1 finite number(s)"],
        ),
        (
            "deviation of zero",
            |d| preprocessor(d, r#""image_mean": [0.5], "image_std": [0]"#),
            &["image_std: expected no zero"],
        ),
        (
            "ink without size",
            |d| {
                write(
                    d,
                    "preprocessor_config.json",
                    r#"{"do_convert_grayscale": true, "do_fit_ink": true}"#,
                )
            },
            &["size: expected a height and a width"],
        ),
        (
            "ink too large",
            |d| preprocessor(d, r#""do_fit_ink": true, "ink_size": 5"#),
            &["ink_size: expected between 1 and 4"],
        ),
        (
            "unknown key of our own file",
            |d| write(d, "serving.toml", "[batch]\nmax_sze = 3"),
            &["serving.toml: batch.max_sze", "unknown field", "max_size"],
        ),
        (
            "value of our own file",
            |d| write(d, "serving.toml", "[lanes]\ncount = 0"),
            &["serving.toml: lanes.count", "at least 1", "found 0"],
        ),
        (
            "broken TOML",
            |d| write(d, "serving.toml", "[batch"),
            &["serving.toml", "line 1"],
        ),
        (
            "output",
            |d| write(d, "serving.toml", "output = \"probs\""),
            &[
                "serving.toml: output",
                "an output of the graph (logits)",
                "\"probs\"",
            ],
        ),
        (
            "accuracy",
            |d| {
                write(
                    d,
                    "serving.toml",
                    "[measured]\ndataset = \"x\"\nsplit = \"test\"\nsamples = 1\naccuracy = 99.5",
                )
            },
            &["serving.toml: measured.accuracy", "between 0 and 1", "99.5"],
        ),
        (
            "golden, no samples",
            |d| golden(d, ""),
            &["golden.json: samples", "at least one"],
        ),
        (
            "golden, scores",
            |d| golden(d, r#"{"file": "a.png", "label": "a", "scores": [1.0]}"#),
            &["golden.json: samples[0].scores", "3 scores", "found 1"],
        ),
        (
            "golden, label",
            |d| golden(d, r#"{"file": "a.png", "label": "z", "scores": [1, 0, 0]}"#),
            &["golden.json: samples[0].label", "\"z\""],
        ),
        (
            "golden, no file",
            |d| golden(d, r#"{"file": "a.png", "label": "a", "scores": [1, 0, 0]}"#),
            &["golden.json: samples[0].file", "a.png", "No such file"],
        ),
        (
            "golden, a file outside",
            |d| {
                golden(
                    d,
                    r#"{"file": "../../etc/passwd", "label": "a", "scores": [1, 0, 0]}"#,
                )
            },
            &["golden.json: samples[0].file", "inside the model directory"],
        ),
        (
            "golden, tolerance",
            |d| write(d, "golden.json", r#"{"tolerance": 2, "samples": []}"#),
            &["golden.json: tolerance", "between 0 and 1"],
        ),
    ];
    for (name, change, parts) in cases {
        let directory = changed(change);
        let error = open(directory.path()).expect_err(name);
        for part in *parts {
            assert!(error.contains(part), "{name}: expected {part:?} in: {error}");
        }
    }
    assert_eq!(open(changed(|_| {}).path()), Ok(0), "unchanged, it is right");
}

#[test]
fn golden_scores_are_compared() {
    let sample = |scores: &str| {
        let directory = changed(|_| {});
        let picture = image::GrayImage::from_fn(4, 4, |_, y| image::Luma([if y == 1 { 255 } else { 0 }]));
        picture.save(directory.path().join("b.png")).unwrap();
        let golden = format!(r#"{{"samples": [{{"file": "b.png", "label": "b", "scores": {scores}}}]}}"#);
        fs::write(directory.path().join("golden.json"), golden).unwrap();
        open(directory.path())
    };
    // Logits 0, 4, 0.
    assert_eq!(sample("[0.017668, 0.964663, 0.017668]"), Ok(1));
    let error = sample("[0.017668, 0.962, 0.020]").unwrap_err();
    assert!(
        error.contains("b.png: label") && error.contains("expected a score of 0.962"),
        "{error}"
    );
}

#[test]
fn a_text_classifier_is_refused_with_the_reason() {
    let directory =
        changed(|d| fs::rename(d.join("preprocessor_config.json"), d.join("tokenizer.json")).unwrap());
    let error = open(directory.path()).unwrap_err();
    assert!(
        error.contains("text classifiers are not supported yet"),
        "{error}"
    );
}
