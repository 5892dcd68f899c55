//! Augmentation of handwriting: rotates, shears, scales, shifts and bends images, thickens or thins
//! their strokes, blurs them and raises their contrast. Works on whole batches and draws everything
//! from one seeded generator.

use rand_chacha::rand_core::Rng;
use rand_distr::{Distribution as _, StandardNormal, uniform};
use tch::{Kind, Tensor};

#[derive(Debug, Clone, Copy, PartialEq)]
struct Strength {
    /// The largest angle to either side, in degrees.
    rotation: f32,
    /// The largest horizontal shear: how far the top moves against the middle, as a part of the
    /// height.
    shear: f32,
    /// The largest change of the size, drawn for each axis on its own.
    scale: f32,
    /// The largest shift, as a part of the side.
    shift: f32,
    /// The standard deviation of the displacement of a control point, as a part of half the side.
    bend: f32,
    /// The largest weight of the image with strokes one pixel thicker or thinner on every side.
    stroke: f32,
    /// The largest weight of the image averaged over 3 x 3 pixels.
    blur: f32,
    /// The largest increase of the brightness; the result is clipped at white.
    gain: f32,
}

/// Chosen on the validation split; see docs/training.md.
const STRENGTH: Strength = Strength {
    rotation: 11.0,
    shear: 0.18,
    scale: 0.1,
    shift: 0.035,
    bend: 0.045,
    stroke: 0.5,
    blur: 0.5,
    gain: 0.4,
};

/// The number of control points of the bend on each axis.
const BEND_POINTS: i64 = 6;

/// Changes each image of `[batch, 1, height, width]` on its own. Values are between 0 (background)
/// and 1 (ink).
pub fn augment(batch: &Tensor, rng: &mut impl Rng) -> Tensor {
    let device = batch.device();
    let size = batch.size();
    let count = size[0];
    let theta: Vec<f32> = (0..count).flat_map(|_| affine(rng)).collect();
    let theta = Tensor::from_slice(&theta).view([count, 2, 3]).to_device(device);
    let points = count * 2 * BEND_POINTS * BEND_POINTS;
    let bend: Vec<f32> = (0..points).map(|_| STRENGTH.bend * normal(rng)).collect();
    let bend = Tensor::from_slice(&bend)
        .view([count, 2, BEND_POINTS, BEND_POINTS])
        .to_device(device)
        .upsample_bicubic2d([size[2], size[3]], true, None, None)
        .permute([0, 2, 3, 1]);
    let grid = Tensor::affine_grid_generator(&theta, &size, false) + bend;
    let warped = batch.grid_sampler(&grid, 0, 0, false);

    // Half of the images keep their strokes, half their sharpness and half their contrast.
    let mut amount = |low: f32, high: f32| -> Tensor {
        let values: Vec<f32> = (0..count)
            .map(|_| {
                let amount = between(rng, low, high);
                if between(rng, 0.0, 1.0) < 0.5 { amount } else { 0.0 }
            })
            .collect();
        Tensor::from_slice(&values)
            .view([count, 1, 1, 1])
            .to_device(device)
    };
    let stroke = amount(-STRENGTH.stroke, STRENGTH.stroke);
    let blur = amount(0.0, STRENGTH.blur);
    let gain = amount(0.0, STRENGTH.gain) + 1.0;

    let dilate = |image: &Tensor| image.max_pool2d([3, 3], [1, 1], [1, 1], [1, 1], false);
    let thicker = dilate(&warped) - &warped;
    let thinner = &warped + dilate(&-&warped);
    let stroked = &warped + stroke.clamp_min(0.0) * thicker + stroke.clamp_max(0.0) * thinner;
    let soft = stroked.avg_pool2d([3, 3], [1, 1], [1, 1], false, true, None);
    let blurred = &stroked + blur * (soft - &stroked);
    (blurred * gain).clamp(0.0, 1.0).to_kind(Kind::Float)
}

/// The first two rows of the matrix that maps coordinates of the new image to coordinates of the
/// old one.
fn affine(rng: &mut impl Rng) -> [f32; 6] {
    let angle = between(rng, -STRENGTH.rotation, STRENGTH.rotation).to_radians();
    let slant = between(rng, -STRENGTH.shear, STRENGTH.shear);
    let mut stretch = || 1.0 / (1.0 + between(rng, -STRENGTH.scale, STRENGTH.scale));
    let (x, y) = (stretch(), stretch());
    let (sin, cos) = angle.sin_cos();
    // Coordinates go from -1 to 1, so the side has the length 2.
    let mut shift = || 2.0 * between(rng, -STRENGTH.shift, STRENGTH.shift);
    [
        x * cos,
        x * (slant * cos - sin),
        shift(),
        y * sin,
        y * (slant * sin + cos),
        shift(),
    ]
}

fn between(rng: &mut impl Rng, low: f32, high: f32) -> f32 {
    use uniform::{UniformFloat, UniformSampler as _};
    // Fails only for bounds that are not finite or in the wrong order, which the constants are not.
    UniformFloat::<f32>::sample_single_inclusive(low, high, rng).unwrap_or(f32::midpoint(low, high))
}

fn normal(rng: &mut impl Rng) -> f32 {
    StandardNormal.sample(rng)
}

#[cfg(test)]
mod tests {
    use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng as _};
    use tch::Device;

    use super::*;
    use crate::network::values;

    fn augmented(batch: &Tensor, seed: u64) -> Vec<f32> {
        let result = augment(batch, &mut ChaCha8Rng::seed_from_u64(seed));
        assert_eq!(result.size(), batch.size());
        values(&result).unwrap()
    }

    #[test]
    fn augmentation_keeps_the_amount_of_ink_and_follows_the_seed() {
        let batch = Tensor::zeros([4, 1, 28, 28], (Kind::Float, Device::Cpu));
        assert!(
            augmented(&batch, 1).iter().all(|&value| value == 0.0),
            "an empty image stays empty"
        );

        let _ = batch.narrow(2, 8, 12).narrow(3, 12, 4).fill_(1.0);
        let one = augmented(&batch, 1);
        assert_eq!(one, augmented(&batch, 1));
        assert_ne!(one, augmented(&batch, 2));
        assert!(one.iter().all(|value| (0.0..=1.0).contains(value)));
        for image in one.chunks(28 * 28) {
            let ink: f32 = image.iter().sum();
            assert!((24.0..96.0).contains(&ink), "48 pixels became {ink}");
        }
        assert_ne!(one[..784], one[784..1568], "each image is changed on its own");
    }
}
