//! `classifyd classify`: answers on the command line, without a server.

use std::io::{Read, Write};
use std::path::Path;

use anyhow::{Context, bail, ensure};
use classifier::runtime::library;
use classifier::{Bundle, Classifier, Kind, Prediction, SessionOptions};
use serde_json::json;

use crate::catalog;
use crate::cli::ClassifyArgs;

/// Classifies each input and prints its labels. An input that fails is reported, and the others are still classified.
pub fn run(args: &ClassifyArgs) -> anyhow::Result<()> {
    library::load(args.onnxruntime.as_deref())?;
    let bundle = find_bundle(&args.models, args.model.as_deref())?;
    let kind = bundle.preprocessor.kind();
    let mut classifier = Classifier::new(bundle, &SessionOptions::default())?;
    let mut output = std::io::stdout().lock();
    let mut failed = 0;
    for input in &args.inputs {
        match read(input, kind).and_then(|bytes| Ok(classifier.classify(&bytes)?)) {
            Ok(prediction) => print(&mut output, args, input, &prediction)?,
            Err(error) => {
                failed += 1;
                eprintln!("classifyd: {input}: {error:#}");
            }
        }
    }
    ensure!(failed == 0, "{failed} of {} inputs failed", args.inputs.len());
    Ok(())
}

fn find_bundle(models: &Path, name: Option<&str>) -> anyhow::Result<Bundle> {
    let found = catalog::find(models, &catalog::Pinned::new())?;
    let names = || {
        found
            .iter()
            .map(|found| found.name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let chosen = match (name, found.as_slice()) {
        (Some(name), found) => found.iter().find(|found| found.name == name),
        (None, [only]) => Some(only),
        (None, _) => None,
    };
    let Some(chosen) = chosen else {
        bail!(
            "--model: expected one of the models in {} ({}), found {}",
            models.display(),
            names(),
            name.unwrap_or("none")
        );
    };
    Ok(Bundle::open(&chosen.directory)?)
}

/// The content of a file or of standard input; for a text classifier, what names no file is the text itself.
fn read(input: &str, kind: Kind) -> anyhow::Result<Vec<u8>> {
    if input == "-" {
        let mut bytes = Vec::new();
        std::io::stdin()
            .read_to_end(&mut bytes)
            .context("standard input")?;
        return Ok(bytes);
    }
    if kind == Kind::Text && !Path::new(input).is_file() {
        return Ok(input.as_bytes().to_vec());
    }
    std::fs::read(input).or_else(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            bail!("expected the file of {kind}, which is what the model takes, found no such file")
        }
        _ => Err(error.into()),
    })
}

fn print(
    output: &mut impl Write,
    args: &ClassifyArgs,
    input: &str,
    prediction: &Prediction,
) -> std::io::Result<()> {
    let top = &prediction.top[..prediction.top.len().min(args.top_k as usize)];
    if args.json {
        let scored = |score: &classifier::Score| json!({"label": score.label, "score": score.score});
        let best = prediction.best();
        let line = json!({
            "input": input,
            "label": best.label,
            "score": best.score,
            "top": top.iter().map(scored).collect::<Vec<_>>(),
            "truncated": prediction.truncated,
        });
        return writeln!(output, "{line}");
    }
    // A text is shown on its line, whatever is in it.
    write!(output, "{}", input.replace(char::is_control, " "))?;
    for score in top {
        write!(output, "\t{} {:.4}", score.label, score.score)?;
    }
    let cut = if prediction.truncated { "\ttruncated" } else { "" };
    writeln!(output, "{cut}")
}
