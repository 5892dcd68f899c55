//! Networks for image folders.

use super::{Activation, Conv, Dense, Dropout, GlobalAverage, Layer, Residual};
use crate::layers;

/// From this width on, the first convolution halves the image.
const WIDE: u32 = 96;
/// Images of this width or less are not halved again.
const NARROW: u32 = 7;
/// The channels of the stages, each of which halves the image.
const WIDTHS: [i64; 4] = [32, 64, 128, 256];
/// The channels of the first convolution.
const STEM: i64 = 24;

/// A compact residual network for colour images of `side` x `side` pixels: a first convolution, up
/// to four stages of one block each (K. He et al., "Deep Residual Learning for Image Recognition",
/// CVPR 2016), global average pooling and a dense layer. At 224 x 224 it takes 0.2 billion
/// multiplications an image and has 1.2 million weights.
pub fn residual(side: u32, classes: i64) -> Vec<Layer> {
    let (first, mut side) = if side >= WIDE {
        (Conv::new(3, STEM, 5).stride(2), side.div_ceil(2))
    } else {
        (Conv::new(3, STEM, 3), side)
    };
    let mut layers = layers![first];
    let mut inputs = STEM;
    for outputs in WIDTHS {
        if side <= NARROW {
            break;
        }
        layers.push(block(inputs, outputs).into());
        inputs = outputs;
        side = side.div_ceil(2);
    }
    layers.push(GlobalAverage.into());
    layers.extend(head(inputs, classes));
    layers
}

/// The last layer, which is all that transfer learning trains.
pub fn head(features: i64, classes: i64) -> Vec<Layer> {
    layers![Dropout, Dense::new(features, classes)]
}

fn block(inputs: i64, outputs: i64) -> Residual {
    let plain = |conv: Conv| conv.activation(Activation::Identity);
    Residual {
        body: layers![
            Conv::new(inputs, outputs, 3).stride(2),
            plain(Conv::new(outputs, outputs, 3)),
        ],
        shortcut: layers![plain(Conv::new(inputs, outputs, 1).stride(2))],
        activation: Activation::Relu,
    }
}
