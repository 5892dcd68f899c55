use classifier::image::PreprocessorConfig;

use super::{Augmentation, Recipe, Target, square};
use crate::{
    data::{DataSet, fashion_mnist},
    network::{Precision, fashion},
    optimizer::Rule,
    training::{Config, Jitter, Schedule},
};

/// The mean and the standard deviation of Fashion-MNIST's training pixels.
const MEAN: f64 = 0.286;
const DEVIATION: f64 = 0.353;

/// The one that is served.
pub(super) fn airbench() -> Recipe {
    Recipe {
        network: "airbench",
        title: "Clothes (airbench)",
        layers: fashion::airbench(),
        config: Config {
            network: "airbench".to_owned(),
            epochs: 8,
            batch_size: 512,
            learning_rate: 0.75,
            momentum: 0.85,
            shift_rate: 64.0,
            weight_decay: 1.33e-3,
            average_decay: 0.99,
            ..resnet().config
        },
        augmentation: Augmentation::Jitter(Jitter {
            flip: true,
            shift: 2,
            erase: 0,
        }),
        ..resnet()
    }
}

/// A small residual network.
pub(super) fn resnet() -> Recipe {
    let common = mlp();
    Recipe {
        network: "resnet",
        title: "Clothes (resnet)",
        layers: fashion::resnet(),
        config: Config {
            network: "resnet".to_owned(),
            epochs: 10,
            batch_size: 256,
            learning_rate: 0.2,
            schedule: Schedule::OneCycle,
            optimizer: Rule::Sgd,
            momentum: 0.9,
            nesterov: true,
            weight_decay: 5e-4,
            label_smoothing: 0.1,
            augment: true,
            average_decay: 0.995,
            patience: 100,
            precision: Precision::Bf16,
            ..Config::default()
        },
        preprocessor: PreprocessorConfig {
            do_normalize: Some(true),
            image_mean: Some(vec![MEAN]),
            image_std: Some(vec![DEVIATION]),
            ..common.preprocessor
        },
        augmentation: Augmentation::Jitter(Jitter {
            flip: true,
            shift: 2,
            erase: 8,
        }),
        comparison: None,
        ..common
    }
}

/// 784-128-10, fully connected, as many introductions train it.
pub(super) fn mlp() -> Recipe {
    let side = fashion::SIDE;
    Recipe {
        target: Target::Fashion,
        network: "mlp",
        title: "Clothes (mlp)",
        summary: "Tells which of ten kinds of clothes a small grey image shows.".into(),
        set: DataSet::FashionMnist,
        labels: fashion_mnist::CLASSES.map(str::to_owned).to_vec(),
        input: [1, i64::from(side), i64::from(side)],
        layers: fashion::mlp(),
        config: Config {
            network: "mlp".to_owned(),
            epochs: 10,
            batch_size: 32,
            learning_rate: 1e-3,
            schedule: Schedule::Constant,
            optimizer: Rule::Adam,
            ..Config::default()
        },
        preprocessor: PreprocessorConfig {
            do_convert_grayscale: true,
            ..square(side)
        },
        augmentation: Augmentation::Jitter(Jitter::default()),
        transforms: &[],
        comparison: Some(
            "the fully connected 784-128-10 network of many introductions (`--network mlp`: ReLU, Adam at 0.001, batches of \
             32, 10 epochs, no augmentation, pixels divided by 255)",
        ),
        limits: "One piece of clothing, light on a black background, upright and filling the frame, as in the data set's \
                 images from a shop. It was not trained on photographs of worn clothes or on dark clothes on a light \
                 background. Any other image still gets one of the ten labels.".into(),
    }
}
