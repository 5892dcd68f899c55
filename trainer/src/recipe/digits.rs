use classifier::image::PreprocessorConfig;

use super::{Augmentation, Recipe, Target, square};
use crate::{
    data::{DataSet, mnist},
    network::digits,
    optimizer::Rule,
    training::{Config, Jitter, Schedule},
    transform::Transform,
};

/// The mean and the standard deviation of MNIST's training pixels.
const MEAN: f64 = 0.1307;
const DEVIATION: f64 = 0.3081;

/// Convolutions. Reads digits of any size, dark on light or light on dark. This is the one that is
/// served.
pub(super) fn cnn() -> Recipe {
    let common = mlp();
    Recipe {
        network: "cnn",
        title: "Handwritten digits (cnn)",
        layers: digits::cnn(),
        config: Config {
            network: "cnn".to_owned(),
            epochs: 20,
            batch_size: 128,
            learning_rate: 3e-3,
            schedule: Schedule::Cosine,
            optimizer: Rule::Adamw,
            weight_decay: 0.02,
            augment: true,
            average_decay: 0.998,
            ..Config::default()
        },
        preprocessor: PreprocessorConfig {
            do_fit_ink: true,
            ink_size: Some(20),
            ink_threshold: Some(0.2),
            do_resize: None,
            do_normalize: Some(true),
            image_mean: Some(vec![MEAN]),
            image_std: Some(vec![DEVIATION]),
            ..common.preprocessor
        },
        augmentation: Augmentation::Ink,
        transforms: &[
            Transform::Canvas,
            Transform::Jpeg,
            Transform::Thin,
            Transform::Thick,
        ],
        comparison: None,
        limits: "One digit on a plain background, dark on light or light on dark, of any size and anywhere in the image: the \
                 preprocessing finds the ink and frames it as MNIST's digits are framed. The digit must be the only ink; \
                 several digits, ruled paper, shadows and objects in the background lead to wrong labels. An image without \
                 a digit still gets the label of one, often with a high score. MNIST's digits were written in the United \
                 States around 1990, so a 1 with a long upstroke or a crossed 7 is rare among them.".into(),
        ..common
    }
}

/// 784-128-64-10, fully connected, as many introductions train it.
pub(super) fn mlp() -> Recipe {
    let side = digits::SIDE;
    Recipe {
        target: Target::Digits,
        network: "mlp",
        title: "Handwritten digits (mlp)",
        summary: "Tells which digit, 0 to 9, an image shows.".into(),
        set: DataSet::Mnist,
        labels: mnist::classes(),
        input: [1, i64::from(side), i64::from(side)],
        layers: digits::mlp(),
        config: Config {
            network: "mlp".to_owned(),
            epochs: 10,
            batch_size: 64,
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
            "the fully connected 784-128-64-10 network of many introductions (`--network mlp`: ReLU, Adam at 0.001, batches \
             of 64, 10 epochs, no augmentation, pixels divided by 255). An article that trains it claims 98.4 %; its code, \
             run in PyTorch, gave 97.4 to 97.9 %",
        ),
        limits: "For comparison only. It expects images framed like MNIST's: light ink on dark, 28 x 28 pixels, centred.".into(),
    }
}
