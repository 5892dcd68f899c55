//! What belongs to each classifier beside its layers: data, preprocessing, training, words for the card.
//!
//! A recipe is a row of [`TABLE`]: a target with one of its networks. To add a classifier is to add rows.

mod digits;
mod fashion;
mod images;

use std::{borrow::Cow, fmt::Write as _, path::PathBuf};

use anyhow::{Context as _, Result, bail};
use classifier::image::{ImagePreprocessor, Layout, PreprocessorConfig};
use rayon::prelude::*;
use tch::{Device, Tensor};

use crate::{
    data::{DataSet, Images},
    folder,
    network::{self, Layer},
    sentiment,
    training::{Config, Ink, Jitter, Pixels, Source},
    transform::Transform,
};

/// Classifiers that can be trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Target {
    /// Handwritten digits, from MNIST.
    Digits,
    /// Animals and vehicles in colour, from CIFAR-10.
    Images,
    /// Clothes, from Fashion-MNIST.
    Fashion,
    /// Reviews, from IMDb.
    Sentiment,
    /// Pictures of your own, in folders named after their classes: DIR/train/CLASS and DIR/val/CLASS, or DIR/CLASS.
    Folder,
}

impl Target {
    /// As on the command line; also the name of the model.
    pub fn name(self) -> &'static str {
        match self {
            Self::Digits => "digits",
            Self::Images => "images",
            Self::Fashion => "fashion",
            Self::Sentiment => "sentiment",
            Self::Folder => "folder",
        }
    }
}

/// A target with one of its networks, and all that is needed to train, export and describe it.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// The classifier.
    pub target: Target,
    /// Name of the network, as on the command line.
    pub network: &'static str,
    /// Heading of the model card.
    pub title: &'static str,
    /// What the classifier does, for the model card.
    pub summary: Cow<'static, str>,
    /// The data set.
    pub set: DataSet,
    /// The name of each output.
    pub labels: Vec<String>,
    /// Channels, rows and columns of the network's input.
    pub input: [i64; 3],
    /// The network.
    pub layers: Vec<Layer>,
    /// How it is trained unless options say otherwise.
    pub config: Config,
    /// How a picture becomes the network's input, in training and in serving.
    pub preprocessor: PreprocessorConfig,
    /// How training changes pictures.
    pub augmentation: Augmentation,
    /// What is done to the test pictures for further figures in the model card.
    pub transforms: &'static [Transform],
    /// What to say of this network where another one's model card compares itself with it.
    pub comparison: Option<&'static str>,
    /// What it is good for and what not, for the model card.
    pub limits: Cow<'static, str>,
}

/// How training changes pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Augmentation {
    /// As handwriting differs, see [`crate::augment`].
    Ink,
    /// As pictures of things differ.
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

/// All recipes.
pub fn all() -> impl Iterator<Item = Recipe> {
    TABLE.iter().map(|recipe| recipe())
}

/// The recipe of a target with the network of this name, or with the one that is served.
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
    /// Where the model directory goes unless another place is named.
    pub fn out(&self) -> PathBuf {
        let target = self.target.name();
        if self.is_served() {
            format!("models/{target}/1").into()
        } else {
            format!("runs/{target}-{}/{target}/1", self.network).into()
        }
    }

    /// Where checkpoints go unless another place is named.
    pub fn run(&self) -> PathBuf {
        format!("runs/{}-{}", self.target.name(), self.network).into()
    }

    /// Makes it a recipe for some of the data set's classes.
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

    /// Puts pictures into the form in which they are trained on.
    pub fn samples(&self, pictures: &Images, device: Device) -> Result<Box<dyn Source>> {
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
                let found = [pictures.channels(), pictures.height(), pictures.width()].map(i64::from);
                if found != self.input {
                    bail!("expected pictures of {:?}, found {found:?}", self.input);
                }
                Ok(Box::new(Pixels {
                    pictures: pictures.clone(),
                    mean,
                    deviation,
                    jitter,
                }))
            }
            Augmentation::Ink => {
                let (mean, deviation) = (mean[0], deviation[0]);
                let preprocessor = ImagePreprocessor::new(&self.preprocessor, Layout::Nchw)?;
                let row = |at: usize| -> Result<Vec<f32>> {
                    let image = pictures.get(at).with_context(|| format!("no image {at}"))?;
                    Ok(preprocessor.apply(image)?)
                };
                let rows: Result<Vec<_>> = (0..pictures.len()).into_par_iter().map(row).collect();
                let rows: Vec<f32> = rows?.concat();
                let labels: Vec<i64> = pictures.labels().iter().map(|&label| i64::from(label)).collect();
                let [channels, height, width] = self.input;
                let pictures = Tensor::from_slice(&rows).view([-1, channels, height, width]);
                Ok(Box::new(Ink {
                    // Augmentation needs ink between 0 and 1; training normalises what comes out of it.
                    pictures: (pictures * deviation + mean).to_device(device),
                    labels: Tensor::from_slice(&labels).to_device(device),
                    mean,
                    deviation,
                }))
            }
        }
    }
}

/// The settings of every recipe, for the help of `train`: those of most, then what each has instead.
pub fn table() -> String {
    let common = settings(&Config::default());
    let mut text = format!("Defaults: {}; but\n", joined(&common));
    let mut row = |title: &str, config: &Config| {
        let own = settings(config);
        let different: Vec<_> = own
            .into_iter()
            .filter(|setting| !common.contains(setting))
            .collect();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {title}: {}", joined(&different));
    };
    for recipe in all() {
        let title = format!("{} --network {}", recipe.target.name(), recipe.network);
        row(&title, &recipe.config);
    }
    for kind in sentiment::Kind::ALL {
        let title = format!("{} --network {}", Target::Sentiment.name(), kind.name());
        row(&title, &kind.config());
    }
    row("folder", &folder::from_scratch());
    row("folder --from DIR", &folder::transfer());
    text
}

/// Names and values, as on the command line.
fn settings(config: &Config) -> Vec<(String, String)> {
    let Ok(serde_json::Value::Object(settings)) = serde_json::to_value(config) else {
        return Vec::new();
    };
    let named = settings.iter().filter(|(name, _)| *name != "network");
    named
        .map(|(name, value)| {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            (name.replace('_', "-"), value.replace('_', "-"))
        })
        .collect()
}

fn joined(settings: &[(String, String)]) -> String {
    let settings: Vec<String> = settings
        .iter()
        .map(|(name, value)| format!("{name} {value}"))
        .collect();
    settings.join(", ")
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
            assert!(table().contains(&format!("{} --network {}", recipe.target.name(), recipe.network)));
        }
    }

    #[test]
    fn help_states_common_defaults_once_and_then_what_differs() {
        let table = table();
        let mut lines = table.lines();
        let common = lines.next().unwrap();
        assert!(common.starts_with("Defaults: "), "{common}");
        assert!(
            common.contains("schedule cosine") && common.contains("batch-size 128"),
            "{common}"
        );
        let plain = lines
            .find(|line| line.contains("images --network plain"))
            .unwrap();
        assert_eq!(
            plain.trim(),
            "images --network plain: batch-size 64, epochs 5, optimizer adam, schedule constant"
        );
    }
}
