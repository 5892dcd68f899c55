//! Augmentation of photographs: cuts out a random part, resizes it to the network's input, mirrors
//! it and changes its colours.

use anyhow::{Context as _, Result};
use clap::{ArgAction, Args};
use fast_image_resize as fir;
use image::{RgbImage, imageops};
use rand_chacha::rand_core::Rng;
use serde::{Deserialize, Serialize};

use crate::numbers::{area, part};

/// The largest ratio of the longer to the shorter side of the part that is cut out.
const LONGEST: f64 = 4.0 / 3.0;
/// The number of draws before the part in the middle is taken instead.
const TRIES: usize = 10;

/// How training changes an image at random.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Args)]
pub struct Variation {
    /// The smallest part of the image's area that training cuts out; 1 keeps the whole image.
    #[arg(long, value_name = "PART", value_parser = area, default_value_t = 0.35)]
    pub crop: f64,
    /// Whether training mirrors every second image; say false if left and right matter, as in
    /// letters.
    #[arg(long, value_name = "true|false", action = ArgAction::Set, default_value_t = true)]
    pub flip: bool,
    /// Training multiplies brightness, contrast and saturation by a factor between 1 minus this and
    /// 1 plus this.
    #[arg(long, value_name = "PART", value_parser = part, default_value_t = 0.3)]
    pub colour: f64,
}

impl Variation {
    /// Returns a changed image of `side` x `side` pixels. The random resized crop is that of C.
    /// Szegedy et al., "Going Deeper with Convolutions", CVPR 2015.
    pub fn apply(&self, image: &RgbImage, side: u32, rng: &mut impl Rng) -> Result<RgbImage> {
        let window = self.window(image.dimensions(), rng);
        let mut cut = resize(image, window, side)?;
        if self.flip && rng.next_u32().is_multiple_of(2) {
            imageops::flip_horizontal_in_place(&mut cut);
        }
        if self.colour > 0.0 {
            let mut factor = || between(rng, 1.0 - self.colour, 1.0 + self.colour) as f32;
            recolour(&mut cut, factor(), factor(), factor());
        }
        Ok(cut)
    }

    /// Draws left, top, width and height of the part to cut out.
    fn window(&self, (width, height): (u32, u32), rng: &mut impl Rng) -> [f64; 4] {
        let (width, height) = (f64::from(width), f64::from(height));
        for _ in 0..TRIES {
            let area = width * height * between(rng, self.crop, 1.0);
            let ratio = between(rng, -LONGEST.ln(), LONGEST.ln()).exp();
            let (w, h) = ((area * ratio).sqrt(), (area / ratio).sqrt());
            if w <= width && h <= height {
                return [between(rng, 0.0, width - w), between(rng, 0.0, height - h), w, h];
            }
        }
        // The largest part around the middle whose sides have an allowed ratio.
        let (w, h) = (width.min(height * LONGEST), height.min(width * LONGEST));
        [(width - w) / 2.0, (height - h) / 2.0, w, h]
    }
}

fn resize(image: &RgbImage, [left, top, width, height]: [f64; 4], side: u32) -> Result<RgbImage> {
    let (w, h) = image.dimensions();
    let source = fir::images::ImageRef::new(w, h, image.as_raw(), fir::PixelType::U8x3)
        .context("cannot resize an image")?;
    let mut target = fir::images::Image::new(side, side, fir::PixelType::U8x3);
    let options = fir::ResizeOptions::new()
        .crop(left, top, width, height)
        .resize_alg(fir::ResizeAlg::Convolution(fir::FilterType::Bilinear));
    fir::Resizer::new()
        .resize(&source, &mut target, &options)
        .context("cannot resize an image")?;
    RgbImage::from_raw(side, side, target.into_vec()).context("a resized image is too small")
}

