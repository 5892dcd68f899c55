use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use classifier::{ImageLimits, image::decode};
use md5::{Digest as _, Md5};
use rand::seq::SliceRandom as _;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng as _};
use rayon::prelude::*;

use super::{Skipped, TEST, TRAINING, VALIDATION, read};
use crate::{
    progress::Bar,
    samples::{LabelledSamples, SampleInput},
};

pub(super) type Sum = [u8; 16];

/// Image files with their classes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFiles {
    /// The class names, sorted.
    pub classes: Vec<String>,
    /// The path of each file, and the index of its class.
    pub files: Vec<(PathBuf, usize)>,
}

/// Files that were decoded, with the sums of their contents.
pub(super) struct CheckedFiles {
    pub(super) files: ImageFiles,
    pub(super) sums: Vec<Sum>,
}

impl ImageFiles {
    /// Lists the images for an evaluation without decoding them: those in `test/CLASS/`, else in
    /// `val/CLASS/`, else in `CLASS/`.
    pub fn to_measure(directory: &Path) -> Result<Self> {
        let inside = [TEST].iter().chain(&VALIDATION).map(|name| directory.join(name));
        let root = inside.into_iter().find(|path| path.is_dir());
        let files = Self::list(root.as_deref().unwrap_or(directory), &mut Vec::new())?;
        if files.is_empty() {
            bail!(
                "{}: expected images in directories named after their classes, found none",
                directory.display()
            );
        }
        Ok(files)
    }

    /// Lists the files directly inside each subdirectory, sorted by name. The subdirectories' names
    /// are the classes.
    pub(super) fn list(directory: &Path, skipped: &mut Vec<Skipped>) -> Result<Self> {
        let mut classes = BTreeMap::new();
        for (path, name) in entries(directory)? {
            if !path.is_dir() {
                continue;
            }
            // The class becomes a label in JSON.
            let Some(class) = name.to_str() else {
                bail!("{}: the name of a class directory must be UTF-8", path.display());
            };
            classes.insert(class.to_owned(), entries(&path)?);
        }
        let mut files = Vec::new();
        for (class, entries) in classes.values().enumerate() {
            for (path, _) in entries {
                if path.is_dir() {
                    skipped.push(Skipped {
                        path: path.clone(),
                        reason: "expected an image, found a directory".to_owned(),
                    });
                } else {
                    files.push((path.clone(), class));
                }
            }
        }
        Ok(Self {
            classes: classes.into_keys().collect(),
            files,
        })
    }

