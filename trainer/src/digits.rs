//! The digits classifiers: what belongs to each network beside its layers.

use anyhow::{Context as _, Result};
use classifier::image::{Layout, Preprocessor, PreprocessorConfig, Resample, Size};
use image::DynamicImage;
use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

use crate::{
    data::Pictures,
    network::{Layer, digits},
    optimizer::Rule,
    parallel::in_parallel,
    training::{Config, Samples},
};

/// Mean and deviation of MNIST's training pixels.
const MEAN: f64 = 0.1307;
const DEVIATION: f64 = 0.3081;

/// A network for digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Convolutions; reads digits of any size, dark on light or light on dark. The one that is served.
    Cnn,
    /// 784-128-64-10, fully connected, as many introductions train it; for comparison.
    Mlp,
}

impl Kind {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cnn => "cnn",
            Self::Mlp => "mlp",
        }
    }

    /// The layers.
    pub fn layers(self) -> Vec<Layer> {
        match self {
            Self::Cnn => digits::cnn(),
            Self::Mlp => digits::mlp(),
        }
    }

    /// How it is trained unless options say otherwise.
    pub fn config(self) -> Config {
        let network = self.name().to_owned();
        match self {
            Self::Cnn => Config {
                network,
                epochs: 24,
                batch_size: 128,
                learning_rate: 3e-3,
                cosine: true,
                optimizer: Rule::Adam,
                weight_decay: 0.02,
                augment: true,
                average_decay: 0.998,
                patience: 10,
                seed: 1,
            },
            Self::Mlp => Config {
                network,
                epochs: 10,
                batch_size: 64,
                learning_rate: 1e-3,
                cosine: false,
                optimizer: Rule::Adam,
                weight_decay: 0.0,
                augment: false,
                average_decay: 0.0,
                patience: 10,
                seed: 1,
            },
        }
    }

    /// How a picture becomes the network's input, in training and in serving.
    pub fn preprocessor(self) -> PreprocessorConfig {
        let side = digits::SIDE;
        let common = PreprocessorConfig {
            do_convert_grayscale: true,
            size: Some(Size::Exact {
                height: side,
                width: side,
            }),
            resample: Some(Resample::Bilinear),
            do_rescale: Some(true),
            rescale_factor: Some(1.0 / 255.0),
            ..PreprocessorConfig::default()
        };
        match self {
            Self::Cnn => PreprocessorConfig {
                do_fit_ink: true,
                ink_size: Some(20),
                ink_threshold: Some(0.2),
                do_normalize: Some(true),
                image_mean: Some(vec![MEAN]),
                image_std: Some(vec![DEVIATION]),
                ..common
            },
            Self::Mlp => PreprocessorConfig {
                do_resize: Some(true),
                do_normalize: Some(false),
                ..common
            },
        }
    }

    /// Puts pictures through the preprocessing that serving does.
    pub fn samples(self, pictures: &Pictures, device: Device) -> Result<Samples> {
        let config = self.preprocessor();
        let normalised = config.do_normalize == Some(true);
        let (mean, deviation) = if normalised { (MEAN, DEVIATION) } else { (0.0, 1.0) };
        let preprocessor = Preprocessor::new(&config, Layout::Nchw)?;
        let no_state = || Ok(());
        let rows = in_parallel(pictures.len(), no_state, |(), at| {
            let picture = pictures.get(at).context("a picture is missing")?;
            Ok(preprocessor.apply(DynamicImage::ImageLuma8(picture))?)
        })?;
        let rows: Vec<f32> = rows.concat();
        let labels: Vec<i64> = pictures.labels().iter().map(|&label| i64::from(label)).collect();
        let side = i64::from(digits::SIDE);
        let pictures = Tensor::from_slice(&rows).view([-1, 1, side, side]);
        Ok(Samples {
            // Augmentation needs ink between 0 and 1; training normalises what comes out of it.
            pictures: (pictures * deviation + mean).to_device(device),
            labels: Tensor::from_slice(&labels).to_device(device),
            mean,
            deviation,
        })
    }
}
