//! Published data sets: fetched, verified, read.

pub mod idx;
pub mod mnist;

use std::{collections::BTreeMap, env, io::Cursor, path::PathBuf};

use anyhow::{Context as _, Result};
use image::{GrayImage, ImageFormat};

/// Labelled grey pictures of one size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pictures {
    height: u32,
    width: u32,
    pixels: Vec<u8>,
    labels: Vec<u8>,
}

impl Pictures {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The true class of each picture.
    pub fn labels(&self) -> &[u8] {
        &self.labels
    }

    /// One picture, if there is one at this place.
    pub fn get(&self, at: usize) -> Option<GrayImage> {
        let size = (self.width * self.height) as usize;
        let pixels = self.pixels.get(at * size..(at + 1) * size)?;
        GrayImage::from_raw(self.width, self.height, pixels.to_vec())
    }

    /// All pictures in order.
    pub fn iter(&self) -> impl Iterator<Item = GrayImage> {
        (0..self.len()).filter_map(|at| self.get(at))
    }

    /// Places of the first `count` pictures of each class, class by class.
    pub fn first_of_each_class(&self, count: usize) -> Vec<usize> {
        let mut classes: BTreeMap<u8, Vec<usize>> = BTreeMap::new();
        for (at, &label) in self.labels.iter().enumerate() {
            let places = classes.entry(label).or_default();
            if places.len() < count {
                places.push(at);
            }
        }
        classes.into_values().flatten().collect()
    }

    /// The first `count` pictures, and the others.
    pub fn split_at(mut self, count: usize) -> (Self, Self) {
        let size = (self.width * self.height) as usize;
        let count = count.min(self.len());
        let rest = Self {
            height: self.height,
            width: self.width,
            pixels: self.pixels.split_off(count * size),
            labels: self.labels.split_off(count),
        };
        (self, rest)
    }
}

/// A picture as the bytes of a PNG file.
pub fn png(picture: &GrayImage) -> Result<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    picture
        .write_to(&mut bytes, ImageFormat::Png)
        .context("cannot encode a picture as PNG")?;
    Ok(bytes.into_inner())
}

/// Where fetched data is kept: outside the clone, so that clones share it.
pub fn cache_directory() -> Result<PathBuf> {
    let set = |name: &str| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    set("CLASSIFYD_CACHE")
        .or_else(|| Some(set("XDG_CACHE_HOME")?.join("classifyd")))
        .or_else(|| Some(set("HOME")?.join(".cache/classifyd")))
        .context(
            "none of CLASSIFYD_CACHE, XDG_CACHE_HOME and HOME is set: name the data directory with --data",
        )
}
