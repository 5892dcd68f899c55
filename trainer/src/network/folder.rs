//! Networks for a folder of one's own pictures.

use super::{Activation, Conv, Layer};

/// Pictures at least this wide are halved by the first convolution.
const WIDE: u32 = 96;
/// A picture this wide is not halved any more.
const NARROW: u32 = 7;
/// Channels of the stages, each of which halves the picture.
const WIDTHS: [i64; 4] = [32, 64, 128, 256];
/// Channels of the first convolution.
const STEM: i64 = 24;

/// A compact residual network for colour pictures of `side` x `side`: a first convolution, up to four stages of one block
/// each (K. He et al., "Deep Residual Learning for Image Recognition", CVPR 2016), the mean, one dense layer. At 224 it
/// takes 0.2 billion multiplications a picture and has 1.2 million weights.
pub fn residual(side: u32, classes: i64) -> Vec<Layer> {
    let (first, mut side) = if side >= WIDE {
        (Conv::new(3, STEM, 5).stride(2), side.div_ceil(2))
    } else {
        (Conv::new(3, STEM, 3), side)
    };
    let mut layers = vec![Layer::Conv(first)];
    let mut inputs = STEM;
    for outputs in WIDTHS {
        if side <= NARROW {
            break;
        }
        layers.push(block(inputs, outputs));
        inputs = outputs;
        side = side.div_ceil(2);
    }
    layers.push(Layer::GlobalAverage);
    layers.extend(head(inputs, classes));
    layers
}

/// The last layer, alone: what transfer learning trains.
pub fn head(features: i64, classes: i64) -> Vec<Layer> {
    vec![
        Layer::Dropout(0.0),
        Layer::Dense {
            inputs: features,
            outputs: classes,
            activation: Activation::Identity,
        },
    ]
}

fn block(inputs: i64, outputs: i64) -> Layer {
    let plain = |conv: Conv| Layer::Conv(conv.activation(Activation::Identity));
    Layer::Residual {
        body: vec![
            Layer::Conv(Conv::new(inputs, outputs, 3).stride(2)),
            plain(Conv::new(outputs, outputs, 3)),
        ],
        shortcut: vec![plain(Conv::new(inputs, outputs, 1).stride(2))],
        activation: Activation::Relu,
    }
}
