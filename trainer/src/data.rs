//! Published data sets: fetched, verified, read.

pub mod cifar10;
pub mod fashion_mnist;
pub mod files;
pub mod folder;
pub mod glove;
pub mod idx;
pub mod imdb;
pub mod mnist;

use std::{
    collections::BTreeMap,
    env,
    io::Cursor,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use image::{DynamicImage, GrayImage, ImageFormat, RgbImage, imageops};

pub use files::{File, Sums};

/// Labelled pictures of one size, grey or in colour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pictures {
    channels: u32,
    height: u32,
    width: u32,
    pixels: Vec<u8>,
    labels: Vec<u8>,
    classes: Vec<String>,
}

impl Pictures {
    /// Puts pictures together from their bytes, row by row, the channels of a pixel side by side. `size` is channels (1 or
    /// 3), height and width; `classes` are the names that the labels stand for.
    pub fn new(size: [u32; 3], pixels: Vec<u8>, labels: Vec<u8>, classes: Vec<String>) -> Result<Self> {
        let [channels, height, width] = size;
        let bytes = u64::from(channels) * u64::from(height) * u64::from(width) * labels.len() as u64;
        if !matches!(channels, 1 | 3) || bytes != pixels.len() as u64 {
            bail!(
                "expected {bytes} bytes for {} pictures of {channels} (1 or 3) x {height} x {width}, found {}",
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

    /// How many there are.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// 1 for grey pictures, 3 for red, green and blue.
    pub fn channels(&self) -> u32 {
        self.channels
    }

    /// Rows of each picture.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// Columns of each picture.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// The true class of each picture.
    pub fn labels(&self) -> &[u8] {
        &self.labels
    }

    /// What the labels stand for.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// The name of a picture's true class.
    pub fn class(&self, at: usize) -> Option<&str> {
        let label = self.labels.get(at)?;
        self.classes.get(usize::from(*label)).map(String::as_str)
    }

    /// The bytes and the label of one picture.
    pub fn sample(&self, at: usize) -> Result<(&[u8], u8)> {
        let size = (self.channels * self.width * self.height) as usize;
        let pixels = self.pixels.get(at * size..(at + 1) * size);
        let sample = pixels.zip(self.labels.get(at).copied());
        sample.with_context(|| format!("expected picture {at}, found {} pictures", self.len()))
    }

    /// One picture, if there is one at this place.
    pub fn get(&self, at: usize) -> Option<DynamicImage> {
        let pixels = self.sample(at).ok()?.0.to_vec();
        if self.channels == 1 {
            GrayImage::from_raw(self.width, self.height, pixels).map(DynamicImage::ImageLuma8)
        } else {
            RgbImage::from_raw(self.width, self.height, pixels).map(DynamicImage::ImageRgb8)
        }
    }

    /// All pictures in order.
    pub fn iter(&self) -> impl Iterator<Item = DynamicImage> {
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

    /// The pictures of these classes alone, which are numbered in the order that the classes had before.
    pub fn only(&self, wanted: &[String]) -> Result<Self> {
        check_classes(&self.classes, wanted)?;
        let kept: Vec<usize> = (0..self.classes.len())
            .filter(|&class| wanted.contains(&self.classes[class]))
            .collect();
        if kept.len() < 2 {
            bail!("expected at least 2 classes, found {}", kept.len());
        }
        let size = (self.channels * self.width * self.height) as usize;
        let (mut pixels, mut labels) = (Vec::new(), Vec::new());
        for (picture, label) in self.pixels.chunks_exact(size).zip(&self.labels) {
            if let Some(place) = kept.iter().position(|&class| class == usize::from(*label)) {
                pixels.extend_from_slice(picture);
                labels.push(place as u8);
            }
        }
        Ok(Self {
            pixels,
            labels,
            classes: kept.iter().map(|&class| self.classes[class].clone()).collect(),
            ..*self
        })
    }

    /// The first `count` pictures, and the others.
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

/// Makes sure that `wanted` are some of `known`.
pub fn check_classes(known: &[String], wanted: &[String]) -> Result<()> {
    match wanted.iter().find(|class| !known.contains(class)) {
        Some(class) => bail!("--classes: expected some of {}, found {class}", known.join(", ")),
        None => Ok(()),
    }
}

/// Between a data set's name and those of its classes, where it is only a part.
const ONLY: &str = " (only ";

/// Published data sets of pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum DataSet {
    /// 60,000 + 10,000 handwritten digits.
    Mnist,
    /// 60,000 + 10,000 grey pictures of clothes.
    FashionMnist,
    /// 50,000 + 10,000 colour pictures of animals and vehicles.
    Cifar10,
}

impl DataSet {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Mnist, Self::FashionMnist, Self::Cifar10];

    /// As on the command line, and the name of its directory.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mnist => "mnist",
            Self::FashionMnist => "fashion-mnist",
            Self::Cifar10 => "cifar10",
        }
    }

    /// What its authors call it.
    pub fn title(self) -> &'static str {
        match self {
            Self::Mnist => "MNIST",
            Self::FashionMnist => "Fashion-MNIST",
            Self::Cifar10 => "CIFAR-10",
        }
    }

