//! A classifier that was trained on a directory of images, as the parts of a model directory.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, Result};
use classifier::{
    bundle::{PREPROCESSOR_CONFIG, Serving},
    image::{ImageLimits, decode, to_rgb},
};
use image::DynamicImage;

use super::{PreparedFolder, card, source};
use crate::{
    data::image_folder::read,
    export::{
        self, Card, GoldenInput, LOGITS, Measured, Samples, TrainedModel, file_name, image_graph, save_graph,
    },
    files::{write, write_json},
    pipeline::{Request, TrainedNetwork},
    samples::LabelledSamples,
    training::{Config, Epoch},
    transform::png,
};

/// The largest number of golden samples, one of each class.
const GOLDEN_SAMPLES: usize = 20;
/// Golden samples are scaled down to this many pixels on their shorter side.
const GOLDEN_SIDE: u32 = 256;

pub(super) struct FolderModel<'a> {
    pub(super) prepared: &'a PreparedFolder<'a>,
    pub(super) request: &'a Request,
    /// The whole network, or in transfer the new last layer.
    pub(super) trained: TrainedNetwork,
}

impl FolderModel<'_> {
    /// What the images are called in public: the directory's name.
    pub(super) fn name(&self) -> String {
        let data = &self.prepared.task.data;
        let whole = data.canonicalize().unwrap_or_else(|_| data.clone());
        whole
            .file_name()
            .map_or_else(|| "folder".to_owned(), |name| name.to_string_lossy().into_owned())
    }
}

impl TrainedModel for FolderModel<'_> {
    fn config(&self) -> &Config {
        &self.request.config
    }

    fn labels(&self) -> &[String] {
        &self.prepared.images.training.classes
    }

    fn data_title(&self) -> String {
        format!("folder {}", self.name())
    }

    fn write_graph(&self, path: &Path, mut metadata: BTreeMap<String, String>) -> Result<String> {
        let name = self.name();
        let description = format!("images like those in {name} to one logit for each class");
        if let Some(donor) = &self.prepared.donor {
            let from = donor.bundle.directory.display().to_string();
            metadata.insert("transferred_from".to_owned(), from);
            let (bytes, output) = donor.with_head(&self.trained.network, &description, &metadata)?;
            write(path, bytes)?;
            return Ok(output);
        }
        let side = i64::from(self.prepared.task.options.size);
        let graph = image_graph(
            "folder",
            &description,
            [3, side, side],
            &self.trained.network,
            self.labels().len(),
        )?;
        save_graph(graph, &name, &metadata, path)?;
        Ok(LOGITS.to_owned())
    }

    fn write_preprocessing(&self, directory: &Path) -> Result<()> {
        let path = directory.join(PREPROCESSOR_CONFIG);
        match &self.prepared.donor {
            Some(donor) => {
                let bytes = read(&donor.bundle.directory.join(PREPROCESSOR_CONFIG))?;
                write(&path, bytes)
            }
            None => write_json(&path, &source::preprocessor(self.prepared.task.options.size)),
        }
    }

    fn serving(&self) -> Serving {
        // The new graph is the other classifier's up to its last layer, and is run in the same way.
        let donor = self.prepared.donor.as_ref();
        donor
            .map(|donor| donor.bundle.serving.clone())
            .unwrap_or_default()
    }

    fn samples(&self) -> Samples<'_> {
        let images = &self.prepared.images;
        Samples {
            compared: Box::new(images.validation.clone()),
            split: "validation",
            test: images.test.as_ref().map(|test| test as &dyn LabelledSamples),
        }
    }

    fn expected(&self) -> Result<Vec<f64>> {
        let prepared = self.prepared;
        export::network_probabilities(
            &prepared.layers,
            &self.trained.network,
            prepared.validation.as_ref(),
        )
    }

    fn golden(&self) -> Result<Vec<GoldenInput>> {
        let files = &self.prepared.images.validation;
        let input = |at: usize| {
            let (path, class) = &files.files[at];
            let label = files.classes[*class].clone();
            Ok(GoldenInput {
                // Two labels can be equal in all characters that a file name may have.
                file: format!("golden/{class}_{}.png", file_name(&label)),
                label,
                bytes: scaled_down(path)?,
                index: None,
            })
        };
        let picked = files.first_of_each_class(1).into_iter().take(GOLDEN_SAMPLES);
        picked.map(input).collect()
    }

    fn history(&self) -> Option<(&[Epoch], u32)> {
        Some((&self.trained.history, self.trained.best))
    }

    fn card(&self, _directory: &Path, measured: &Measured) -> Result<Card> {
        let validation = format!(
            "\nvalidation: accuracy {:.2} %",
            100.0 * measured.compared.accuracy
        );
        Ok(Card {
            text: card::text(self, measured),
            notes: measured.test.iter().map(|_| validation.clone()).collect(),
        })
    }
}

fn scaled_down(path: &Path) -> Result<Vec<u8>> {
    let scale = || -> Result<Vec<u8>> {
        let image = DynamicImage::ImageRgb8(to_rgb(decode(&read(path)?, &ImageLimits::default())?));
        let (width, height) = (image.width(), image.height());
        let shorter = width.min(height);
        if shorter <= GOLDEN_SIDE {
            return png(&image);
        }
        let scaled = |side: u32| (u64::from(side) * u64::from(GOLDEN_SIDE) / u64::from(shorter)) as u32;
        let filter = image::imageops::FilterType::Triangle;
        png(&image.resize_exact(scaled(width), scaled(height), filter))
    };
    scale().with_context(|| path.display().to_string())
}
