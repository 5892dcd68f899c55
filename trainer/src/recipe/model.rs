//! Trains a [`Recipe`]: the pipeline's task for published image sets.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    iter,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use classifier::bundle::{MODEL, PREPROCESSOR_CONFIG};
use onnx_graph::metadata;
use serde_json::{Value, json};
use tch::Device;

use super::{Recipe, Target, card};
use crate::{
    data::{self, Images, LoadedDataSet, TestImages},
    evaluate::{Evaluation, evaluate},
    export::{
        self, Card, GoldenInput, LOGITS, Measured, Samples, TrainedModel, file_name, image_graph, save_graph,
    },
    files::write_json,
    pipeline::{Opening, Prepared, Request, Subject, Task, TrainedNetwork},
    training::{Config, Epoch, Source},
    transform::{Transform, png},
};

/// Golden samples of each class.
const GOLDEN_PER_CLASS: usize = 2;

/// A recipe and the files to train it on.
#[derive(Debug)]
pub struct ImageTask {
    pub(super) recipe: Recipe,
    /// The directory with the data set's files.
    data: PathBuf,
    /// Train on these classes only; all if empty.
    classes: Vec<String>,
    /// Another model directory, whose accuracy the card states as well.
    compare: Option<PathBuf>,
}

impl ImageTask {
    /// `network` is the served one if it is `None`, and `data` is in the cache if it is `None`.
    pub fn new(target: Target, network: Option<&str>, data: Option<PathBuf>) -> Result<Self> {
        let recipe = super::find(target, network)?;
        let data = match data {
            Some(data) => data,
            None => data::FetchTarget::Images(recipe.set).directory()?,
        };
        Ok(Self {
            recipe,
            data,
            classes: Vec::new(),
            compare: None,
        })
    }

    /// Restricts the task to some classes of the data set.
    pub fn only(mut self, classes: Vec<String>) -> Result<Self> {
        if !classes.is_empty() {
            let known = self.recipe.set.classes();
            data::check_classes(&known, &classes)?;
            let kept = known.into_iter().filter(|class| classes.contains(class));
            self.recipe.only(&kept.collect::<Vec<_>>());
            self.classes = classes;
        }
        Ok(self)
    }

    /// Has the model card state the accuracy of another model directory as well.
    #[must_use]
    pub fn compared_with(mut self, directory: Option<PathBuf>) -> Self {
        self.compare = directory;
        self
    }
}

impl Task for ImageTask {
    fn name(&self) -> &'static str {
        self.recipe.target.name()
    }

    fn defaults(&self) -> Config {
        self.recipe.config.clone()
    }

    fn default_run(&self) -> Result<PathBuf> {
        let run = self.recipe.run();
        if self.classes.is_empty() {
            return Ok(run);
        }
        let names = self.recipe.labels.iter().map(|class| file_name(class));
        let parts: Vec<String> = iter::once(run.display().to_string()).chain(names).collect();
        Ok(parts.join("-").into())
    }

    fn default_out(&self, run: &Path) -> Result<PathBuf> {
        Ok(if self.classes.is_empty() {
            self.recipe.out()
        } else {
            run.join(self.name()).join("1")
        })
    }

    fn open<'a>(&'a self, opening: &Opening<'_>) -> Result<Box<dyn Prepared + 'a>> {
        let mut data = self.recipe.set.open(&self.data)?;
        if !self.classes.is_empty() {
            data = data.only(&self.classes)?;
        }
        let (mut training, validation) = data.held_out();
        if let Some(samples) = opening.samples {
            training = training.split_at(samples).0;
        }
        let source = |images: &Images| self.recipe.samples(images, opening.device);
        Ok(Box::new(PreparedImages {
            task: self,
            training: source(&training)?,
            validation: source(&validation)?,
            split: (training.len(), validation.len()),
            data,
        }))
    }
}

struct PreparedImages<'a> {
    task: &'a ImageTask,
    data: LoadedDataSet,
    training: Box<dyn Source>,
    validation: Box<dyn Source>,
    /// How many images are trained on, and how many choose the epoch.
    split: (usize, usize),
}