    /// What to call other data in the same files.
    pub fn lookalike(self) -> &'static str {
        match self {
            Self::Mnist => "digits in MNIST's format",
            Self::FashionMnist => "pictures in Fashion-MNIST's format",
            Self::Cifar10 => "pictures in CIFAR-10's format",
        }
    }

    /// What its labels stand for.
    pub fn classes(self) -> Vec<String> {
        match self {
            Self::Mnist => mnist::classes(),
            Self::FashionMnist => fashion_mnist::CLASSES.map(str::to_owned).to_vec(),
            Self::Cifar10 => cifar10::CLASSES.map(str::to_owned).to_vec(),
        }
    }

    /// The data set that a model directory names as its own, or as the whole of which it knows some classes.
    pub fn from_title(title: &str) -> Option<Self> {
        let title = title.split(ONLY).next().unwrap_or_default();
        let mut sets = Self::ALL.into_iter();
        sets.find(|set| set.title() == title || set.lookalike() == title)
    }

    /// How many of `count` training pictures are kept apart to tell which epoch was best: 5,000 of the published ones.
    pub fn validation(self, count: usize) -> usize {
        match self {
            Self::Mnist | Self::FashionMnist => count / 12,
            Self::Cifar10 => count / 10,
        }
    }

    /// The directory where it is kept unless another one is named.
    pub fn directory(self) -> Result<PathBuf> {
        Ok(cache_directory()?.join("data").join(self.name()))
    }

    /// Makes sure that `directory` holds the published files: looks, fetches what is missing, verifies.
    /// Gives the path of each file.
    pub fn fetch(self, directory: &Path) -> Result<Vec<PathBuf>> {
        match self {
            Self::Mnist => mnist::fetch(directory),
            Self::FashionMnist => fashion_mnist::fetch(directory),
            Self::Cifar10 => cifar10::fetch(directory),
        }
    }

    /// Reads the files in `directory`. Their sums are not judged, so that other pictures in the same format can be used
    /// as well; see [`Data::is_published`].
    pub fn open(self, directory: &Path) -> Result<Data> {
        match self {
            Self::Mnist => mnist::open(directory),
            Self::FashionMnist => fashion_mnist::open(directory),
            Self::Cifar10 => cifar10::open(directory),
        }
    }
}

/// What can be fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetched {
    /// Pictures.
    Pictures(DataSet),
    /// Reviews.
    Imdb,
    /// Word vectors.
    Glove,
}

impl Fetched {
    /// As on the command line, and the name of its directory.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pictures(set) => set.name(),
            Self::Imdb => "imdb",
            Self::Glove => "glove",
        }
    }

    /// The directory where it is kept unless another one is named.
    pub fn directory(self) -> Result<PathBuf> {
        Ok(cache_directory()?.join("data").join(self.name()))
    }

    /// Makes sure that `directory` holds the published files: looks, fetches what is missing, verifies.
    /// Gives the path of each file.
    pub fn fetch(self, directory: &Path) -> Result<Vec<PathBuf>> {
        match self {
            Self::Pictures(set) => set.fetch(directory),
            Self::Imdb => imdb::fetch(directory),
            Self::Glove => glove::fetch(directory),
        }
    }
}

impl clap::ValueEnum for Fetched {
    fn value_variants<'a>() -> &'a [Self] {
        &[
            Self::Pictures(DataSet::Mnist),
            Self::Pictures(DataSet::FashionMnist),
            Self::Pictures(DataSet::Cifar10),
            Self::Imdb,
            Self::Glove,
        ]
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        match self {
            Self::Pictures(set) => set.to_possible_value(),
            Self::Imdb => {
                Some(clap::builder::PossibleValue::new("imdb").help("25,000 + 25,000 reviews of movies"))
            }
            Self::Glove => Some(
                clap::builder::PossibleValue::new("glove")
                    .help("Vectors of 341,479 English words, 100 numbers each"),
            ),
        }
    }
}

