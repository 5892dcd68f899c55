//! Encoded picture -> decoded -> resized -> normalised row.
//!
//! The steps and their keys are those of `preprocessor_config.json` as Hugging Face image processors write it, in their
//! order: convert, resize, centre crop, rescale, normalise. Resizing gives what Pillow gives, to one grey level.

use fast_image_resize as fir;
use image::{DynamicImage, ImageFormat, RgbImage};
use serde::{Deserialize, Serialize};

mod codes;
mod header;
mod ink;
mod survey;

pub use self::header::{Header, decode};

/// Why a picture cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// No bytes at all.
    #[error("the picture is empty: expected a png, jpeg, webp, gif or bmp file, found 0 bytes")]
    Empty,
    /// The first bytes are of no format that is read here.
    #[error(
        "not a picture that can be read: expected a png, jpeg, webp, gif or bmp file, found bytes that begin with {found}"
    )]
    UnknownFormat {
        /// The first bytes in hexadecimal.
        found: String,
    },
    /// More pixels than the limits allow. Found before anything was decoded.
    #[error(
        "the picture is too large: expected at most {max_side} pixels a side and {max_pixels} in all, found {width} x {height}"
    )]
    TooLarge {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// The limit on each side.
        max_side: u32,
        /// The limit on the product.
        max_pixels: u64,
    },
    /// A picture of a known format whose content cannot be decoded.
    #[error("the {format} picture cannot be decoded: {reason}")]
    Malformed {
        /// The format that the first bytes promise.
        format: &'static str,
        /// What the decoder says.
        reason: String,
    },
}

/// How large a picture may be. Checked from the header, before pixels are decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest width and largest height, in pixels.
    pub max_side: u32,
    /// Largest width times height.
    pub max_pixels: u64,
}

impl Default for Limits {
    /// 16,384 a side and 2^25 pixels (a 32-megapixel photograph; 96 MiB decoded).
    fn default() -> Self {
        Self {
            max_side: 16_384,
            max_pixels: 1 << 25,
        }
    }
}

/// The media type of a picture, as its first bytes tell it; none if they are of no format that is read here.
pub fn media_type(bytes: &[u8]) -> Option<&'static str> {
    let (format, _) = guess_format(bytes).ok()?;
    Some(format.to_mime_type())
}

fn guess_format(bytes: &[u8]) -> Result<(ImageFormat, &'static str), ImageError> {
    if bytes.is_empty() {
        return Err(ImageError::Empty);
    }
    match image::guess_format(bytes) {
        Ok(ImageFormat::Png) => Ok((ImageFormat::Png, "png")),
        Ok(ImageFormat::Jpeg) => Ok((ImageFormat::Jpeg, "jpeg")),
        Ok(ImageFormat::WebP) => Ok((ImageFormat::WebP, "webp")),
        Ok(ImageFormat::Gif) => Ok((ImageFormat::Gif, "gif")),
        Ok(ImageFormat::Bmp) => Ok((ImageFormat::Bmp, "bmp")),
        _ => {
            use std::fmt::Write as _;
            let mut found = String::new();
            for byte in bytes.iter().take(8) {
                let _ = write!(found, "{byte:02x}");
            }
            Err(ImageError::UnknownFormat { found })
        }
    }
}

/// Resize filters, numbered as Pillow numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum Resample {
    /// 0
    Nearest,
    /// 1
    Lanczos,
    /// 2
    Bilinear,
    /// 3
    Bicubic,
    /// 4
    Box,
    /// 5
    Hamming,
}

impl TryFrom<u8> for Resample {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, String> {
        Ok(match number {
            0 => Self::Nearest,
            1 => Self::Lanczos,
            2 => Self::Bilinear,
            3 => Self::Bicubic,
            4 => Self::Box,
            5 => Self::Hamming,
            _ => {
                return Err(format!(
                    "expected 0 (nearest), 1 (lanczos), 2 (bilinear), 3 (bicubic), 4 (box) or 5 (hamming), found {number}"
                ));
            }
        })
    }
}

impl From<Resample> for u8 {
    fn from(resample: Resample) -> Self {
        resample as u8
    }
}

impl Resample {
    fn algorithm(self) -> fir::ResizeAlg {
        use fir::FilterType as F;
        fir::ResizeAlg::Convolution(match self {
            Self::Nearest => return fir::ResizeAlg::Nearest,
            Self::Lanczos => F::Lanczos3,
            Self::Bilinear => F::Bilinear,
            // Pillow's bicubic has a = -0.5, which is the Catmull-Rom spline.
            Self::Bicubic => F::CatmullRom,
            Self::Box => F::Box,
            Self::Hamming => F::Hamming,
        })
    }
}

