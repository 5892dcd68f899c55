//! The committed model directories load in ONNX Runtime and behave as the server's tests expect.

#![allow(clippy::unwrap_used)]

use std::{
    io::Cursor,
    path::PathBuf,
    time::{Duration, Instant},
};

use classifier::{
    Bundle, Classifier, ClassifierError, RunError, Session, SessionOptions,
    runtime::{library, session::Interrupt},
};
use image::{GrayImage, ImageFormat, Luma};

fn directory(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../fixtures/models")
        .join(name)
        .join("1")
}

fn open(name: &str) -> Classifier {
    classifier::open(directory(name)).unwrap()
}

/// A PNG image of 4 x 4 pixels whose rows have these brightnesses.
fn image(rows: [u8; 4]) -> Vec<u8> {
    let pixels = GrayImage::from_fn(4, 4, |_, y| Luma([rows[y as usize]]));
    let mut png = Cursor::new(Vec::new());
    pixels.write_to(&mut png, ImageFormat::Png).unwrap();
    png.into_inner()
}

fn close(found: &[f32], expected: &[f32]) {
    let largest = found
        .iter()
        .zip(expected)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(
        found.len() == expected.len() && largest < 1e-5,
        "{found:?}, expected {expected:?}"
    );
}

#[test]
fn scores_are_those_computed_by_hand() {
    let dark = image([51, 102, 0, 0]);
    let exp = [0.8_f32.exp(), 1.6_f32.exp(), 1.0];
    let softmax = exp.map(|value| value / exp.iter().sum::<f32>());
    for name in ["linear", "linear_nhwc", "probabilities", "nan", "fails", "slow"] {
        close(&open(name).scores(&dark).unwrap(), &softmax);
    }
    let sigmoid = [0.8_f32, 1.6, 0.0].map(|value| 1.0 / (1.0 + (-value).exp()));
    close(&open("multilabel").scores(&dark).unwrap(), &sigmoid);
}

#[test]
fn bright_images_give_nan_or_fail_in_the_graphs_made_for_it() {
    let bright = image([255, 255, 200, 200]);
    let error = open("nan").scores(&bright).unwrap_err();
    assert!(
        matches!(error, ClassifierError::Run(RunError::NonFinite { .. })),
        "{error}"
    );
    let error = open("fails").scores(&bright).unwrap_err();
    assert!(
        matches!(
            error,
            ClassifierError::Run(RunError::Failed(_) | RunError::InvalidInput(_))
        ),
        "{error}"
    );
    assert!(open("linear").scores(&bright).is_ok());
}

#[test]
fn a_hanging_run_can_be_interrupted() {
    library::load(None).unwrap();
    let bundle = Bundle::open(directory("hang")).unwrap();
    let mut session = Session::load(&bundle, &SessionOptions::default()).unwrap();
    let begin = Instant::now();
    // A black image would take no time.
    let row = classifier::Row::from(vec![1.0_f32; 16]);
    let end = session.run([row].iter(), |interrupt: Interrupt| {
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            interrupt.interrupt();
        });
    });
    assert_eq!(end, Err(RunError::Interrupted));
    assert!(
        begin.elapsed() < Duration::from_secs(10),
        "took {:?}",
        begin.elapsed()
    );
}