/// A data set as read from a directory.
#[derive(Debug, Clone)]
pub struct Data {
    /// Which one.
    pub set: DataSet,
    /// What there is to learn from.
    pub training: Pictures,
    /// What there is to be measured on.
    pub test: Pictures,
    /// The files, with the MD5 sums that were found.
    pub sums: Sums,
}

impl Data {
    /// The training pictures without the last ones, and the last ones, which tell which epoch was best.
    pub fn held_out(&self) -> (Pictures, Pictures) {
        let count = self.training.len();
        self.training.clone().split_at(count - self.set.validation(count))
    }

    /// Whether all files are those that were published.
    pub fn is_published(&self) -> bool {
        self.sums.iter().all(|(file, sum)| sum == file.md5)
    }

    /// The pictures of these classes alone.
    pub fn only(self, classes: &[String]) -> Result<Self> {
        Ok(Self {
            training: self.training.only(classes)?,
            test: self.test.only(classes)?,
            ..self
        })
    }

    /// What to call it in public: other pictures in the same format are not the data set, nor is a part of it.
    pub fn title(&self) -> String {
        let title = if self.is_published() {
            self.set.title()
        } else {
            self.set.lookalike()
        };
        let classes = self.training.classes();
        if classes == self.set.classes() {
            title.to_owned()
        } else {
            format!("{title}{ONLY}{})", classes.join(", "))
        }
    }
}

/// A picture as the bytes of a PNG file.
pub fn png(picture: &DynamicImage) -> Result<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    picture
        .write_to(&mut bytes, ImageFormat::Png)
        .context("cannot encode a picture as PNG")?;
    Ok(bytes.into_inner())
}

/// Pictures side by side in rows of `columns`.
pub fn sheet(pictures: &Pictures, places: &[usize], columns: u32) -> Result<DynamicImage> {
    let (width, height) = (pictures.width(), pictures.height());
    let rows = (places.len() as u32).div_ceil(columns);
    let size = (columns * width, rows * height);
    let mut sheet = if pictures.channels() == 1 {
        DynamicImage::new_luma8(size.0, size.1)
    } else {
        DynamicImage::new_rgb8(size.0, size.1)
    };
    for (number, &at) in places.iter().enumerate() {
        let picture = pictures.get(at).context("a picture is missing")?;
        let (row, column) = (number as u32 / columns, number as u32 % columns);
        imageops::replace(
            &mut sheet,
            &picture,
            i64::from(column * width),
            i64::from(row * height),
        );
    }
    Ok(if pictures.channels() == 1 {
        sheet.into_luma8().into()
    } else {
        sheet.into_rgb8().into()
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_classes_are_a_part_with_labels_of_its_own() {
        let names = cifar10::CLASSES.map(str::to_owned).to_vec();
        let pictures = Pictures::new([1, 1, 2], (0..8).collect(), vec![3, 9, 0, 3], names).unwrap();
        let wanted = |names: &[&str]| -> Vec<String> { names.iter().map(|&name| name.to_owned()).collect() };
        let part = pictures.only(&wanted(&["truck", "cat"])).unwrap();
        assert_eq!(part.classes(), ["cat", "truck"]);
        assert_eq!(part.labels(), [0, 1, 0]);
        assert_eq!(part.sample(2).unwrap(), ([6, 7].as_slice(), 0));

        let data = Data {
            set: DataSet::Cifar10,
            training: part.clone(),
            test: part,
            sums: Vec::new(),
        };
        assert_eq!(data.title(), "CIFAR-10 (only cat, truck)");
        assert_eq!(DataSet::from_title(&data.title()), Some(DataSet::Cifar10));

        let error = pictures.only(&wanted(&["cat", "mouse"])).unwrap_err().to_string();
        assert!(
            error.contains("airplane, automobile") && error.ends_with("found mouse"),
            "{error}"
        );
        let error = pictures.only(&wanted(&["cat", "cat"])).unwrap_err().to_string();
        assert_eq!(error, "expected at least 2 classes, found 1");
    }
}
