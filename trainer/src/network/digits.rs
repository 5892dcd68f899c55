//! Networks for handwritten digits of 28 x 28 pixels.

use super::{Activation, Conv, Layer};

/// Side of the pictures.
pub const SIDE: u32 = 28;
/// Digits.
pub const CLASSES: i64 = 10;

/// The served network: four convolutions, the first with a stride, since most of the time of a CPU thread would go where
/// pictures are wide.
pub fn cnn() -> Vec<Layer> {
    let conv =
        |inputs, outputs, kernel, stride| Layer::Conv(Conv::new(inputs, outputs, kernel).stride(stride));
    vec![
        conv(1, 32, 5, 2),
        conv(32, 32, 3, 1),
        conv(32, 64, 3, 2),
        conv(64, 64, 3, 1),
        Layer::Flatten,
        Layer::Dense {
            inputs: 64 * 7 * 7,
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
    let pixels = i64::from(SIDE * SIDE);
    vec![
        Layer::Flatten,
        dense(pixels, 128, Activation::Relu),
        dense(128, 64, Activation::Relu),
        dense(64, CLASSES, Activation::Identity),
    ]
}