/// The size that a picture is resized to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Size {
    /// This height and width, whatever the proportions were.
    Exact {
        /// Pixels.
        height: u32,
        /// Pixels.
        width: u32,
    },
    /// The shorter side becomes this long, and proportions stay.
    ShortestEdge {
        /// Pixels.
        shortest_edge: u32,
    },
    /// A square; older configurations write a bare number.
    Square(u32),
}

impl Size {
    /// `(width, height)` that a picture of `width` x `height` is resized to.
    fn target(self, width: u32, height: u32) -> (u32, u32) {
        match self {
            Self::Exact { height, width } => (width, height),
            Self::Square(side) => (side, side),
            Self::ShortestEdge { shortest_edge } => {
                let scaled = |long: u32, short: u32| {
                    (u64::from(shortest_edge) * u64::from(long) / u64::from(short)) as u32
                };
                if width <= height {
                    (shortest_edge, scaled(height, width))
                } else {
                    (scaled(width, height), shortest_edge)
                }
            }
        }
    }

    /// `(width, height)` if it does not depend on the picture.
    fn fixed(self) -> Option<(u32, u32)> {
        match self {
            Self::Exact { height, width } => Some((width, height)),
            Self::Square(side) => Some((side, side)),
            Self::ShortestEdge { .. } => None,
        }
    }

    fn largest_side(self) -> u32 {
        match self {
            Self::Exact { height, width } => height.max(width),
            Self::Square(side) | Self::ShortestEdge { shortest_edge: side } => side,
        }
    }

    fn smallest_side(self) -> u32 {
        match self {
            Self::Exact { height, width } => height.min(width),
            Self::Square(side) | Self::ShortestEdge { shortest_edge: side } => side,
        }
    }
}

/// Order of the axes in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// Channels, height, width: what PyTorch exports.
    #[default]
    Nchw,
    /// Height, width, channels: what TensorFlow exports.
    Nhwc,
}

/// `preprocessor_config.json`. Keys that are not listed are other programs' and are ignored; those that would change
/// the pixels in a way that is not done here are listed, and refused by [`Preprocessor::new`].
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct PreprocessorConfig {
    /// Three channels, whatever the picture has. What is done unless `do_convert_grayscale` is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub do_convert_rgb: Option<bool>,
    /// One channel (ITU-R 601-2 luma, as Pillow's mode `L`). A key of classifyd's own.
    pub do_convert_grayscale: bool,
    /// Find the ink on a plain background and frame it the way MNIST framed its digits: bright on dark, longest side
    /// `ink_size`, centre of mass in the middle of `size`. Takes the place of the resize. A key of classifyd's own.
    pub do_fit_ink: bool,
    /// Longest side of the framed ink in pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ink_size: Option<u32>,
    /// What counts as ink: this part of the way from the background to the strongest ink, between 0 and 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ink_threshold: Option<f32>,
    /// Resize to `size`. Default: if there is a `size`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub do_resize: Option<bool>,
    /// Target of the resize.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    /// Filter of the resize. Default: 2, bilinear.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resample: Option<Resample>,
    /// Cut `crop_size` out of the middle; what is missing becomes 0.
    pub do_center_crop: bool,
    /// Target of the crop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crop_size: Option<Size>,
    /// Multiply by `rescale_factor`. Default: yes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub do_rescale: Option<bool>,
    /// Default: 1 / 255.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rescale_factor: Option<f64>,
    /// Subtract `image_mean`, divide by `image_std`. Default: if there is an `image_mean`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub do_normalize: Option<bool>,
    /// One value a channel, in the scale after `do_rescale`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_mean: Option<Vec<f64>>,
    /// One value a channel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_std: Option<Vec<f64>>,
    /// Refused if set: padding is not done here.
    #[serde(skip_serializing)]
    pub do_pad: Option<bool>,
    /// Refused if set: the crop of ConvNeXT processors is not done here.
    #[serde(skip_serializing)]
    pub crop_pct: Option<f64>,
}

/// A key of the configuration that cannot be used, with what was expected and what was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: expected {expected}, found {found}")]
pub struct ConfigError {
    /// The key.
    pub key: &'static str,
    /// In words.
    pub expected: String,
    /// In words.
    pub found: String,
}

impl ConfigError {
    fn new(key: &'static str, expected: impl Into<String>, found: impl ToString) -> Self {
        Self {
            key,
            expected: expected.into(),
            found: found.to_string(),
        }
    }
}