    pub fn len(&self) -> usize {
        self.files.len()
    }

    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// The number of files of each class.
    pub fn counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.classes.len()];
        for (_, class) in &self.files {
            counts[*class] += 1;
        }
        counts
    }

    /// The indices of the first `count` files of each class, class by class.
    pub fn first_of_each_class(&self, count: usize) -> Vec<usize> {
        (0..self.classes.len())
            .flat_map(|class| {
                let indices = (0..self.files.len()).filter(move |&at| self.files[at].1 == class);
                indices.take(count)
            })
            .collect()
    }

    /// Keeps the files that can be decoded.
    pub(super) fn check(self, bar: &Bar, skipped: &mut Vec<Skipped>) -> CheckedFiles {
        let check = |(path, _): &(PathBuf, usize)| {
            let result = decoded_sum(path);
            bar.advance(1);
            result
        };
        let results: Vec<Result<Sum, String>> = self.files.par_iter().map(check).collect();
        let (mut files, mut sums) = (Vec::new(), Vec::new());
        for ((path, class), result) in self.files.into_iter().zip(results) {
            match result {
                Ok(sum) => {
                    files.push((path, class));
                    sums.push(sum);
                }
                Err(reason) => skipped.push(Skipped { path, reason }),
            }
        }
        let classes = self.classes;
        let files = Self { classes, files };
        CheckedFiles { files, sums }
    }

    /// Replaces the class indices by indices into `classes`.
    pub(super) fn with_classes(self, classes: &[String], path: &Path) -> Result<Self> {
        let index = |class: &String| {
            classes.iter().position(|known| known == class).with_context(|| {
                format!(
                    "{}: expected the classes of {TRAINING} ({}), found {class:?}",
                    path.display(),
                    classes.join(", ")
                )
            })
        };
        let indices = self.classes.iter().map(index).collect::<Result<Vec<usize>>>()?;
        let mut files: Vec<_> = self
            .files
            .into_iter()
            .map(|(path, class)| (path, indices[class]))
            .collect();
        files.sort_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0)));
        Ok(Self {
            classes: classes.to_vec(),
            files,
        })
    }

    pub(super) fn empty_classes(&self) -> impl Iterator<Item = &str> {
        let counts = self.counts().into_iter().zip(&self.classes);
        counts
            .filter(|(count, _)| *count == 0)
            .map(|(_, class)| class.as_str())
    }

    /// Splits off `part` of each class, drawn with `seed`, but never the whole class. Returns the
    /// rest and the files that were drawn.
    pub(super) fn split(self, part: f64, seed: u64) -> (Self, Self) {
        let (mut rest, mut drawn) = (Vec::new(), Vec::new());
        for class in 0..self.classes.len() {
            let files: Vec<_> = self.files.iter().filter(|file| file.1 == class).collect();
            // The key differs from those of the other generators that the seed is for.
            let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x7370_6c69_7400_0000);
            rng.set_stream(class as u64);
            let mut order: Vec<usize> = (0..files.len()).collect();
            order.shuffle(&mut rng);
            let count = ((files.len() as f64 * part).ceil() as usize).min(files.len().saturating_sub(1));
            let chosen: BTreeSet<usize> = order.into_iter().take(count).collect();
            for (at, file) in files.into_iter().enumerate() {
                let target = if chosen.contains(&at) {
                    &mut drawn
                } else {
                    &mut rest
                };
                target.push(file.clone());
            }
        }
        let rest = Self {
            classes: self.classes.clone(),
            files: rest,
        };
        let drawn = Self {
            classes: self.classes,
            files: drawn,
        };
        (rest, drawn)
    }

    /// The class and the name of file `at`.
    pub(super) fn qualified_name(&self, at: usize) -> String {
        let (path, class) = &self.files[at];
        let file = path.file_name().unwrap_or(OsStr::new(""));
        format!("{}/{}", self.classes[*class], file.to_string_lossy())
    }
}

impl LabelledSamples for ImageFiles {
    fn len(&self) -> usize {
        self.files.len()
    }

    fn name(&self, at: usize) -> String {
        self.qualified_name(at)
    }

    fn label(&self, at: usize) -> String {
        self.classes[self.files[at].1].clone()
    }

    fn input(&self, at: usize) -> Result<SampleInput> {
        Ok(SampleInput::Image(read(&self.files[at].0)?))
    }
}

/// The entries of a directory, sorted by name. Hidden files, such as those that file managers
/// create, are left out.
fn entries(directory: &Path) -> Result<Vec<(PathBuf, OsString)>> {
    let unreadable = || format!("cannot read the directory {}", directory.display());
    let mut entries = Vec::new();
    for entry in fs::read_dir(directory).with_context(unreadable)? {
        let entry = entry.with_context(unreadable)?;
        let name = entry.file_name();
        if !name.as_encoded_bytes().starts_with(b".") {
            entries.push((entry.path(), name));
        }
    }
    entries.sort();
    Ok(entries)
}

/// The sum of an image file, or the reason why it cannot be used.
fn decoded_sum(path: &Path) -> Result<Sum, String> {
    // The messages of some decoders have several lines.
    let one_line =
        |error: &dyn std::error::Error| error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    let bytes = fs::read(path).map_err(|error| one_line(&error))?;
    decode(&bytes, &ImageLimits::default()).map_err(|error| one_line(&error))?;
    Ok(Md5::digest(&bytes).into())
}
