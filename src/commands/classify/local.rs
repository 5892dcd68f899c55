//! Classifies with a local model directory.

use std::path::Path;

use anyhow::{Result, anyhow, bail};
use classifier::runtime::library;
use classifier::{Bundle, Classifier, Prediction, SessionOptions};

use super::inputs::NamedInput;
use super::{ClassifyFn, InputResult, LabelScore, ModelFacts};
use crate::catalog::{self, Pinned};
use crate::cli::ClassifyArgs;
use crate::cure;

pub struct LocalModel {
    bundle: Bundle,
    model: ModelFacts,
    top_k: usize,
}

impl LocalModel {
    pub fn open(args: &ClassifyArgs) -> Result<Self> {
        library::load(args.onnxruntime.as_deref()).map_err(|error| anyhow!(cure::library(&error)))?;
        let bundle = find_bundle(&args.models, args.model.as_deref())?;
        let model = ModelFacts {
            takes: Some(bundle.preprocessor.kind()),
            labels: bundle.labels.clone(),
        };
        Ok(Self {
            bundle,
            model,
            top_k: args.top_k as usize,
        })
    }

    pub fn model(&self) -> &ModelFacts {
        &self.model
    }

    /// Opens a session for one thread.
    pub fn worker(&self) -> Result<ClassifyFn<'_>> {
        let mut classifier = Classifier::new(self.bundle.clone(), &SessionOptions::default())?;
        Ok(Box::new(move |input: &NamedInput| {
            let prediction = classifier.classify(&input.read()?)?;
            Ok(answer(prediction, self.top_k))
        }))
    }
}

fn answer(prediction: Prediction, top_k: usize) -> InputResult {
    let best = prediction.best().clone();
    let scored = |score: classifier::LabelScore| LabelScore {
        label: score.label,
        score: score.score,
    };
    InputResult {
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