/// Turns decoded pictures into rows, as one configuration says.
#[derive(Debug, Clone)]
pub struct Preprocessor {
    channels: usize,
    width: u32,
    height: u32,
    layout: Layout,
    frame: Frame,
    crop: bool,
    /// For each channel, the number that stands for each of the 256 levels: rescale and normalise in one look-up.
    levels: Vec<[f32; 256]>,
}

/// How a picture gets to its size.
#[derive(Debug, Clone, Copy)]
enum Frame {
    Keep,
    Resize { size: Size, resample: Resample },
    FitInk(ink::FitInk),
}

/// Largest side of a row; a larger one is a mistake in a configuration rather than a classifier.
const MAX_ROW_SIDE: u32 = 4096;

impl Preprocessor {
    /// Checks a configuration. Rows have the axes of `layout`.
    pub fn new(config: &PreprocessorConfig, layout: Layout) -> Result<Self, ConfigError> {
        if config.do_pad == Some(true) {
            return Err(ConfigError::new(
                "do_pad",
                "false, for padding is not supported",
                "true",
            ));
        }
        if let Some(crop_pct) = config.crop_pct {
            return Err(ConfigError::new(
                "crop_pct",
                "no such key, for it is not supported (use do_center_crop and crop_size)",
                crop_pct,
            ));
        }
        if config.do_convert_grayscale && config.do_convert_rgb == Some(true) {
            return Err(ConfigError::new(
                "do_convert_rgb",
                "false beside do_convert_grayscale",
                "true",
            ));
        }
        for (key, size) in [("size", config.size), ("crop_size", config.crop_size)] {
            if let Some(size) = size
                && (size.smallest_side() == 0 || size.largest_side() > MAX_ROW_SIDE)
            {
                return Err(ConfigError::new(
                    key,
                    format!("sides between 1 and {MAX_ROW_SIDE}"),
                    format!("{size:?}"),
                ));
            }
        }
        let channels = if config.do_convert_grayscale { 1 } else { 3 };
        let frame = Self::frame(config)?;
        let (width, height) = Self::row_size(config, frame)?;
        Ok(Self {
            channels,
            width,
            height,
            layout,
            frame,
            crop: config.do_center_crop,
            levels: Self::levels(config, channels)?,
        })
    }

    fn frame(config: &PreprocessorConfig) -> Result<Frame, ConfigError> {
        if config.do_fit_ink {
            if !config.do_convert_grayscale {
                return Err(ConfigError::new(
                    "do_convert_grayscale",
                    "true beside do_fit_ink",
                    "false",
                ));
            }
            let Some((width, height)) = config.size.and_then(Size::fixed) else {
                return Err(ConfigError::new(
                    "size",
                    "a height and a width beside do_fit_ink",
                    "none",
                ));
            };
            let longest = width.min(height);
            let ink_size = config.ink_size.unwrap_or(longest * 5 / 7);
            if !(1..=longest).contains(&ink_size) {
                return Err(ConfigError::new(
                    "ink_size",
                    format!("between 1 and {longest}, the smaller side of size"),
                    ink_size,
                ));
            }
            let threshold = config.ink_threshold.unwrap_or(0.2);
            if !(threshold > 0.0 && threshold < 1.0) {
                return Err(ConfigError::new("ink_threshold", "between 0 and 1", threshold));
            }
            return Ok(Frame::FitInk(ink::FitInk {
                width,
                height,
                ink_size,
                threshold,
                resample: config.resample.unwrap_or(Resample::Bilinear),
            }));
        }
        Ok(
            match (config.do_resize.unwrap_or(config.size.is_some()), config.size) {
                (true, None) => {
                    return Err(ConfigError::new("size", "a size, for do_resize is true", "none"));
                }
                (true, Some(size)) => Frame::Resize {
                    size,
                    resample: config.resample.unwrap_or(Resample::Bilinear),
                },
                (false, _) => Frame::Keep,
            },
        )
    }

    /// `(width, height)` of every row.
    fn row_size(config: &PreprocessorConfig, frame: Frame) -> Result<(u32, u32), ConfigError> {
        if config.do_center_crop {
            return config.crop_size.and_then(Size::fixed).ok_or_else(|| {
                ConfigError::new(
                    "crop_size",
                    "a height and a width, for do_center_crop is true",
                    "none",
                )
            });
        }
        match frame {
            Frame::FitInk(ink) => Ok((ink.width, ink.height)),
            Frame::Resize { size, .. } => size.fixed().ok_or_else(|| {
                ConfigError::new(
                    "size",
                    "a height and a width, or do_center_crop, so that all rows have one size",
                    "shortest_edge alone",
                )
            }),
            Frame::Keep => Err(ConfigError::new(
                "do_resize",
                "true with a size, or do_center_crop, so that all rows have one size",
                "neither",
            )),
        }
    }

