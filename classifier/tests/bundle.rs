//! Every mistake in a model directory is an error that names the file, the key, what was expected
//! and what was found.

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
    changed_copy("linear", change)
}

/// A copy of a fixture, changed.
fn changed_copy(name: &str, change: impl FnOnce(&Path)) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture(name)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, directory.path().join(path.file_name().unwrap())).unwrap();
    }
    change(directory.path());
    directory
}

fn open(directory: &Path) -> Result<usize, String> {
    library::load(None).unwrap();
    let open = || -> Result<usize, classifier::ClassifierError> {
        let bundle = Bundle::open(directory)?;
        let mut classifier = Classifier::new(bundle, &SessionOptions::default())?;
        Ok(classifier.check_golden()?.0)
    };
    open().map_err(|error| error.to_string())
}

#[test]
fn mistakes_are_reported_with_file_and_key() {
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
                "expected [batch, 4] for the 4 labels of config.json",
                "3",
            ],
        ),
        (
            "no preprocessor",
            |d| fs::remove_file(d.join("preprocessor_config.json")).unwrap(),
            &[
                "preprocessor_config.json for an image classifier, or tokenizer.json",
                "found neither",
            ],
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
            "a size that depends on the image",
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
            "a key of text classifiers",
            |d| write(d, "serving.toml", "[text]\nbuckets = [8]"),
            &["serving.toml: text", "no such key for an image classifier"],
        ),
        (
            "another key of text classifiers",
            |d| write(d, "serving.toml", "[batch]\nmax_tokens = 8"),
            &["serving.toml: batch.max_tokens", "an image classifier"],
        ),
        (
            "images and texts",
            |d| write(d, "tokenizer.json", "{}"),
            &["preprocessor_config.json for", "found both"],
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
        let drawn = image::GrayImage::from_fn(4, 4, |_, y| image::Luma([if y == 1 { 255 } else { 0 }]));
        drawn.save(directory.path().join("b.png")).unwrap();
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

/// A change of a model directory, and what its error says.
type Mistake = (fn(&Path), &'static [&'static str]);

#[test]
fn mistakes_of_text_classifiers_are_reported_with_file_and_key() {
    fn serving(directory: &Path, text: &str) {
        fs::write(directory.join("serving.toml"), text).unwrap();
    }
    fn model_of(directory: &Path, name: &str) {
        fs::copy(fixture(name).join("model.onnx"), directory.join("model.onnx")).unwrap();
    }
    let cases: &[Mistake] = &[
        (
            |d| serving(d, "[text]\nbuckets = [8, 65]"),
            &["serving.toml: text.buckets", "between 1 and 64", "found 65"],
        ),
        (
            |d| serving(d, "[text]\nbucket = [8]"),
            &["serving.toml: text.bucket", "unknown field", "buckets"],
        ),
        (
            |d| serving(d, "[text]\ntruncation = \"middle\""),
            &["serving.toml: text.truncation", "middle", "head_tail"],
        ),
        (
            |d| serving(d, "layout = \"nchw\""),
            &["serving.toml: layout", "no such key for a text classifier"],
        ),
        (
            |d| serving(d, "[batch]\nmax_tokens = 63"),
            &[
                "serving.toml: batch.max_tokens",
                "at least model_max_length, which is 64",
                "found 63",
            ],
        ),
        (
            |d| fs::remove_file(d.join("tokenizer_config.json")).unwrap(),
            &[
                "tokenizer_config.json: model_max_length",
                "between 1 and 65536",
                "found none",
            ],
        ),
        (
            |d| model_of(d, "linear"),
            &[
                "model.onnx",
                "the input input_ids, and at most attention_mask",
                "pixel_values",
            ],
        ),
    ];
    for (change, parts) in cases {
        let directory = changed_copy("words", change);
        let error = open(directory.path()).unwrap_err();
        for part in *parts {
            assert!(error.contains(part), "expected {part:?} in: {error}");
        }
    }
    assert_eq!(
        open(changed_copy("words", |_| {}).path()),
        Ok(0),
        "unchanged, it is right"
    );
}

#[test]
fn texts_get_the_scores_computed_by_hand() {
    library::load(None).unwrap();
    let scores = |name: &str, text: &str| {
        let mut classifier = classifier::open(fixture(name)).unwrap();
        classifier.scores(text.as_bytes()).unwrap()
    };
    // Logits 0, 4, 0 and, with an unknown word beside it, 0, 2, 0.
    let close = |found: Vec<f32>, expected: [f32; 3]| {
        let near = found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5);
        assert!(near, "expected {expected:?}, found {found:?}");
    };
    close(scores("words", "Banana<br />"), [0.017_668, 0.964_663, 0.017_668]);
    close(scores("words", "banana pear"), [0.106_507, 0.786_986, 0.106_507]);
    // With both special tokens: 0, 4 / 3, 0.
    close(scores("words_left", "banana"), [0.172_602, 0.654_796, 0.172_602]);
}

#[test]
fn a_text_classifier_rejects_images_and_an_image_classifier_rejects_texts() {
    library::load(None).unwrap();
    let mut words = classifier::open(fixture("words")).unwrap();
    let error = words.classify_image(b"image").unwrap_err().to_string();
    assert_eq!(error, "the model takes a text, found an image");
    let error = words.classify(b"\xff").unwrap_err().to_string();
    assert!(error.contains("invalid UTF-8"), "{error}");
    let mut linear = classifier::open(fixture("linear")).unwrap();
    let error = linear.classify_text("banana").unwrap_err().to_string();
    assert_eq!(error, "the model takes an image, found a text");
    let long = words.classify_text(&"banana ".repeat(65)).unwrap();
    assert!(long.truncated && long.best().label == "b", "{long:?}");
}

#[test]
fn golden_texts_are_compared_alone_and_in_a_batch_with_a_longer_one() {
    let golden = |name: &str, scores: &str| {
        let directory = changed_copy(name, |_| {});
        fs::create_dir(directory.path().join("golden")).unwrap();
        fs::write(directory.path().join("golden/b.txt"), "Banana!").unwrap();
        let golden =
            format!(r#"{{"samples": [{{"file": "golden/b.txt", "label": "b", "scores": {scores}}}]}}"#);
        fs::write(directory.path().join("golden.json"), golden).unwrap();
        open(directory.path())
    };
    // Logits 0, 2, 0.5.
    assert_eq!(golden("words", "[0.099626, 0.736130, 0.164254]"), Ok(1));
    let error = golden("words", "[0.1, 0.7, 0.2]").unwrap_err();
    assert!(error.contains("as its trainer recorded"), "{error}");
    // The graph counts the 14 padding tokens in its bucket of 16. The tolerance is wide enough for
    // that, so that only the comparison with a padded batch fails.
    let directory = changed_copy("words_unmasked", |d| {
        fs::create_dir(d.join("golden")).unwrap();
        fs::write(d.join("golden/b.txt"), "banana").unwrap();
        let golden = r#"{"tolerance": 0.999, "samples": [{"file": "golden/b.txt", "label": "b", "scores": [0, 1, 0]}]}"#;
        fs::write(d.join("golden.json"), golden).unwrap();
    });
    let error = open(directory.path()).unwrap_err();
    assert!(
        error.contains("as for the text alone, in a batch with a longer one"),
        "{error}"
    );
}
