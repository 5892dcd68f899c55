use std::{borrow::Cow, collections::BTreeMap};

use anyhow::{Context as _, Result, bail};
use image::{DynamicImage, GrayImage, RgbImage, imageops};

use super::files::Sums;
use crate::{
    samples::{LabelledSamples, SampleInput},
    transform::Transform,
};

/// The transforms' seed, which decides where [`Transform::Canvas`] places a digit. It is fixed, so
/// that the accuracies of two evaluations can be compared.
const TRANSFORM_SEED: u64 = 1;

/// Labelled images of one size in memory, all grey or all RGB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Images {
    channels: u32,
    height: u32,
    width: u32,
    pixels: Vec<u8>,
    labels: Vec<u8>,
    classes: Vec<String>,
}

/// What the reader of a published image data set returns.
pub(super) struct Splits {
    pub(super) training: Images,
    pub(super) test: Images,
    pub(super) sums: Sums,
}

impl Images {
    /// `size` is `[channels, height, width]` with 1 or 3 channels. `pixels` holds the images one
    /// after the other, row by row, with the channels of a pixel side by side. Each label is an
    /// index into `classes`.
    pub fn new(size: [u32; 3], pixels: Vec<u8>, labels: Vec<u8>, classes: Vec<String>) -> Result<Self> {
        let [channels, height, width] = size;
        let bytes = u64::from(channels) * u64::from(height) * u64::from(width) * labels.len() as u64;
        if !matches!(channels, 1 | 3) || bytes != pixels.len() as u64 {
            bail!(
                "expected {bytes} bytes for {} images of {channels} (1 or 3) x {height} x {width}, found {}",
                labels.len(),
                pixels.len()
            );
        }
        if let Some((at, label)) = labels
            .iter()
            .enumerate()
            .find(|&(_, &label)| usize::from(label) >= classes.len())
        {
            bail!(
                "label {at}: expected 0 to {}, found {label}",
                classes.len().saturating_sub(1)
            );
        }
        Ok(Self {
            channels,
            height,
            width,
            pixels,
            labels,
            classes,
        })
    }

    pub fn len(&self) -> usize {
        self.labels.len()
    }

    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    pub fn channels(&self) -> u32 {
        self.channels
    }

    pub fn height(&self) -> u32 {
        self.height
    }

    pub fn width(&self) -> u32 {
        self.width
    }

    pub fn labels(&self) -> &[u8] {
        &self.labels
    }

    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// The class name of image `at`.
    pub fn class(&self, at: usize) -> Option<&str> {
        let label = self.labels.get(at)?;
        self.classes.get(usize::from(*label)).map(String::as_str)
    }

    /// The pixels and the label of image `at`.
    pub fn sample(&self, at: usize) -> Result<(&[u8], u8)> {
        let size = (self.channels * self.width * self.height) as usize;
        let pixels = self.pixels.get(at * size..(at + 1) * size);
        let sample = pixels.zip(self.labels.get(at).copied());
        sample.with_context(|| format!("expected an image {at}, found {} images", self.len()))
    }

    pub fn get(&self, at: usize) -> Option<DynamicImage> {
        let pixels = self.sample(at).ok()?.0.to_vec();
        if self.channels == 1 {
            GrayImage::from_raw(self.width, self.height, pixels).map(DynamicImage::ImageLuma8)
        } else {
            RgbImage::from_raw(self.width, self.height, pixels).map(DynamicImage::ImageRgb8)
        }
    }

    /// The indices of the first `count` images of each class, class by class.
    pub fn first_of_each_class(&self, count: usize) -> Vec<usize> {
        let mut classes: BTreeMap<u8, Vec<usize>> = BTreeMap::new();
        for (at, &label) in self.labels.iter().enumerate() {
            let indices = classes.entry(label).or_default();
            if indices.len() < count {
                indices.push(at);
            }
        }
        classes.into_values().flatten().collect()
    }

    /// Keeps only the images of these classes. The labels are renumbered; the classes keep their
    /// order.
    pub fn only(&self, wanted: &[String]) -> Result<Self> {
        let kept: Vec<usize> = (0..self.classes.len())
            .filter(|&class| wanted.contains(&self.classes[class]))
            .collect();
        if kept.len() < 2 {
            bail!("--classes: expected at least 2 classes, found {}", kept.len());
        }
        let size = (self.channels * self.width * self.height) as usize;
        let (mut pixels, mut labels) = (Vec::new(), Vec::new());
        for (image, label) in self.pixels.chunks_exact(size).zip(&self.labels) {
            if let Some(new_label) = kept.iter().position(|&class| class == usize::from(*label)) {
                pixels.extend_from_slice(image);
                labels.push(new_label as u8);
            }
        }
        Ok(Self {
            pixels,
            labels,
            classes: kept.iter().map(|&class| self.classes[class].clone()).collect(),
            ..*self
        })
    }

    /// Splits into the first `count` images and the rest.
    pub fn split_at(mut self, count: usize) -> (Self, Self) {
        let size = (self.channels * self.width * self.height) as usize;
        let count = count.min(self.len());
        let rest = Self {
            pixels: self.pixels.split_off(count * size),
            labels: self.labels.split_off(count),
            classes: self.classes.clone(),
            ..self
        };
        (self, rest)
    }
}

/// One image that shows the images at `indices` side by side, in rows of `columns`.
pub fn sheet(images: &Images, indices: &[usize], columns: u32) -> Result<DynamicImage> {
    let (width, height) = (images.width(), images.height());
    let rows = (indices.len() as u32).div_ceil(columns);
    let size = (columns * width, rows * height);
    let mut sheet = if images.channels() == 1 {
        DynamicImage::new_luma8(size.0, size.1)
    } else {
        DynamicImage::new_rgb8(size.0, size.1)
    };
    for (number, &at) in indices.iter().enumerate() {
        let image = images.get(at).with_context(|| format!("no image {at}"))?;
        let (row, column) = (number as u32 / columns, number as u32 % columns);
        imageops::replace(
            &mut sheet,
            &image,
            i64::from(column * width),
            i64::from(row * height),
        );
    }
    Ok(sheet)
}

/// The test split of a published data set, transformed on the way to the classifier.
#[derive(Debug)]
pub struct TestImages<'a> {
    pub images: Cow<'a, Images>,
    pub transform: Transform,
}

impl LabelledSamples for TestImages<'_> {
    fn len(&self) -> usize {
        self.images.len()
    }

    fn transform(&self) -> Transform {
        self.transform
    }

    fn name(&self, at: usize) -> String {
        format!("test image {at}")
    }

    fn label(&self, at: usize) -> String {
        self.images.class(at).unwrap_or_default().to_owned()
    }

    fn input(&self, at: usize) -> Result<SampleInput> {
        let image = self.images.get(at).with_context(|| format!("no image {at}"))?;
        Ok(SampleInput::Image(self.transform.apply(
            &image,
            TRANSFORM_SEED,
            at,
        )?))
    }
}
