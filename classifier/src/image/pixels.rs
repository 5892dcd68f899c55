//! 8-bit pixels in memory: conversion, resizing and cropping.

use fast_image_resize as fir;
use image::{DynamicImage, RgbImage};

use super::config::Resample;
use crate::error::ImageError;

/// An image as [`ImagePreprocessor::apply`](super::ImagePreprocessor::apply) sees it with
/// `do_convert_rgb`: transparency is laid over white, and 16-bit levels are scaled to 8.
pub fn to_rgb(image: DynamicImage) -> RgbImage {
    let Pixels {
        width, height, data, ..
    } = Pixels::rgb(image);
    // `data` has the length that the size implies, so this never falls back to the empty image.
    RgbImage::from_raw(width, height, data).unwrap_or_default()
}

/// 8-bit pixels, channels interleaved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pixels {
    pub(super) width: u32,
    pub(super) height: u32,
    channels: usize,
    pub(super) data: Vec<u8>,
}

impl Pixels {
    pub(super) fn new(width: u32, height: u32, channels: usize, data: Vec<u8>) -> Self {
        Self {
            width,
            height,
            channels,
            data,
        }
    }

    /// Three channels; transparency over white; 16 bits scaled to 8.
    pub(super) fn rgb(image: DynamicImage) -> Self {
        let (width, height) = (image.width(), image.height());
        let data = match image {
            DynamicImage::ImageRgb8(buffer) => buffer.into_raw(),
            DynamicImage::ImageLuma8(buffer) => buffer.into_raw().into_iter().flat_map(|v| [v; 3]).collect(),
            image if image.color().has_alpha() => image
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
            image => image.into_rgb8().into_raw(),
        };
        Self::new(width, height, 3, data)
    }

    /// One channel; transparency over white; 16 bits scaled to 8.
    pub(super) fn gray(image: DynamicImage) -> Self {
        let (width, height) = (image.width(), image.height());
        let data = match image {
            DynamicImage::ImageLuma8(buffer) => buffer.into_raw(),
            DynamicImage::ImageLuma16(_) => image.into_luma8().into_raw(),
            image => Self::rgb(image).data.chunks_exact(3).map(luma).collect(),
        };
        Self::new(width, height, 1, data)
    }

    /// Resizes first to the width, then to the height. That is Pillow's order, and levels are
    /// rounded in between.
    pub(super) fn resize(self, width: u32, height: u32, resample: Resample) -> Result<Self, ImageError> {
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

    /// The `width` x `height` pixels in the middle. Where the image is smaller, the rest is 0.
    pub(super) fn center_crop(&self, width: u32, height: u32) -> Self {
        let left = (i64::from(self.width) - i64::from(width)).div_euclid(2);
        let top = (i64::from(self.height) - i64::from(height)).div_euclid(2);
        self.window(left, top, width, height)
    }

    /// The `width` x `height` pixels from (`left`, `top`) on. Pixels outside of the image are 0.
    pub(super) fn window(&self, left: i64, top: i64, width: u32, height: u32) -> Self {
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

/// Lays a level with its opacity over white.
fn over_white(level: u8, alpha: u8) -> u8 {
    let alpha = u32::from(alpha);
    ((u32::from(level) * alpha + 255 * (255 - alpha) + 127) / 255) as u8
}

/// ITU-R 601-2 luma in 16-bit fixed point, the formula of Pillow's mode `L`.
fn luma(rgb: &[u8]) -> u8 {
    ((u32::from(rgb[0]) * 19_595 + u32::from(rgb[1]) * 38_470 + u32::from(rgb[2]) * 7_471 + 0x8000) >> 16)
        as u8
}
