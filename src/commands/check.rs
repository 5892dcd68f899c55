//! `classifyd check`: verifies model directories without serving them.

use std::path::Path;

use anyhow::{anyhow, ensure};
use classifier::runtime::library;
use classifier::{Bundle, Classifier, Preprocessor, SessionOptions, bundle};

use crate::catalog;
use crate::cli::CheckArgs;
use crate::cure;

/// Loads every model and runs its golden samples. Fails if one of them fails, after checking all.
pub fn run(args: &CheckArgs) -> anyhow::Result<()> {
    library::load(args.onnxruntime.as_deref()).map_err(|error| anyhow!(cure::library(&error)))?;
    let mut checked = 0;
    let mut failed = 0;
    for directory in &args.directories {
        let directories = if directory.join(bundle::MODEL).exists() {
            vec![directory.clone()]
        } else {
            catalog::find(directory, &catalog::Pinned::new(), catalog::tell)?
                .into_iter()
                .map(|found| found.directory)
                .collect()
        };
        ensure!(
            !directories.is_empty(),
            "{}: expected a model directory, or model directories as <name>/<version>, found none",
            directory.display()
        );
        for directory in directories {
            checked += 1;
            match check(&directory) {
                Ok(what) => println!("ok      {}: {what}", directory.display()),
                Err(error) => {
                    failed += 1;
                    println!("FAILED  {error}");
                }
            }
        }
    }
    ensure!(failed == 0, "{failed} of {checked} model directories failed");
    Ok(())
}

fn check(directory: &Path) -> Result<String, classifier::ClassifierError> {
    let bundle = Bundle::open(directory)?;
    let labels = bundle.labels.len();
    let input = match &bundle.preprocessor {
        Preprocessor::Image(preprocessor) => preprocessor.shape().map(|side| side.to_string()).join("x"),
        Preprocessor::Text(tokenizer) => format!("{} tokens", tokenizer.max_length()),
    };
    let mut classifier = Classifier::new(bundle, &SessionOptions::default())?;
    let golden = match classifier.check_golden()? {
        (0, _) => "no golden samples".to_owned(),
        (samples, 0.0) => format!("{samples} golden samples reproduced exactly"),
        (samples, difference) => format!("{samples} golden samples reproduced to {difference:.1e}"),
    };
    Ok(format!("{input}, {labels} labels, {golden}"))
}
