//! Networks for Fashion-MNIST's grey pictures of 28 x 28 pixels.

use super::{Activation, Conv, Layer};

/// Rows and columns of the pictures.
pub const SIDE: u32 = 28;
/// Kinds of clothes.
pub const CLASSES: i64 = 10;

/// The served network: [`airbench`](super::airbench).
pub fn airbench() -> Vec<Layer> {
    super::airbench::layers(1, [48, 128, 256], CLASSES)
}

/// A small residual network.
pub fn resnet() -> Vec<Layer> {
    let conv = |inputs, outputs| Layer::Conv(Conv::new(inputs, outputs, 3));
    let halving = |inputs, outputs| {
        let halved = Conv::new(inputs, outputs, 3).pool(2).activation(Activation::Relu);
        Layer::Conv(halved)
    };
    let residual = |channels| Layer::Residual {
        body: vec![conv(channels, channels), conv(channels, channels)],
        shortcut: vec![],
        activation: Activation::Identity,
    };
    vec![
        conv(1, 24),
        halving(24, 48),
        residual(48),
        halving(48, 96),
        residual(96),
        Layer::GlobalAverage,
        Layer::Dropout(0.0),
        Layer::Dense {
            inputs: 96,
            outputs: CLASSES,
            activation: Activation::Identity,
        },
    ]
}

/// The fully connected network of many introductions, for comparison.
pub fn mlp() -> Vec<Layer> {
    let dense = |inputs, outputs, activation| Layer::Dense {
        inputs,
        outputs,
        activation,
    };
    vec![
        Layer::Flatten,
        dense(i64::from(SIDE * SIDE), 128, Activation::Relu),
        dense(128, CLASSES, Activation::Identity),
    ]
}
