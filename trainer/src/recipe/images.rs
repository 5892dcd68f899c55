use classifier::image::PreprocessorConfig;

use super::{Augmentation, Recipe, Target, square};
use crate::{
    data::{DataSet, cifar10},
    network::{Precision, images},
    optimizer::Rule,
    training::{Config, Jitter, Schedule},
};

/// The mean and the standard deviation of CIFAR-10's training pixels: red, green, blue.
const MEAN: [f64; 3] = [0.4914, 0.4822, 0.4465];
const DEVIATION: [f64; 3] = [0.247, 0.2435, 0.2616];

/// The one that is served.
pub(super) fn airbench() -> Recipe {
    Recipe {
        network: "airbench",
        title: "Animals and vehicles (airbench)",
        layers: images::airbench(),
        config: Config {
            network: "airbench".to_owned(),
            epochs: 30,
            batch_size: 512,
            learning_rate: 0.6,
            schedule: Schedule::OneCycle,
            optimizer: Rule::Sgd,
            momentum: 0.85,
            nesterov: true,
            shift_rate: 64.0,
            weight_decay: 1.33e-3,
            label_smoothing: 0.2,
            augment: true,
            average_decay: 0.99,
            patience: 100,
            precision: Precision::Bf16,
            ..Config::default()
        },
        augmentation: Augmentation::Jitter(Jitter {
            flip: true,
            shift: 2,
            erase: 8,
        }),
        comparison: None,
        ..plain()
    }
}

/// Three convolutions and two dense layers, as many introductions train them.
pub(super) fn plain() -> Recipe {
    let side = images::SIDE;
    Recipe {
        target: Target::Images,
        network: "plain",
        title: "Animals and vehicles (plain)",
        summary: "Tells which of ten kinds of animals and vehicles a small colour image shows.".into(),
        set: DataSet::Cifar10,
        labels: cifar10::CLASSES.map(str::to_owned).to_vec(),
        input: [3, i64::from(side), i64::from(side)],
        layers: images::plain(),
        config: Config {
            network: "plain".to_owned(),
            epochs: 5,
            batch_size: 64,
            learning_rate: 1e-3,
            schedule: Schedule::Constant,
            optimizer: Rule::Adam,
            ..Config::default()
        },
        preprocessor: PreprocessorConfig {
            do_convert_rgb: Some(true),
            do_normalize: Some(true),
            image_mean: Some(MEAN.to_vec()),
            image_std: Some(DEVIATION.to_vec()),
            ..square(side)
        },
        augmentation: Augmentation::Jitter(Jitter::default()),
        transforms: &[],
        comparison: Some(
            "the three convolutions (32, 64 and 128 channels) and two dense layers of many introductions (`--network plain`)",
        ),
        limits: "Images of one animal or vehicle of the ten kinds that fills the frame. Any other image still gets one of the \
                 ten labels, often with a high score. Every image is first reduced to 32 x 32 pixels.".into(),
    }
}
