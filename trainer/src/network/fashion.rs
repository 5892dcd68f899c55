//! Networks for Fashion-MNIST's grey images of clothes.

use super::{Activation, Conv, Dense, Dropout, Flatten, GlobalAverage, Layer, Residual};
use crate::layers;

/// Width and height of the images.
pub const SIDE: u32 = 28;
const CLASSES: i64 = 10;

/// The network that is served.
pub fn airbench() -> Vec<Layer> {
    super::airbench::layers(1, [48, 128, 256], CLASSES)
}

/// A small residual network.
pub fn resnet() -> Vec<Layer> {
    let conv = |inputs, outputs| Conv::new(inputs, outputs, 3);
    let residual = |channels| Residual {
        body: layers![conv(channels, channels), conv(channels, channels)],
        shortcut: vec![],
        activation: Activation::Identity,
    };
    layers![
        conv(1, 24),
        conv(24, 48).pool(2),
        residual(48),
        conv(48, 96).pool(2),
        residual(96),
        GlobalAverage,
        Dropout,
        Dense::new(96, CLASSES),
    ]
}

/// The fully connected network of many introductions, for comparison.
pub fn mlp() -> Vec<Layer> {
    layers![
        Flatten,
        Dense::new(i64::from(SIDE * SIDE), 128).activation(Activation::Relu),
        Dense::new(128, CLASSES),
    ]
}
