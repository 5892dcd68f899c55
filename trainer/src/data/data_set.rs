//! The published image data sets.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::{
    cifar10, fashion_mnist,
    files::Sums,
    images::{Images, Splits},
    mnist,
};

/// Precedes the class names in the title of a data set of which only some classes are used.
const ONLY: &str = " (only ";

// clap prints the comments of the variants in `trainer fetch --help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum DataSet {
    /// 60,000 + 10,000 handwritten digits.
    Mnist,
    /// 60,000 + 10,000 grey images of clothes.
    FashionMnist,
    /// 50,000 + 10,000 colour images of animals and vehicles.
    Cifar10,
}

impl DataSet {
    pub const ALL: [Self; 3] = [Self::Mnist, Self::FashionMnist, Self::Cifar10];

    /// The name on the command line, which is also the name of the directory in the cache.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mnist => mnist::NAME,
            Self::FashionMnist => fashion_mnist::NAME,
            Self::Cifar10 => cifar10::NAME,
        }
    }

    /// The name that its authors gave it.
    pub fn title(self) -> &'static str {
        match self {
            Self::Mnist => "MNIST",
            Self::FashionMnist => "Fashion-MNIST",
            Self::Cifar10 => "CIFAR-10",
        }
    }

    /// The title of other images in the same file format.
    pub fn lookalike(self) -> &'static str {
        match self {
            Self::Mnist => "digits in MNIST's format",
            Self::FashionMnist => "images in Fashion-MNIST's format",
            Self::Cifar10 => "images in CIFAR-10's format",
        }
    }

    /// The class names; a label is an index into them.
    pub fn classes(self) -> Vec<String> {
        match self {
            Self::Mnist => mnist::classes(),
            Self::FashionMnist => fashion_mnist::CLASSES.map(str::to_owned).to_vec(),
            Self::Cifar10 => cifar10::CLASSES.map(str::to_owned).to_vec(),
        }
    }

    /// Finds the data set by the title that a model directory's `serving.toml` gives.
    pub fn from_title(title: &str) -> Option<Self> {
        // Model directories from older versions say "pictures in ...".
        let title = title
            .split(ONLY)
            .next()
            .unwrap_or_default()
            .replace("pictures", "images");
        let mut sets = Self::ALL.into_iter();
        sets.find(|set| set.title() == title || set.lookalike() == title)
    }

    /// The size of the validation split for `count` training images: 5,000 for the published files.
    pub fn validation(self, count: usize) -> usize {
        match self {
            Self::Mnist | Self::FashionMnist => count / 12,
            Self::Cifar10 => count / 10,
        }
    }

    /// Fetches the published files that `directory` lacks, verifies all of them, and returns their
    /// paths.
    pub fn fetch(self, directory: &Path) -> Result<Vec<PathBuf>> {
        match self {
            Self::Mnist => mnist::fetch(directory),
            Self::FashionMnist => fashion_mnist::fetch(directory),
            Self::Cifar10 => cifar10::fetch(directory),
        }
    }

    /// Reads the files in `directory`. Any images in the same format are accepted, so the MD5 sums
    /// are not checked here; see [`LoadedDataSet::is_published`].
    pub fn open(self, directory: &Path) -> Result<LoadedDataSet> {
        let Splits { training, test, sums } = match self {
            Self::Mnist => mnist::open(directory),
            Self::FashionMnist => fashion_mnist::open(directory),
            Self::Cifar10 => cifar10::open(directory),
        }?;
        Ok(LoadedDataSet {
            set: self,
            training,
            test,
            sums,
        })
    }
}

/// Checks that `wanted` is a subset of `known`.
pub fn check_classes(known: &[String], wanted: &[String]) -> Result<()> {
    match wanted.iter().find(|class| !known.contains(class)) {
        Some(class) => bail!(
            "--classes: expected names from {}, found {class}",
            known.join(", ")
        ),
        None => Ok(()),
    }
}

/// The contents of a directory with the files of a [`DataSet`].
#[derive(Debug, Clone)]
pub struct LoadedDataSet {
    pub set: DataSet,
    pub training: Images,
    pub test: Images,
    /// The MD5 sums of the files that were read.
    pub sums: Sums,
}

impl LoadedDataSet {
    /// Splits the training images into those to train on and the last ones, which are the
    /// validation split.
    pub fn held_out(&self) -> (Images, Images) {
        let count = self.training.len();
        self.training.clone().split_at(count - self.set.validation(count))
    }

    /// Whether every file is the published one.
    pub fn is_published(&self) -> bool {
        self.sums.iter().all(|(file, sum)| sum == file.md5)
    }

    /// Keeps only the images of these classes.
    pub fn only(self, classes: &[String]) -> Result<Self> {
        check_classes(self.training.classes(), classes)?;
        Ok(Self {
            training: self.training.only(classes)?,
            test: self.test.only(classes)?,
            ..self
        })
    }

    /// The title for model cards. Other images in the same format must not bear the data set's
    /// name, and neither must a part of it.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selecting_classes_renumbers_the_labels_and_shows_in_the_title() {
        let names = cifar10::CLASSES.map(str::to_owned).to_vec();
        let images = Images::new([1, 1, 2], (0..8).collect(), vec![3, 9, 0, 3], names).unwrap();
        let data = LoadedDataSet {
            set: DataSet::Cifar10,
            training: images.clone(),
            test: images,
            sums: Vec::new(),
        };
        let only = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            data.clone().only(&names)
        };
        let part = only(&["truck", "cat"]).unwrap();
        assert_eq!(part.training.classes(), ["cat", "truck"]);
        assert_eq!(part.training.labels(), [0, 1, 0]);
        assert_eq!(part.test.sample(2).unwrap(), ([6, 7].as_slice(), 0));
        assert_eq!(part.title(), "CIFAR-10 (only cat, truck)");
        for title in [
            &part.title(),
            "images in CIFAR-10's format",
            "pictures in CIFAR-10's format",
        ] {
            assert_eq!(DataSet::from_title(title), Some(DataSet::Cifar10));
        }

        let error = only(&["cat", "mouse"]).unwrap_err().to_string();
        assert!(
            error.contains("airplane, automobile") && error.ends_with("found mouse"),
            "{error}"
        );
        let error = only(&["cat", "cat"]).unwrap_err().to_string();
        assert_eq!(error, "--classes: expected at least 2 classes, found 1");
    }
}
