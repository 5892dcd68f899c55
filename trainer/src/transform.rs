//! Test pictures as a user would send them.

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

/// Side of the picture that a canvas becomes.
const CANVAS_SIDE: u32 = 280;
/// How many pixels of that picture [`Transform::Thin`] and [`Transform::Thick`] take from or add to every edge.
const STROKE: usize = 2;
const JPEG_QUALITY: u8 = 50;

/// What is done to a test picture before it is classified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Transform {
    /// As published, as PNG.
    None,
    /// Dark on light, at a random place of a canvas 2 to 4 times as wide, scaled to 280 x 280, as PNG.
    Canvas,
    /// Canvas, as JPEG of quality 50.
    Jpeg,
    /// Canvas, with strokes 2 pixels thinner on every side, as drawn with a fine pen.
    Thin,
    /// Canvas, with strokes 2 pixels thicker on every side, as drawn with a broad pen.
    Thick,
}

impl Transform {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Canvas => "canvas",
            Self::Jpeg => "jpeg",
            Self::Thin => "thin",
            Self::Thick => "thick",
        }
    }

    /// The bytes of an image file. The same seed and number give the same canvas.
    pub fn apply(self, picture: &DynamicImage, seed: u64, number: usize) -> Result<Vec<u8>> {
        if self == Self::None {
            return png(picture);
        }
        let DynamicImage::ImageLuma8(picture) = picture else {
            bail!("transform {}: expected grey pictures, found colour", self.name());
        };
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(number as u64);
        let mut canvas = canvas(picture, &mut rng)?;
        match self {
            Self::None | Self::Canvas | Self::Jpeg => {}
            // Ink is dark: its strokes grow where the smallest value wins.
            Self::Thin => canvas = spread(&canvas, u8::max),
            Self::Thick => canvas = spread(&canvas, u8::min),
        }
        let mut bytes = Cursor::new(Vec::new());
        let encoded = if self == Self::Jpeg {
            canvas.write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY))
        } else {
            canvas.write_to(&mut bytes, ImageFormat::Png)
        };
        encoded.context("cannot encode a picture")?;
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

fn canvas(picture: &GrayImage, rng: &mut ChaCha8Rng) -> Result<GrayImage> {
    let mut pick = |low: u32, high: u32| -> Result<u32> {
        let range = Uniform::new_inclusive(low, high).context("a test picture is too large for a canvas")?;
        Ok(range.sample(rng))
    };
    let (width, height) = picture.dimensions();
    let side = pick(2 * width.max(height), 4 * width.max(height))?;
    let (x, y) = (pick(0, side - width)?, pick(0, side - height)?);
    let mut inverted = picture.clone();
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

/// Each pixel becomes the winner among those of the square around it that reaches [`STROKE`] pixels to every side.
fn spread(picture: &GrayImage, winner: impl Fn(u8, u8) -> u8) -> GrayImage {
    // The winner of a square is the winner of its columns' winners; on its side, a column is a row.
    let rows = |picture: &GrayImage| {
        let mut result = picture.clone();
        let width = picture.width() as usize;
        for (row, winners) in picture.chunks_exact(width).zip(result.chunks_exact_mut(width)) {
            for (x, pixel) in winners.iter_mut().enumerate() {
                let around = &row[x.saturating_sub(STROKE)..(x + STROKE + 1).min(width)];
                *pixel = around.iter().copied().reduce(&winner).unwrap_or(*pixel);
            }
        }
        result
    };
    imageops::rotate270(&rows(&imageops::rotate90(&rows(picture))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dot() -> DynamicImage {
        let mut picture = GrayImage::new(28, 28);
        for (x, y) in [(13, 13), (14, 13), (13, 14), (14, 14)] {
            picture.put_pixel(x, y, Luma([255]));
        }
        DynamicImage::ImageLuma8(picture)
    }

    fn ink(bytes: &[u8]) -> usize {
        let picture = image::load_from_memory(bytes).unwrap().to_luma8();
        assert_eq!(picture.dimensions(), (280, 280));
        picture.pixels().filter(|pixel| pixel.0[0] < 128).count()
    }

    #[test]
    fn canvases_are_dark_on_light_and_repeatable() {
        let one = Transform::Canvas.apply(&dot(), 1, 0).unwrap();
        assert_eq!(one, Transform::Canvas.apply(&dot(), 1, 0).unwrap());
        assert_ne!(one, Transform::Canvas.apply(&dot(), 1, 1).unwrap());
        assert_ne!(one, Transform::Canvas.apply(&dot(), 2, 0).unwrap());
        // Two pixels of a picture 2 to 4 times as wide as 28.
        let side = 2 * 280 / (4 * 28)..=2 * 280 / (2 * 28) + 1;
        let area = side.start() * side.start()..=side.end() * side.end();
        assert!(area.contains(&ink(&one)), "{} not in {area:?}", ink(&one));
    }

    #[test]
    fn pens_are_thin_or_thick() {
        let [thin, plain, thick] = [Transform::Thin, Transform::Canvas, Transform::Thick]
            .map(|transform| ink(&transform.apply(&dot(), 3, 5).unwrap()));
        assert!(thin < plain && plain < thick, "{thin} {plain} {thick}");
        let jpeg = ink(&Transform::Jpeg.apply(&dot(), 3, 5).unwrap());
        assert!(jpeg.abs_diff(plain) < 20, "{jpeg} {plain}");
    }
}
