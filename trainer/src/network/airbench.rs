//! A network that learns in few epochs.

use super::{Activation, Conv, Dense, Dropout, Flatten, Layer, MaxPool, Mirror, MirrorMean, Scale, Whiten};
use crate::layers;

/// Whitened 2 x 2 patches, then three pairs of convolutions, of which the first halves the image
/// with max pooling. For images with a side from 26 to 49 pixels. The design is Keller Jordan's
/// airbench (arXiv:2404.00498); this one also classifies the mirror image.
pub fn layers(channels: i64, widths: [i64; 3], classes: i64) -> Vec<Layer> {
    let gelu = |conv: Conv| Layer::from(conv.activation(Activation::Gelu));
    let mut layers = layers![
        Mirror,
        Whiten {
            inputs: channels,
            kernel: 2,
            activation: Activation::Gelu,
        },
    ];
    let mut inputs = 8 * channels;
    for outputs in widths {
        layers.push(gelu(Conv::new(inputs, outputs, 3).dirac().pool(2)));
        layers.push(gelu(Conv::new(outputs, outputs, 3).dirac()));
        inputs = outputs;
    }
    layers.extend(layers![
        MaxPool(3),
        Flatten,
        Dropout,
        Dense::new(inputs, classes),
        // Keeps the logits, and with them the first gradients, small.
        Scale(1.0 / 9.0),
        MirrorMean,
    ]);
    layers
}
