//! The user's own images, in one directory per class: `train/CLASS/` with optional `val/CLASS/` and
//! `test/CLASS/`, or just `CLASS/`.

mod files;

use std::{
    collections::HashMap,
    fmt, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use md5::{Digest as _, Md5};

use crate::progress::Bar;
pub use files::ImageFiles;
use files::{CheckedFiles, Sum};

const TRAINING: &str = "train";
const VALIDATION: [&str; 2] = ["val", "validation"];
const TEST: &str = "test";

/// A file that is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    pub path: PathBuf,
    pub reason: String,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.reason)
    }
}

/// Where the validation images come from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Split {
    /// From a directory of their own.
    Given,
    /// From the training images: this part of each class, drawn with the run's seed.
    Drawn(f64),
}

/// An image folder in which every listed image was decoded once.
#[derive(Debug, Clone)]
pub struct ImageFolder {
    pub training: ImageFiles,
    pub validation: ImageFiles,
    pub test: Option<ImageFiles>,
    pub split: Split,
    pub skipped: Vec<Skipped>,
    /// The MD5 sum over the names, classes and contents of all images. A resumed run must have the
    /// same sum.
    pub sum: Sum,
    /// Pairs of a training image and a validation or test image with the same bytes.
    pub duplicates: Vec<(PathBuf, PathBuf)>,
}

impl ImageFolder {
    /// Reads `directory` and decodes every image once, so that a broken one is known before
    /// training begins. Without a validation directory, `part` of each class is drawn with `seed`.
    pub fn open(directory: &Path, part: f64, seed: u64) -> Result<Self> {
        let mut skipped = Vec::new();
        let parts = Parts::list(directory, &mut skipped)?;
        let root = parts.root.clone();
        let Checked {
            training,
            validation,
            test,
        } = parts.check(&mut skipped);
        skipped.sort_by(|a, b| a.path.cmp(&b.path));
        let duplicates = duplicates(&training, [&validation, &test]);
        let sum = total_sum([Some(&training), validation.as_ref(), test.as_ref()]);
        let training = training.files;
        let empty: Vec<&str> = training.empty_classes().collect();
        if !empty.is_empty() {
            bail!(
                "{}: expected at least one image in every class, found none that can be read in {}{}",
                root.display(),
                empty.join(", "),
                first_skipped(&skipped)
            );
        }
        let (training, validation, split) = if let Some(validation) = validation {
            (training, validation.files, Split::Given)
        } else {
            let (training, validation) = training.split(part, seed);
            (training, validation, Split::Drawn(part))
        };
        if validation.is_empty() {
            bail!(
                "{}: found no images for validation: put some into val/CLASS, or use a larger --validation and more than one \
                 image for each class{}",
                directory.display(),
                first_skipped(&skipped)
            );
        }
        Ok(Self {
            training,
            validation,
            test: test.map(|test| test.files),
            split,
            skipped,
            sum,
            duplicates,
        })
    }
}

/// The files that were found, before they are decoded.
struct Parts {
    /// The directory whose subdirectories are the training classes.
    root: PathBuf,
    training: ImageFiles,
    validation: Option<ImageFiles>,
    test: Option<ImageFiles>,
}

struct Checked {
    training: CheckedFiles,
    validation: Option<CheckedFiles>,
    test: Option<CheckedFiles>,
}

impl Parts {
    fn list(directory: &Path, skipped: &mut Vec<Skipped>) -> Result<Self> {
        let given = directory.join(TRAINING);
        let has_parts = given.is_dir();
        let root = if has_parts { given } else { directory.to_path_buf() };
        let training = ImageFiles::list(&root, skipped)?;
        if training.classes.len() < 2 {
            bail!(
                "{}: expected a directory for each of at least 2 classes, found {}: {:?}",
                root.display(),
                training.classes.len(),
                training.classes
            );
        }
        let mut part = |names: &[&str]| -> Result<Option<ImageFiles>> {
            let mut paths = names.iter().map(|name| directory.join(name));
            match paths.find(|path| path.is_dir()) {
                Some(path) if has_parts => {
                    let files = ImageFiles::list(&path, skipped)?;
                    files.with_classes(&training.classes, &path).map(Some)
                }
                _ => Ok(None),
            }
        };
        let validation = part(&VALIDATION)?;
        let test = part(&[TEST])?;
        Ok(Self {
            root,
            training,
            validation,
            test,
        })
    }