    fn levels(config: &PreprocessorConfig, channels: usize) -> Result<Vec<[f32; 256]>, ConfigError> {
        let factor = if config.do_rescale.unwrap_or(true) {
            config.rescale_factor.unwrap_or(1.0 / 255.0)
        } else {
            1.0
        };
        if !factor.is_finite() {
            return Err(ConfigError::new("rescale_factor", "a finite number", factor));
        }
        let normalize = config.do_normalize.unwrap_or(config.image_mean.is_some());
        let per_channel = |key: &'static str, values: &Option<Vec<f64>>| -> Result<Vec<f64>, ConfigError> {
            match values {
                Some(values) if values.len() == channels && values.iter().all(|value| value.is_finite()) => {
                    Ok(values.clone())
                }
                other => Err(ConfigError::new(
                    key,
                    format!("{channels} finite number(s), one a channel, for do_normalize is true"),
                    other
                        .as_ref()
                        .map_or("none".into(), |values| format!("{values:?}")),
                )),
            }
        };
        let (mean, std) = if normalize {
            let std = per_channel("image_std", &config.image_std)?;
            if std.contains(&0.0) {
                return Err(ConfigError::new("image_std", "no zero", format!("{std:?}")));
            }
            (per_channel("image_mean", &config.image_mean)?, std)
        } else {
            (vec![0.0; channels], vec![1.0; channels])
        };
        Ok(mean
            .iter()
            .zip(&std)
            .map(|(mean, std)| std::array::from_fn(|level| ((level as f64 * factor - mean) / std) as f32))
            .collect())
    }

    /// Axes of a row without the batch axis, in the order of the layout.
    pub fn shape(&self) -> [usize; 3] {
        let (height, width) = (self.height as usize, self.width as usize);
        match self.layout {
            Layout::Nchw => [self.channels, height, width],
            Layout::Nhwc => [height, width, self.channels],
        }
    }

    /// Turns a decoded picture into a row of [`Self::shape`].
    pub fn apply(&self, picture: DynamicImage) -> Result<Vec<f32>, ImageError> {
        let pixels = if self.channels == 1 {
            Pixels::gray(picture)
        } else {
            Pixels::rgb(picture)
        };
        let framed = match self.frame {
            Frame::Keep => pixels,
            Frame::Resize { size, resample } => {
                let (width, height) = size.target(pixels.width, pixels.height);
                // Only a crop can follow a size that depends on the picture, and it needs no more than this.
                let width = width.clamp(1, MAX_RESIZED_SIDE);
                let height = height.clamp(1, MAX_RESIZED_SIDE);
                pixels.resize(width, height, resample)?
            }
            Frame::FitInk(ink) => ink.apply(&pixels)?,
        };
        let row = if self.crop {
            framed.center_crop(self.width, self.height)
        } else {
            framed
        };
        Ok(self.normalize(&row))
    }

    fn normalize(&self, pixels: &Pixels) -> Vec<f32> {
        if self.channels == 1 {
            let levels = &self.levels[0];
            return pixels
                .data
                .iter()
                .map(|&level| levels[usize::from(level)])
                .collect();
        }
        match self.layout {
            Layout::Nchw => (0..self.channels)
                .flat_map(|channel| {
                    let levels = &self.levels[channel];
                    pixels.data[channel..]
                        .iter()
                        .step_by(self.channels)
                        .map(|&level| levels[usize::from(level)])
                })
                .collect(),
            Layout::Nhwc => pixels
                .data
                .chunks_exact(self.channels)
                .flat_map(|pixel| {
                    pixel
                        .iter()
                        .zip(&self.levels)
                        .map(|(&level, levels)| levels[usize::from(level)])
                })
                .collect(),
        }
    }
}

/// A picture as [`Preprocessor::apply`] takes it where `do_convert_rgb` holds: transparency over white, 16 bits scaled
/// to 8.
pub fn to_rgb(picture: DynamicImage) -> RgbImage {
    let Pixels {
        width, height, data, ..
    } = Pixels::rgb(picture);
    // There are as many bytes as the size says, so nothing is ever missing.
    RgbImage::from_raw(width, height, data).unwrap_or_default()
}

/// Longest side that a resize by the shortest edge may ask for: a strip of 1 x 10,000 must not become gigabytes.
const MAX_RESIZED_SIDE: u32 = 1 << 15;

/// 8-bit pixels, channels interleaved.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pixels {
    width: u32,
    height: u32,
    channels: usize,
    data: Vec<u8>,
}