/// Multiplies the brightness, then the contrast around the image's mean grey, then the saturation
/// around each pixel's grey.
fn recolour(image: &mut RgbImage, brightness: f32, contrast: f32, saturation: f32) {
    let grey = |[r, g, b]: [f32; 3]| 0.299 * r + 0.587 * g + 0.114 * b;
    let pixels = || image.pixels().map(|pixel| pixel.0.map(f32::from));
    let mean = brightness * pixels().map(grey).sum::<f32>() / pixels().len().max(1) as f32;
    for pixel in image.pixels_mut() {
        let lit = pixel
            .0
            .map(|level| mean + contrast * (brightness * f32::from(level) - mean));
        let own = grey(lit);
        pixel.0 = lit.map(|level| (own + saturation * (level - own)).round().clamp(0.0, 255.0) as u8);
    }
}

/// Draws from this range, including both ends.
fn between(rng: &mut impl Rng, low: f64, high: f64) -> f64 {
    let part = f64::from(rng.next_u32()) / f64::from(u32::MAX);
    low + part * (high - low)
}

#[cfg(test)]
mod tests {
    use image::Rgb;
    use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng as _};

    use super::*;

    /// An image whose red grows to the right and whose green grows downwards.
    fn slope(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| {
            Rgb([(x * 255 / (width - 1)) as u8, (y * 255 / (height - 1)) as u8, 100])
        })
    }

    fn rng(seed: u64) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(seed)
    }

    #[test]
    fn parts_lie_inside_the_image_and_have_an_allowed_area_and_ratio() {
        let variation = Variation {
            crop: 0.25,
            flip: false,
            colour: 0.0,
        };
        for seed in 0..500 {
            let [left, top, width, height] = variation.window((100, 60), &mut rng(seed));
            assert!(left >= 0.0 && top >= 0.0 && left + width <= 100.0 + 1e-9 && top + height <= 60.0 + 1e-9);
            assert!((0.249..=1.0).contains(&(width * height / 6000.0)));
            assert!((0.74..1.34).contains(&(width / height)));
        }
        // No part with an allowed ratio fits, so the middle is taken.
        let [left, top, width, height] = variation.window((1000, 10), &mut rng(1));
        assert!(height == 10.0 && top == 0.0 && (width - 40.0 / 3.0).abs() < 1e-9 && left > 490.0);
    }

    #[test]
    fn without_variation_a_square_image_stays_the_same() {
        let still = Variation {
            crop: 1.0,
            flip: false,
            colour: 0.0,
        };
        let image = slope(32, 32);
        // A whole square has the ratio 1. Any other draw fails and takes the middle, which is the
        // whole square.
        assert_eq!(still.apply(&image, 32, &mut rng(1)).unwrap(), image);
    }

    #[test]
    fn half_of_the_images_are_mirrored() {
        let flip = Variation {
            crop: 1.0,
            flip: true,
            colour: 0.0,
        };
        let image = slope(16, 16);
        let mirrored = (0..200)
            .filter(|&seed| flip.apply(&image, 16, &mut rng(seed)).unwrap() != image)
            .count();
        assert!((70..130).contains(&mirrored), "{mirrored}");
    }

    #[test]
    fn colours_change_and_follow_the_seed() {
        let colour = Variation {
            crop: 0.5,
            flip: true,
            colour: 0.3,
        };
        let image = slope(40, 30);
        let one = colour.apply(&image, 24, &mut rng(1)).unwrap();
        assert_eq!(one.dimensions(), (24, 24));
        assert_eq!(one, colour.apply(&image, 24, &mut rng(1)).unwrap());
        assert_ne!(one, colour.apply(&image, 24, &mut rng(2)).unwrap());

        let mut plain = slope(8, 8);
        recolour(&mut plain, 1.0, 1.0, 1.0);
        assert_eq!(plain, slope(8, 8));
        recolour(&mut plain, 0.5, 1.0, 0.0);
        assert!(
            plain.pixels().all(|pixel| pixel.0[0] == pixel.0[1]),
            "without saturation an image is grey"
        );
        assert!(plain.pixels().all(|pixel| pixel.0[0] < 128), "half as bright");
    }
}
