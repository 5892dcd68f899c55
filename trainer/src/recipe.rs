//! How each classifier of a published image set is trained: data, network, preprocessing, settings,
//! and the sentences of its model card.
//!
//! A recipe is a row of `TABLE`: a target with one of its networks. A further classifier is a
//! further row.

mod card;
mod digits;
mod fashion;
mod images;
mod model;

use std::{borrow::Cow, path::PathBuf};

use anyhow::{Context as _, Result, bail};
use classifier::image::{ImagePreprocessor, Layout, PreprocessorConfig, Resample, Size};
pub use model::ImageTask;
use rayon::prelude::*;
use tch::{Device, Tensor};

use crate::{
    data::{DataSet, Images},
    network::{self, Layer},
    training::{Config, Ink, Jitter, Pixels, Source},
    transform::Transform,
};

/// A classifier of a published image set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Digits,
    Images,
    Fashion,
}

impl Target {
    /// The name on the command line, which is also the name of the model.
    pub fn name(self) -> &'static str {
        match self {
            Self::Digits => "digits",
            Self::Images => "images",
            Self::Fashion => "fashion",
        }
    }
}

/// A target with one of its networks: all that is needed to train, export and describe it.
#[derive(Debug, Clone)]
pub struct Recipe {
    pub target: Target,
    /// The name of the network on the command line.
    pub network: &'static str,
    /// The heading of the model card.
    pub title: &'static str,
    /// What the classifier does, in a sentence for the model card.
    pub summary: Cow<'static, str>,
    pub set: DataSet,
    /// The names of the outputs, in order.
    pub labels: Vec<String>,
    /// Channels, rows and columns of the network's input.
    pub input: [i64; 3],
    pub layers: Vec<Layer>,
    /// The settings unless options say otherwise.
    pub config: Config,
    /// How an image becomes the network's input, in training and in serving.
    pub preprocessor: PreprocessorConfig,
    pub augmentation: Augmentation,
    /// The transforms of the test images for which the model card has further figures.
    pub transforms: &'static [Transform],
    /// What the card of another network says of this one when it compares the two.
    pub comparison: Option<&'static str>,
    /// The use and the limits, for the model card.
    pub limits: Cow<'static, str>,
}

/// How training changes images at random.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Augmentation {
    /// Varies them as handwriting varies, see [`crate::augment`].
    Ink,
    /// Mirrors, shifts and erases parts of them.
    Jitter(Jitter),
}

/// Every recipe; the first one of each target is the one that is served.
const TABLE: [fn() -> Recipe; 7] = [
    digits::cnn,
    digits::mlp,
    images::airbench,
    images::plain,
    fashion::airbench,
    fashion::resnet,
    fashion::mlp,
];

pub fn all() -> impl Iterator<Item = Recipe> {
    TABLE.iter().map(|recipe| recipe())
}

/// Finds the recipe of a target's network; `None` stands for the network that is served.
pub fn find(target: Target, network: Option<&str>) -> Result<Recipe> {
    let recipes: Vec<Recipe> = all().filter(|recipe| recipe.target == target).collect();
    let names: Vec<&str> = recipes.iter().map(|recipe| recipe.network).collect();
    let found = recipes
        .iter()
        .find(|recipe| network.is_none_or(|network| network == recipe.network));
    match found {
        Some(recipe) => Ok(recipe.clone()),
        None => bail!(
            "--network: expected one of {}, found {}",
            names.join(", "),
            network.unwrap_or_default()
        ),
    }
}

impl Recipe {
    /// The model directory to write unless an option names another one.
    pub fn out(&self) -> PathBuf {
        let target = self.target.name();
        if self.is_served() {
            format!("models/{target}/1").into()
        } else {
            format!("runs/{target}-{}/{target}/1", self.network).into()
        }
    }

    /// The directory for checkpoints unless an option names another one.
    pub fn run(&self) -> PathBuf {
        format!("runs/{}-{}", self.target.name(), self.network).into()
    }