impl Pixels {
    fn new(width: u32, height: u32, channels: usize, data: Vec<u8>) -> Self {
        Self {
            width,
            height,
            channels,
            data,
        }
    }

    /// Three channels; transparency over white; 16 bits scaled to 8.
    fn rgb(picture: DynamicImage) -> Self {
        let (width, height) = (picture.width(), picture.height());
        let data = match picture {
            DynamicImage::ImageRgb8(buffer) => buffer.into_raw(),
            DynamicImage::ImageLuma8(buffer) => buffer.into_raw().into_iter().flat_map(|v| [v; 3]).collect(),
            picture if picture.color().has_alpha() => picture
                .into_rgba8()
                .as_raw()
                .chunks_exact(4)
                .flat_map(|p| {
                    [
                        over_white(p[0], p[3]),
                        over_white(p[1], p[3]),
                        over_white(p[2], p[3]),
                    ]
                })
                .collect(),
            picture => picture.into_rgb8().into_raw(),
        };
        Self::new(width, height, 3, data)
    }

    /// One channel; transparency over white; 16 bits scaled to 8.
    fn gray(picture: DynamicImage) -> Self {
        let (width, height) = (picture.width(), picture.height());
        let data = match picture {
            DynamicImage::ImageLuma8(buffer) => buffer.into_raw(),
            DynamicImage::ImageLuma16(_) => picture.into_luma8().into_raw(),
            picture => Self::rgb(picture).data.chunks_exact(3).map(luma).collect(),
        };
        Self::new(width, height, 1, data)
    }

    /// First to the width, then to the height: Pillow's order, in which levels are rounded between the two.
    fn resize(self, width: u32, height: u32, resample: Resample) -> Result<Self, ImageError> {
        let rows = self.height;
        self.resize_once(width, rows, resample)?
            .resize_once(width, height, resample)
    }

    fn resize_once(self, width: u32, height: u32, resample: Resample) -> Result<Self, ImageError> {
        if (self.width, self.height) == (width, height) {
            return Ok(self);
        }
        let failed = |reason: String| ImageError::Malformed {
            format: "decoded",
            reason: format!("it cannot be resized to {width} x {height}: {reason}"),
        };
        let pixel_type = if self.channels == 1 {
            fir::PixelType::U8
        } else {
            fir::PixelType::U8x3
        };
        let source = fir::images::Image::from_vec_u8(self.width, self.height, self.data, pixel_type)
            .map_err(|error| failed(error.to_string()))?;
        let mut target = fir::images::Image::new(width, height, pixel_type);
        let options = fir::ResizeOptions::new().resize_alg(resample.algorithm());
        fir::Resizer::new()
            .resize(&source, &mut target, &options)
            .map_err(|error| failed(error.to_string()))?;
        Ok(Self::new(width, height, self.channels, target.into_vec()))
    }

    /// The middle `width` x `height`; where the picture is smaller, the rest is 0.
    fn center_crop(&self, width: u32, height: u32) -> Self {
        let left = (i64::from(self.width) - i64::from(width)).div_euclid(2);
        let top = (i64::from(self.height) - i64::from(height)).div_euclid(2);
        self.window(left, top, width, height)
    }

    /// The `width` x `height` pixels from (`left`, `top`) on, which may lie outside; what lies outside is 0.
    fn window(&self, left: i64, top: i64, width: u32, height: u32) -> Self {
        let channels = self.channels;
        let mut data = vec![0; width as usize * height as usize * channels];
        let from_x = left.max(0);
        let to_x = (left + i64::from(width)).min(i64::from(self.width));
        if from_x < to_x {
            let count = (to_x - from_x) as usize * channels;
            for y in 0..i64::from(height) {
                let source_y = top + y;
                if !(0..i64::from(self.height)).contains(&source_y) {
                    continue;
                }
                let source = (source_y as usize * self.width as usize + from_x as usize) * channels;
                let target = (y as usize * width as usize + (from_x - left) as usize) * channels;
                data[target..target + count].copy_from_slice(&self.data[source..source + count]);
            }
        }
        Self::new(width, height, channels, data)
    }
}

/// A level with its opacity laid over white paper.
fn over_white(level: u8, alpha: u8) -> u8 {
    let alpha = u32::from(alpha);
    ((u32::from(level) * alpha + 255 * (255 - alpha) + 127) / 255) as u8
}

/// ITU-R 601-2 luma in 16-bit fixed point, the formula behind Pillow's mode `L`.
fn luma(rgb: &[u8]) -> u8 {
    ((u32::from(rgb[0]) * 19_595 + u32::from(rgb[1]) * 38_470 + u32::from(rgb[2]) * 7_471 + 0x8000) >> 16)
        as u8
}
