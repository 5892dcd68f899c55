//! A network that learns in few epochs.

use super::{Activation, Conv, Layer};

/// Whitened 2 x 2 patches, then three pairs of convolutions, the first of each pair with a maximum that halves the picture.
/// For pictures of `channels` channels with a side from 26 to 49. The design is that of Keller Jordan's airbench
/// (arXiv:2404.00498); this one looks at the mirror image as well.
pub fn layers(channels: i64, widths: [i64; 3], classes: i64) -> Vec<Layer> {
    let gelu = |conv: Conv| Layer::Conv(conv.activation(Activation::Gelu));
    let mut layers = vec![
        Layer::Mirror,
        Layer::Whiten {
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
    layers.extend([
        Layer::MaxPool(3),
        Layer::Flatten,
        Layer::Dropout(0.0),
        Layer::Dense {
            inputs,
            outputs: classes,
            activation: Activation::Identity,
        },
        // Keeps the logits, and with them the first gradients, small.
        Layer::Scale(1.0 / 9.0),
        Layer::MirrorMean,
    ]);
    layers
}
