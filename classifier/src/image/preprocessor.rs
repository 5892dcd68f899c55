//! The steps from a decoded image to a row.

use image::DynamicImage;

use super::config::{Layout, PreprocessorConfig, Resample, Size};
use super::ink::FitInk;
use super::pixels::Pixels;
use crate::error::{ImageError, PreprocessorConfigError};

/// Turns decoded images into rows.
#[derive(Debug, Clone)]
pub struct ImagePreprocessor {
    channels: usize,
    width: u32,
    height: u32,
    layout: Layout,
    frame: Frame,
    crop: bool,
    /// For each channel, the value of each of the 256 levels after rescaling and normalising.
    levels: Vec<[f32; 256]>,
}

/// How an image gets its size.
#[derive(Debug, Clone, Copy)]
enum Frame {
    Keep,
    Resize { size: Size, resample: Resample },
    FitInk(FitInk),
}

/// Largest side of a row. A larger one is taken for a mistake in the configuration.
const MAX_ROW_SIDE: u32 = 4096;

/// Longest side after a resize by the shortest edge: a strip of 1 x 10,000 pixels must not take
/// gigabytes.
const MAX_RESIZED_SIDE: u32 = 1 << 15;

impl ImagePreprocessor {
    /// Checks a configuration. Rows have their axes in the order of `layout`.
    ///
    /// # Errors
    ///
    /// Fails at the first key that is not supported, contradicts another one or leaves the size of
    /// rows open.
    pub fn new(config: &PreprocessorConfig, layout: Layout) -> Result<Self, PreprocessorConfigError> {
        check_supported(config)?;
        let channels = if config.do_convert_grayscale { 1 } else { 3 };
        let frame = if config.do_fit_ink {
            Frame::FitInk(fit_ink(config)?)
        } else {
            resize(config)?
        };
        let (width, height) = row_size(config, frame)?;
        Ok(Self {
            channels,
            width,
            height,
            layout,
            frame,
            crop: config.do_center_crop,
            levels: levels(config, channels)?,
        })
    }

    /// The axes of a row in the order of the layout, without the batch axis. For [`Layout::Nchw`]
    /// that is `[channels, height, width]`.
    pub fn shape(&self) -> [usize; 3] {
        let (height, width) = (self.height as usize, self.width as usize);
        match self.layout {
            Layout::Nchw => [self.channels, height, width],
            Layout::Nhwc => [height, width, self.channels],
        }
    }