impl Prepared for PreparedImages<'_> {
    fn subject(&self) -> Option<Subject<'_>> {
        Some(Subject {
            layers: &self.task.recipe.layers,
            training: self.training.as_ref(),
            validation: self.validation.as_ref(),
        })
    }

    fn identity(&self) -> Result<Value> {
        Ok(json!(self.data.title()))
    }

    fn finish<'a>(
        &'a self,
        network: Option<TrainedNetwork>,
        request: &'a Request,
    ) -> Result<Box<dyn TrainedModel + 'a>> {
        Ok(Box::new(ImageModel {
            task: self.task,
            request,
            data: &self.data,
            split: self.split,
            trained: network.context("a recipe always has a network")?,
        }))
    }
}

/// A trained recipe.
pub(super) struct ImageModel<'a> {
    pub(super) task: &'a ImageTask,
    pub(super) request: &'a Request,
    pub(super) data: &'a LoadedDataSet,
    /// How many images were trained on, and how many chose the epoch.
    pub(super) split: (usize, usize),
    pub(super) trained: TrainedNetwork,
}

impl ImageModel<'_> {
    fn test(&self, transform: Transform) -> TestImages<'_> {
        TestImages {
            images: Cow::Borrowed(&self.data.test),
            transform,
        }
    }
}

impl TrainedModel for ImageModel<'_> {
    fn config(&self) -> &Config {
        &self.request.config
    }

    fn labels(&self) -> &[String] {
        &self.task.recipe.labels
    }

    fn data_title(&self) -> String {
        self.data.title()
    }

    fn write_graph(&self, path: &Path, metadata: BTreeMap<String, String>) -> Result<String> {
        let recipe = &self.task.recipe;
        let graph = image_graph(
            &format!("{}-{}", recipe.target.name(), recipe.network),
            &recipe.summary,
            recipe.input,
            &self.trained.network,
            recipe.labels.len(),
        )?;
        save_graph(graph, recipe.title, &metadata, path)?;
        Ok(LOGITS.to_owned())
    }

    fn write_preprocessing(&self, directory: &Path) -> Result<()> {
        write_json(
            &directory.join(PREPROCESSOR_CONFIG),
            &self.task.recipe.preprocessor,
        )
    }

    fn samples(&self) -> Samples<'_> {
        Samples {
            compared: Box::new(self.test(Transform::None)),
            split: "test",
            test: None,
        }
    }

    fn expected(&self) -> Result<Vec<f64>> {
        let recipe = &self.task.recipe;
        let samples = recipe.samples(&self.data.test, Device::Cpu)?;
        export::network_probabilities(&recipe.layers, &self.trained.network, samples.as_ref())
    }

    fn golden(&self) -> Result<Vec<GoldenInput>> {
        let images = &self.data.test;
        let input = |at: usize| {
            let label = images.class(at).context("an image has no class")?;
            Ok(GoldenInput {
                file: format!("golden/{}_{at}.png", file_name(label)),
                label: label.to_owned(),
                bytes: png(&images.get(at).context("an image is missing")?)?,
                index: Some(at),
            })
        };
        let picked = images.first_of_each_class(GOLDEN_PER_CLASS);
        picked.into_iter().map(input).collect()
    }

    fn history(&self) -> Option<(&[Epoch], u32)> {
        Some((&self.trained.history, self.trained.best))
    }

    fn card(&self, directory: &Path, measured: &Measured) -> Result<Card> {
        let mut transformed = Vec::new();
        for &transform in self.task.recipe.transforms {
            eprintln!("measuring them again, transform {}", transform.name());
            transformed.push(evaluate(directory, &self.test(transform))?.evaluation);
        }
        let compared = match &self.task.compare {
            Some(other) => Some(Comparison {
                network: metadata(&other.join(MODEL))?.remove("network"),
                test: evaluate(other, &self.test(Transform::None))?.evaluation,
            }),
            None => None,
        };
        let further = card::Further {
            transformed,
            compared,
        };
        let note = |evaluation: &Evaluation| {
            format!(
                "transform {}: accuracy {:.2} %",
                evaluation.transform.name(),
                100.0 * evaluation.accuracy
            )
        };
        Ok(Card {
            text: card::text(self, measured, &further),
            notes: further.transformed.iter().map(note).collect(),
        })
    }
}

/// Another model directory, measured on the same test images.
pub(super) struct Comparison {
    /// The name of its network, if its graph has it.
    pub(super) network: Option<String>,
    pub(super) test: Evaluation,
}

impl Comparison {
    /// The recipe of its network.
    pub(super) fn recipe(&self, other: &Recipe) -> Option<Recipe> {
        super::find(other.target, Some(self.network.as_deref()?)).ok()
    }
}
