//! A model directory, opened here.

use std::path::Path;

use anyhow::{Result, anyhow, bail};
use classifier::runtime::library;
use classifier::{Bundle, Classifier, Prediction, SessionOptions};

use super::inputs::Input;
use super::{Answer, Model, Scored, Worker};
use crate::catalog::{self, Pinned};
use crate::cli::ClassifyArgs;
use crate::cure;

/// A model directory.
pub struct Local {
    bundle: Bundle,
    model: Model,
    top_k: usize,
}

impl Local {
    /// Loads ONNX Runtime, and finds the model.
    pub fn open(args: &ClassifyArgs) -> Result<Self> {
        library::load(args.onnxruntime.as_deref()).map_err(|error| anyhow!(cure::library(&error)))?;
        let bundle = find_bundle(&args.models, args.model.as_deref())?;
        let model = Model {
            takes: Some(bundle.preprocessor.kind()),
            labels: bundle.labels.clone(),
        };
        Ok(Self {
            bundle,
            model,
            top_k: args.top_k as usize,
        })
    }

    /// What is known about the model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// A session for a thread.
    pub fn worker(&self) -> Result<Worker<'_>> {
        let mut classifier = Classifier::new(self.bundle.clone(), &SessionOptions::default())?;
        Ok(Box::new(move |input: &Input| {
            let prediction = classifier.classify(&input.read()?)?;
            Ok(answer(prediction, self.top_k))
        }))
    }
}

fn answer(prediction: Prediction, top_k: usize) -> Answer {
    let best = prediction.best().clone();
    let scored = |score: classifier::LabelScore| Scored {
        label: score.label,
        score: score.score,
    };
    Answer {
        label: best.label,
        score: best.score,
        top: prediction.top.into_iter().take(top_k).map(scored).collect(),
        truncated: prediction.truncated,
    }
}

fn find_bundle(models: &Path, name: Option<&str>) -> Result<Bundle> {
    let found = catalog::find(models, &Pinned::new(), catalog::tell)?;
    let chosen = match (name, found.as_slice()) {
        (Some(name), found) => found.iter().find(|found| found.name == name),
        (None, [only]) => Some(only),
        (None, _) => None,
    };
    let Some(chosen) = chosen else {
        let names: Vec<&str> = found.iter().map(|found| found.name.as_str()).collect();
        bail!(
            "--model: expected one of the models in {} ({}), found {}",
            models.display(),
            names.join(", "),
            name.map_or("none".to_owned(), |name| format!("{name:?}"))
        );
    };
    Ok(Bundle::open(&chosen.directory)?)
}