    fn check(self, skipped: &mut Vec<Skipped>) -> Checked {
        let parts = [Some(&self.training), self.validation.as_ref(), self.test.as_ref()];
        let total = parts.into_iter().flatten().map(ImageFiles::len).sum::<usize>();
        let bar = Bar::samples("read", total as u64, 0);
        let checked = Checked {
            training: self.training.check(&bar, skipped),
            validation: self.validation.map(|files| files.check(&bar, skipped)),
            test: self.test.map(|files| files.check(&bar, skipped)),
        };
        bar.finish();
        checked
    }
}

/// The end of an error message, if there are skipped files.
fn first_skipped(skipped: &[Skipped]) -> String {
    match skipped {
        [] => String::new(),
        [first, ..] => format!(" ({} files were skipped, first {first})", skipped.len()),
    }
}

pub fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Runs store this sum, so it must stay the same for the same images.
fn total_sum(parts: [Option<&CheckedFiles>; 3]) -> Sum {
    let mut total = Md5::new();
    for part in parts {
        if let Some(part) = part {
            for (at, sum) in part.sums.iter().enumerate() {
                total.update(part.files.qualified_name(at));
                total.update(sum);
            }
        }
        total.update(b"next part");
    }
    total.finalize().into()
}

/// Finds the training images that are also among the others.
fn duplicates(training: &CheckedFiles, others: [&Option<CheckedFiles>; 2]) -> Vec<(PathBuf, PathBuf)> {
    let paths = |part: &CheckedFiles| -> Vec<(Sum, PathBuf)> {
        let paths = part.files.files.iter().map(|(path, _)| path.clone());
        part.sums.iter().copied().zip(paths).collect()
    };
    let known: HashMap<Sum, PathBuf> = paths(training).into_iter().collect();
    let others = others.into_iter().flatten().flat_map(paths);
    others
        .filter_map(|(sum, path)| Some((known.get(&sum)?.clone(), path)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transform::png;

    fn image(level: u8) -> Vec<u8> {
        let image = image::GrayImage::from_pixel(3, 2, image::Luma([level]));
        png(&image.into()).unwrap()
    }

    /// A brightness that differs between the directories of these tests.
    fn level(class: &str) -> u8 {
        class
            .bytes()
            .fold(0_u8, |sum, byte| sum.wrapping_mul(3).wrapping_add(byte))
            / 2
    }

    /// Creates directories with this many different images each.
    fn tree(classes: &[(&str, u8)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (class, count) in classes {
            let path = directory.path().join(class);
            fs::create_dir_all(&path).unwrap();
            for at in 0..*count {
                fs::write(path.join(format!("{at:02}.png")), image(level(class) + at)).unwrap();
            }
        }
        directory
    }

    fn error(directory: &Path) -> String {
        format!("{:#}", ImageFolder::open(directory, 0.2, 1).unwrap_err())
    }

    #[test]
    fn classes_are_sorted_and_a_part_of_each_is_drawn_for_validation() {
        let directory = tree(&[("owl", 10), ("cat", 5), ("wildebeest", 1)]);
        let folder = ImageFolder::open(directory.path(), 0.2, 1).unwrap();
        assert_eq!(folder.training.classes, ["cat", "owl", "wildebeest"]);
        assert_eq!(
            folder.training.counts(),
            [4, 8, 1],
            "one image is left to train on"
        );
        assert_eq!(folder.validation.counts(), [1, 2, 0]);
        assert_eq!(folder.split, Split::Drawn(0.2));
        let again = ImageFolder::open(directory.path(), 0.2, 1).unwrap();
        assert_eq!(folder.validation, again.validation);
        let others = (2..9).map(|seed| ImageFolder::open(directory.path(), 0.2, seed).unwrap().validation);
        assert!(others.into_iter().any(|other| other != folder.validation));
        assert_eq!(folder.training.first_of_each_class(2), [0, 1, 4, 5, 12]);
    }

    #[test]
    fn given_parts_keep_their_images_and_duplicates_are_found() {
        let directory = tree(&[
            ("train/cat", 3),
            ("train/owls", 3),
            ("val/cat", 2),
            ("test/owls", 1),
        ]);
        fs::write(
            directory.path().join("val/cat/same.png"),
            image(level("train/cat")),
        )
        .unwrap();
        let folder = ImageFolder::open(directory.path(), 0.2, 1).unwrap();
        assert_eq!(folder.split, Split::Given);
        assert_eq!(folder.validation.counts(), [3, 0]);
        assert_eq!(folder.test.unwrap().counts(), [0, 1]);
        let [(one, other)] = folder.duplicates.as_slice() else {
            panic!("{:?}", folder.duplicates)
        };
        assert!(one.ends_with("train/cat/00.png") && other.ends_with("val/cat/same.png"));
    }

    #[test]
    fn files_that_are_not_images_are_skipped_with_a_reason() {
        let directory = tree(&[("cat", 5), ("owl", 5)]);
        let path = |name: &str| directory.path().join(name);
        fs::write(path("cat/notes.txt"), b"cats").unwrap();
        fs::write(path("cat/empty.jpg"), b"").unwrap();
        let whole = image(7);
        fs::write(path("owl/cut.png"), &whole[..whole.len() / 2]).unwrap();
        fs::write(path("owl/.DS_Store"), b"left behind").unwrap();
        fs::create_dir(path("owl/more")).unwrap();
        fs::write(path("README.md"), b"not a class").unwrap();
        let folder = ImageFolder::open(directory.path(), 0.2, 1).unwrap();
        let names: Vec<String> = folder
            .skipped
            .iter()
            .map(|skipped| skipped.path.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(names, ["empty.jpg", "notes.txt", "cut.png", "more"]);
        assert!(
            folder.skipped[0].reason.contains("empty"),
            "{}",
            folder.skipped[0]
        );
        assert!(
            folder.skipped[1].reason.contains("unknown image format"),
            "{}",
            folder.skipped[1]
        );
        assert_eq!(folder.training.len() + folder.validation.len(), 10);
    }

    #[test]
    fn errors_say_what_a_folder_lacks() {
        let directory = tree(&[("cat", 3)]);
        assert!(error(directory.path()).contains("at least 2 classes, found 1"));
        assert!(error(&directory.path().join("nowhere")).contains("cannot read"));
        let directory = tempfile::tempdir().unwrap();
        assert!(error(directory.path()).contains("at least 2 classes, found 0"));
        let directory = tree(&[("cat", 3), ("owl", 0)]);
        assert!(error(directory.path()).contains("found none that can be read in owl"));
        let directory = tree(&[("cat", 1), ("owl", 1)]);
        assert!(error(directory.path()).contains("found no images for validation"));
        let directory = tree(&[("train/cat", 3), ("train/owl", 3), ("val/zebra", 1)]);
        let error = error(directory.path());
        assert!(error.contains("(cat, owl), found \"zebra\""), "{error}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_class_needs_a_utf_8_name_but_an_image_does_not() {
        use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};
        let directory = tree(&[("cat", 3), ("owl", 3)]);
        let strange = OsStr::from_bytes(b"\xff.png");
        fs::write(directory.path().join("cat").join(strange), image(1)).unwrap();
        assert_eq!(
            ImageFolder::open(directory.path(), 0.2, 1)
                .unwrap()
                .training
                .counts(),
            [3, 2]
        );
        fs::create_dir(directory.path().join(strange)).unwrap();
        assert!(error(directory.path()).contains("UTF-8"));
    }
}