    /// Turns a decoded image into a row with the axes of [`Self::shape`].
    ///
    /// # Errors
    ///
    /// Fails if the image cannot be resized, which only its size can cause.
    pub fn apply(&self, image: DynamicImage) -> Result<Vec<f32>, ImageError> {
        let pixels = if self.channels == 1 {
            Pixels::gray(image)
        } else {
            Pixels::rgb(image)
        };
        let framed = match self.frame {
            Frame::Keep => pixels,
            Frame::Resize { size, resample } => {
                let (width, height) = size.target(pixels.width, pixels.height);
                // A size that depends on the image is always cropped afterwards, and no crop is
                // larger than this.
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

fn check_supported(config: &PreprocessorConfig) -> Result<(), PreprocessorConfigError> {
    let error = PreprocessorConfigError::new;
    if config.do_pad == Some(true) {
        return Err(error("do_pad", "false, because padding is not supported", "true"));
    }
    if let Some(crop_pct) = config.crop_pct {
        let expected = "no such key, because it is not supported (use do_center_crop and crop_size)";
        return Err(PreprocessorConfigError::new("crop_pct", expected, crop_pct));
    }
    if config.do_convert_grayscale && config.do_convert_rgb == Some(true) {
        return Err(error("do_convert_rgb", "false with do_convert_grayscale", "true"));
    }
    for (key, size) in [("size", config.size), ("crop_size", config.crop_size)] {
        if let Some(size) = size
            && (size.smallest_side() == 0 || size.largest_side() > MAX_ROW_SIDE)
        {
            let expected = format!("sides between 1 and {MAX_ROW_SIDE}");
            return Err(PreprocessorConfigError::new(key, expected, format!("{size:?}")));
        }
    }
    Ok(())
}

fn fit_ink(config: &PreprocessorConfig) -> Result<FitInk, PreprocessorConfigError> {
    let error = PreprocessorConfigError::new;
    if !config.do_convert_grayscale {
        return Err(error("do_convert_grayscale", "true with do_fit_ink", "false"));
    }
    let Some((width, height)) = config.size.and_then(Size::fixed) else {
        return Err(error("size", "a height and a width with do_fit_ink", "none"));
    };
    let longest = width.min(height);
    let ink_size = config.ink_size.unwrap_or(longest * 5 / 7);
    if !(1..=longest).contains(&ink_size) {
        let expected = format!("between 1 and {longest}, the smaller side of size");
        return Err(PreprocessorConfigError::new("ink_size", expected, ink_size));
    }
    let threshold = config.ink_threshold.unwrap_or(0.2);
    if !(threshold > 0.0 && threshold < 1.0) {
        return Err(PreprocessorConfigError::new(
            "ink_threshold",
            "between 0 and 1",
            threshold,
        ));
    }
    Ok(FitInk {
        width,
        height,
        ink_size,
        threshold,
        resample: config.resample.unwrap_or(Resample::Bilinear),
    })
}

fn resize(config: &PreprocessorConfig) -> Result<Frame, PreprocessorConfigError> {
    match (config.do_resize.unwrap_or(config.size.is_some()), config.size) {
        (true, None) => Err(PreprocessorConfigError::new(
            "size",
            "a size with do_resize",
            "none",
        )),
        (true, Some(size)) => Ok(Frame::Resize {
            size,
            resample: config.resample.unwrap_or(Resample::Bilinear),
        }),
        (false, _) => Ok(Frame::Keep),
    }
}

/// `(width, height)` of every row.
fn row_size(config: &PreprocessorConfig, frame: Frame) -> Result<(u32, u32), PreprocessorConfigError> {
    if config.do_center_crop {
        return config.crop_size.and_then(Size::fixed).ok_or_else(|| {
            PreprocessorConfigError::new("crop_size", "a height and a width with do_center_crop", "none")
        });
    }
    match frame {
        Frame::FitInk(ink) => Ok((ink.width, ink.height)),
        Frame::Resize { size, .. } => size.fixed().ok_or_else(|| {
            PreprocessorConfigError::new(
                "size",
                "a height and a width, or do_center_crop, so that all rows have the same size",
                "shortest_edge alone",
            )
        }),
        Frame::Keep => Err(PreprocessorConfigError::new(
            "do_resize",
            "true with a size, or do_center_crop, so that all rows have the same size",
            "neither",
        )),
    }
}

/// For each channel, the value of each of the 256 levels.
fn levels(config: &PreprocessorConfig, channels: usize) -> Result<Vec<[f32; 256]>, PreprocessorConfigError> {
    let factor = if config.do_rescale.unwrap_or(true) {
        config.rescale_factor.unwrap_or(1.0 / 255.0)
    } else {
        1.0
    };
    if !factor.is_finite() {
        return Err(PreprocessorConfigError::new(
            "rescale_factor",
            "a finite number",
            factor,
        ));
    }
    let (mean, std) = if config.do_normalize.unwrap_or(config.image_mean.is_some()) {
        let std = per_channel("image_std", config.image_std.as_deref(), channels)?;
        if std.contains(&0.0) {
            return Err(PreprocessorConfigError::new(
                "image_std",
                "no zero",
                format!("{std:?}"),
            ));
        }
        (
            per_channel("image_mean", config.image_mean.as_deref(), channels)?,
            std,
        )
    } else {
        (vec![0.0; channels], vec![1.0; channels])
    };
    Ok(mean
        .iter()
        .zip(&std)
        .map(|(mean, std)| std::array::from_fn(|level| ((level as f64 * factor - mean) / std) as f32))
        .collect())
}

fn per_channel(
    key: &'static str,
    values: Option<&[f64]>,
    channels: usize,
) -> Result<Vec<f64>, PreprocessorConfigError> {
    match values {
        Some(values) if values.len() == channels && values.iter().all(|value| value.is_finite()) => {
            Ok(values.to_vec())
        }
        other => Err(PreprocessorConfigError::new(
            key,
            format!("{channels} finite number(s), one per channel, with do_normalize"),
            other.map_or("none".into(), |values| format!("{values:?}")),
        )),
    }
}
