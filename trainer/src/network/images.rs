//! Networks for CIFAR-10's colour pictures of 32 x 32 pixels.

use super::{Activation, Conv, Layer};

/// Rows and columns of the pictures.
pub const SIDE: u32 = 32;
/// Kinds of animals and vehicles.
pub const CLASSES: i64 = 10;

/// The served network: whitened 2 x 2 patches, then three pairs of convolutions, the first of each pair with a maximum
/// that halves the picture. The design is that of Keller Jordan's airbench (arXiv:2404.00498), with fewer channels.
pub fn airbench(widths: [i64; 3]) -> Vec<Layer> {
    let gelu = |conv: Conv| Layer::Conv(conv.activation(Activation::Gelu));
    let mut layers = vec![
        Layer::Mirror,
        Layer::Whiten {
            inputs: 3,
            kernel: 2,
            activation: Activation::Gelu,
        },
    ];
    let mut inputs = 24;
    for outputs in widths {
        layers.push(gelu(Conv::new(inputs, outputs, 3).dirac().pool(2)));
        layers.push(gelu(Conv::new(outputs, outputs, 3).dirac()));
        inputs = outputs;
    }
    layers.extend([
        Layer::MaxPool(3),
        Layer::Flatten,
        Layer::Dropout(0.0),
        Layer::Dense {
            inputs,
            outputs: CLASSES,
            activation: Activation::Identity,
        },
        // Keeps the logits, and with them the first gradients, small.
        Layer::Scale(1.0 / 9.0),
        Layer::MirrorMean,
    ]);
    layers
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
