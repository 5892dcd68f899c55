//! Networks for MNIST's grey images of handwritten digits.

use super::{Activation, Conv, Dense, Flatten, Layer};
use crate::layers;

/// Width and height of the images.
pub const SIDE: u32 = 28;
const CLASSES: i64 = 10;

/// The network that is served: four convolutions. The first has a stride, because most of a CPU's
/// time would go into the layers with wide images.
pub fn cnn() -> Vec<Layer> {
    layers![
        Conv::new(1, 32, 5).stride(2),
        Conv::new(32, 32, 3),
        Conv::new(32, 64, 3).stride(2),
        Conv::new(64, 64, 3),
        Flatten,
        Dense::new(64 * 7 * 7, CLASSES),
    ]
}

/// The fully connected network of many introductions, for comparison.
pub fn mlp() -> Vec<Layer> {
    layers![
        Flatten,
        Dense::new(i64::from(SIDE * SIDE), 128).activation(Activation::Relu),
        Dense::new(128, 64).activation(Activation::Relu),
        Dense::new(64, CLASSES),
    ]
}
