//! Networks for CIFAR-10's colour images of animals and vehicles.

use super::{Activation, Conv, Dense, Dropout, Flatten, Layer, MaxPool};
use crate::layers;

/// Width and height of the images.
pub const SIDE: u32 = 32;
const CLASSES: i64 = 10;

/// The network that is served.
pub fn airbench() -> Vec<Layer> {
    super::airbench::layers(3, [48, 160, 256], CLASSES)
}

/// The convolutions of many introductions, for comparison.
pub fn plain() -> Vec<Layer> {
    layers![
        Conv::new(3, 32, 3),
        MaxPool(2),
        Conv::new(32, 64, 3),
        MaxPool(2),
        Conv::new(64, 128, 3),
        MaxPool(2),
        Flatten,
        Dense::new(128 * 4 * 4, 128).activation(Activation::Relu),
        Dropout,
        Dense::new(128, CLASSES),
    ]
}
