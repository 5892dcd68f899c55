//! Transforms that make published test images look like those that users send.

use std::io::Cursor;

use anyhow::{Context as _, Result, bail};
use image::{
    DynamicImage, GrayImage, ImageFormat, Luma,
    codecs::jpeg::JpegEncoder,
    imageops::{self, FilterType},
};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng as _};
use rand_distr::{Distribution as _, Uniform};
use serde::{Deserialize, Serialize};

/// Width and height of the images that all transforms but [`Transform::None`] make.
const CANVAS_SIDE: u32 = 280;
/// The number of pixels that [`Transform::Thin`] and [`Transform::Thick`] take from or add to every
/// edge of a stroke.
const STROKE: usize = 2;
const JPEG_QUALITY: u8 = 50;

// clap prints the comments of the variants in `trainer evaluate --help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Transform {
    /// The published image as PNG.
    None,
    /// Dark on light, at a random position on a canvas 2 to 4 times as wide, scaled to 280 x 280,
    /// as PNG.
    Canvas,
    /// Like `canvas`, as JPEG of quality 50.
    Jpeg,
    /// Like `canvas`, with strokes 2 pixels thinner on every side, as if drawn with a fine pen.
    Thin,
    /// Like `canvas`, with strokes 2 pixels thicker on every side, as if drawn with a broad pen.
    Thick,
}

impl Transform {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Canvas => "canvas",
            Self::Jpeg => "jpeg",
            Self::Thin => "thin",
            Self::Thick => "thick",
        }
    }

    /// Returns an image file. The position on the canvas depends on nothing but `seed` and
    /// `number`.
    pub fn apply(self, image: &DynamicImage, seed: u64, number: usize) -> Result<Vec<u8>> {
        if self == Self::None {
            return png(image);
        }
        let DynamicImage::ImageLuma8(image) = image else {
            bail!(
                "transform {}: expected grey images, found colour images",
                self.name()
            );
        };
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(number as u64);
        let mut canvas = canvas(image, &mut rng)?;
        match self {
            Self::None | Self::Canvas | Self::Jpeg => {}
            // The ink is dark, so taking the darkest pixel nearby thickens the strokes.
            Self::Thin => canvas = spread(&canvas, u8::max),
            Self::Thick => canvas = spread(&canvas, u8::min),
        }
        let mut bytes = Cursor::new(Vec::new());
        let encoded = if self == Self::Jpeg {
            canvas.write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY))
        } else {
            canvas.write_to(&mut bytes, ImageFormat::Png)
        };
        encoded.context("cannot encode an image")?;
        Ok(bytes.into_inner())
    }
}

/// Encodes an image as a PNG file.
pub fn png(image: &DynamicImage) -> Result<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    image
        .write_to(&mut bytes, ImageFormat::Png)
        .context("cannot encode an image as PNG")?;
    Ok(bytes.into_inner())
}

fn canvas(image: &GrayImage, rng: &mut ChaCha8Rng) -> Result<GrayImage> {
    let mut pick = |low: u32, high: u32| -> Result<u32> {
        let range = Uniform::new_inclusive(low, high).context("a test image is too large for a canvas")?;
        Ok(range.sample(rng))
    };
    let (width, height) = image.dimensions();
    let side = pick(2 * width.max(height), 4 * width.max(height))?;
    let (x, y) = (pick(0, side - width)?, pick(0, side - height)?);
    let mut inverted = image.clone();
    imageops::invert(&mut inverted);
    let mut canvas = GrayImage::from_pixel(side, side, Luma([255]));
    imageops::replace(&mut canvas, &inverted, i64::from(x), i64::from(y));
    Ok(imageops::resize(
        &canvas,
        CANVAS_SIDE,
        CANVAS_SIDE,
        FilterType::Triangle,
    ))
}

/// Replaces each pixel by the largest or smallest one, as `choose` decides, of the square around it
/// that reaches [`STROKE`] pixels to every side.
fn spread(image: &GrayImage, choose: impl Fn(u8, u8) -> u8) -> GrayImage {
    // First along rows, then along columns, which are the rows of the image turned by 90 degrees.
    let rows = |image: &GrayImage| {
        let mut result = image.clone();
        let width = image.width() as usize;
        for (row, chosen) in image.chunks_exact(width).zip(result.chunks_exact_mut(width)) {
            for (x, pixel) in chosen.iter_mut().enumerate() {
                let around = &row[x.saturating_sub(STROKE)..(x + STROKE + 1).min(width)];
                *pixel = around.iter().copied().reduce(&choose).unwrap_or(*pixel);
            }
        }
        result
    };
    imageops::rotate270(&rows(&imageops::rotate90(&rows(image))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dot() -> DynamicImage {
        let mut image = GrayImage::new(28, 28);
        for (x, y) in [(13, 13), (14, 13), (13, 14), (14, 14)] {
            image.put_pixel(x, y, Luma([255]));
        }
        DynamicImage::ImageLuma8(image)
    }

    fn ink(bytes: &[u8]) -> usize {
        let image = image::load_from_memory(bytes).unwrap().to_luma8();
        assert_eq!(image.dimensions(), (280, 280));
        image.pixels().filter(|pixel| pixel.0[0] < 128).count()
    }

    #[test]
    fn canvases_are_dark_on_light_and_follow_seed_and_number() {
        let one = Transform::Canvas.apply(&dot(), 1, 0).unwrap();
        assert_eq!(one, Transform::Canvas.apply(&dot(), 1, 0).unwrap());
        assert_ne!(one, Transform::Canvas.apply(&dot(), 1, 1).unwrap());
        assert_ne!(one, Transform::Canvas.apply(&dot(), 2, 0).unwrap());
        // A dot of two pixels on a canvas that is 2 to 4 times as wide as 28 pixels.
        let side = 2 * 280 / (4 * 28)..=2 * 280 / (2 * 28) + 1;
        let area = side.start() * side.start()..=side.end() * side.end();
        assert!(area.contains(&ink(&one)), "{} not in {area:?}", ink(&one));
    }

    #[test]
    fn thin_strokes_have_less_ink_and_thick_ones_more() {
        let [thin, plain, thick] = [Transform::Thin, Transform::Canvas, Transform::Thick]
            .map(|transform| ink(&transform.apply(&dot(), 3, 5).unwrap()));
        assert!(thin < plain && plain < thick, "{thin} {plain} {thick}");
        let jpeg = ink(&Transform::Jpeg.apply(&dot(), 3, 5).unwrap());
        assert!(jpeg.abs_diff(plain) < 20, "{jpeg} {plain}");
    }
}
