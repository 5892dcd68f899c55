//! Networks for CIFAR-10's colour pictures of 32 x 32 pixels.

use super::{Activation, Conv, Layer};

/// Rows and columns of the pictures.
pub const SIDE: u32 = 32;
/// Kinds of animals and vehicles.
pub const CLASSES: i64 = 10;

/// The served network: [`airbench`](super::airbench) with channels to suit the time that a picture may take.
pub fn airbench() -> Vec<Layer> {
    super::airbench::layers(3, [48, 160, 256], CLASSES)
}

/// The convolutions of many introductions, for comparison.
pub fn plain() -> Vec<Layer> {
    let mut layers = Vec::new();
    let mut inputs = 3;
    for outputs in [32, 64, 128] {
        layers.push(Layer::Conv(Conv::new(inputs, outputs, 3)));
        layers.push(Layer::MaxPool(2));
        inputs = outputs;
    }
    let dense = |inputs, outputs, activation| Layer::Dense {
        inputs,
        outputs,
        activation,
    };
    layers.extend([
        Layer::Flatten,
        dense(128 * 4 * 4, 128, Activation::Relu),
        Layer::Dropout(0.0),
        dense(128, CLASSES, Activation::Identity),
    ]);
    layers
}