    /// Restricts the recipe to some classes of the data set.
    pub fn only(&mut self, classes: &[String]) {
        self.labels = classes.to_vec();
        network::set_classes(&mut self.layers, classes.len() as i64);
        self.summary = format!("Distinguishes {}.", classes.join(", ")).into();
        self.limits = format!(
            "Images of {}, like those of the data set. Any other image still gets one of these labels, often with a high \
             score.",
            classes.join(", ")
        )
        .into();
    }

    fn is_served(&self) -> bool {
        find(self.target, None).is_ok_and(|served| served.network == self.network)
    }

    /// Converts images to the form in which they are trained on.
    pub fn samples(&self, images: &Images, device: Device) -> Result<Box<dyn Source>> {
        let normalised = self.preprocessor.do_normalize == Some(true);
        let channels = self.input[0] as usize;
        let values = |values: &Option<Vec<f64>>, otherwise: f64| match values {
            Some(values) if normalised => values.clone(),
            _ => vec![otherwise; channels],
        };
        let mean = values(&self.preprocessor.image_mean, 0.0);
        let deviation = values(&self.preprocessor.image_std, 1.0);
        match self.augmentation {
            Augmentation::Jitter(jitter) => {
                let found = [images.channels(), images.height(), images.width()].map(i64::from);
                if found != self.input {
                    bail!("expected images of {:?}, found {found:?}", self.input);
                }
                Ok(Box::new(Pixels {
                    images: images.clone(),
                    mean,
                    deviation,
                    jitter,
                }))
            }
            Augmentation::Ink => {
                let (mean, deviation) = (mean[0], deviation[0]);
                let preprocessor = ImagePreprocessor::new(&self.preprocessor, Layout::Nchw)?;
                let row = |at: usize| -> Result<Vec<f32>> {
                    let image = images.get(at).with_context(|| format!("no image {at}"))?;
                    Ok(preprocessor.apply(image)?)
                };
                let rows: Result<Vec<_>> = (0..images.len()).into_par_iter().map(row).collect();
                let rows: Vec<f32> = rows?.concat();
                let labels: Vec<i64> = images.labels().iter().map(|&label| i64::from(label)).collect();
                let [channels, height, width] = self.input;
                let images = Tensor::from_slice(&rows).view([-1, channels, height, width]);
                Ok(Box::new(Ink {
                    // Augmentation needs ink between 0 and 1; training normalises what comes out of
                    // it.
                    images: (images * deviation + mean).to_device(device),
                    labels: Tensor::from_slice(&labels).to_device(device),
                    mean,
                    deviation,
                }))
            }
        }
    }
}

/// The preprocessing of images that have, or get, `side` x `side` pixels with values from 0 to 1.
fn square(side: u32) -> PreprocessorConfig {
    PreprocessorConfig {
        do_resize: Some(true),
        size: Some(Size::Exact {
            height: side,
            width: side,
        }),
        resample: Some(Resample::Bilinear),
        do_rescale: Some(true),
        rescale_factor: Some(1.0 / 255.0),
        do_normalize: Some(false),
        ..PreprocessorConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_network_of_a_target_is_served_and_others_go_elsewhere() {
        let served = find(Target::Digits, None).unwrap();
        assert_eq!(served.network, "cnn");
        assert_eq!(served.out(), PathBuf::from("models/digits/1"));
        let other = find(Target::Digits, Some("mlp")).unwrap();
        assert_eq!(other.out(), PathBuf::from("runs/digits-mlp/digits/1"));
        assert_eq!(other.run(), PathBuf::from("runs/digits-mlp"));
        let error = find(Target::Digits, Some("cat")).unwrap_err().to_string();
        assert_eq!(error, "--network: expected one of cnn, mlp, found cat");
    }

    #[test]
    fn every_recipe_fits_together() {
        for recipe in all() {
            assert_eq!(recipe.config.network, recipe.network);
            let mean = recipe.preprocessor.image_mean.as_ref().map_or(0, Vec::len);
            assert!(mean == 0 || mean as i64 == recipe.input[0], "{}", recipe.network);
        }
    }
}
