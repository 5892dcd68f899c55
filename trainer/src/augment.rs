//! Training pictures that are never twice the same: turned, slanted, scaled, shifted, bent, with thicker or thinner
//! strokes, softer or stronger. All on whole batches, all from one seeded generator.

use rand_chacha::rand_core::Rng;
use rand_distr::{Distribution as _, StandardNormal, uniform};
use tch::{Kind, Tensor};

/// How far each change goes.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Strength {
    /// Degrees to either side.
    rotation: f32,
    /// Horizontal slant: shift in pictures' heights from the middle to the top.
    shear: f32,
    /// Part of the size that each axis, on its own, gains or loses.
    scale: f32,
    /// Part of the side that the picture moves.
    shift: f32,
    /// Standard deviation of the bend at each control point, as part of half the side.
    bend: f32,
    /// Largest part of the way to the picture with its strokes one pixel thicker or thinner on every side.
    stroke: f32,
    /// Largest part of the way to the picture's mean over 3 x 3 pixels.
    blur: f32,
    /// Largest gain; what is brighter than white stays white.
    gain: f32,
}

/// Chosen on the validation split, see docs/training.md.
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

/// Control points of the bend on each axis.
const BEND_POINTS: i64 = 6;

/// Changes each picture of `[batch, 1, height, width]`, ink between 0 (none) and 1, in its own way.
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

    // Half of the pictures keep their strokes, half their sharpness and half their contrast.
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

    let dilate = |picture: &Tensor| picture.max_pool2d([3, 3], [1, 1], [1, 1], [1, 1], false);
    let thicker = dilate(&warped) - &warped;
    let thinner = &warped + dilate(&-&warped);
    let stroked = &warped + stroke.clamp_min(0.0) * thicker + stroke.clamp_max(0.0) * thinner;
    let soft = stroked.avg_pool2d([3, 3], [1, 1], [1, 1], false, true, None);
    let blurred = &stroked + blur * (soft - &stroked);
    (blurred * gain).clamp(0.0, 1.0).to_kind(Kind::Float)
}

/// The two rows of a matrix that says for each place of the new picture where to look in the old one.
fn affine(rng: &mut impl Rng) -> [f32; 6] {
    let angle = between(rng, -STRENGTH.rotation, STRENGTH.rotation).to_radians();
    let slant = between(rng, -STRENGTH.shear, STRENGTH.shear);
    let mut stretch = || 1.0 / (1.0 + between(rng, -STRENGTH.scale, STRENGTH.scale));
    let (x, y) = (stretch(), stretch());
    let (sin, cos) = angle.sin_cos();
    // Coordinates go from -1 to 1, so a part of the side counts twice.
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
    // Fails only for bounds that are not finite or the wrong way round; the middle is then as good as any.
    UniformFloat::<f32>::sample_single_inclusive(low, high, rng).unwrap_or(f32::midpoint(low, high))
}

fn normal(rng: &mut impl Rng) -> f32 {
    StandardNormal.sample(rng)
}
