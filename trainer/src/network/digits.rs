//! Networks for handwritten digits of 28 x 28 pixels.

use super::Layer;

/// Side of the pictures.
pub const SIDE: u32 = 28;
/// Digits.
pub const CLASSES: i64 = 10;

/// The served network: four convolutions, the first with a stride, since most of the time of a CPU thread would go where
/// pictures are wide.
pub fn cnn() -> Vec<Layer> {
    let conv = |inputs, outputs, kernel, stride| Layer::Conv {
        inputs,
        outputs,
        kernel,
        stride,
        padding: kernel / 2,
    };
    vec![
        conv(1, 32, 5, 2),
        conv(32, 32, 3, 1),
        conv(32, 64, 3, 2),
        conv(64, 64, 3, 1),
        Layer::Flatten,
        Layer::Dense {
            inputs: 64 * 7 * 7,
            outputs: CLASSES,
            relu: false,
        },
    ]
}

/// The fully connected network of many introductions, for comparison.
pub fn mlp() -> Vec<Layer> {
    let dense = |inputs, outputs, relu| Layer::Dense {
        inputs,
        outputs,
        relu,
    };
    let pixels = i64::from(SIDE * SIDE);
    vec![
        Layer::Flatten,
        dense(pixels, 128, true),
        dense(128, 64, true),
        dense(64, CLASSES, false),
    ]
}
