//! Classifies a file with a model directory and prints the labels with their scores.
//!
//! ```sh
//! cargo run -p classifier --example classify -- models/digits/1 models/digits/1/golden/7_0.png
//! ```
//!
//! Without arguments it classifies a golden sample of the digits.

use std::error::Error;

const DIGITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/digits/1");

fn main() -> Result<(), Box<dyn Error>> {
    // Must come first: starts this program again with ONNX Runtime's telemetry turned off.
    classifier::runtime::environment::without_telemetry()?;

    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().unwrap_or_else(|| DIGITS.to_owned());
    let file = arguments
        .next()
        .unwrap_or_else(|| format!("{DIGITS}/golden/7_0.png"));

    let mut classifier = classifier::open(directory)?;
    let prediction = classifier.classify(&std::fs::read(file)?)?;
    for candidate in prediction.top {
        println!("{:.4} {}", candidate.score, candidate.label);
    }
    Ok(())
}
