//! A folder of one's own pictures: `train/<class>/` and `val/<class>/`, or `<class>/` alone.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ffi::OsStr,
    fmt, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use classifier::{Limits, image::decode};
use md5::{Digest as _, Md5};
use rand::seq::SliceRandom as _;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng as _};

use crate::{
    parallel::in_parallel,
    progress::Bar,
    samples::{LabelledSamples, SampleInput},
};

const TRAINING: &str = "train";
const VALIDATION: [&str; 2] = ["val", "validation"];
const TEST: &str = "test";

/// Pictures in files, with their classes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFiles {
    /// The names of the classes, sorted.
    pub classes: Vec<String>,
    /// Each file, with the place of its class.
    pub files: Vec<(PathBuf, usize)>,
}

/// A file that is not used, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// The file.
    pub path: PathBuf,
    /// In words.
    pub reason: String,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.reason)
    }
}

/// Where the validation pictures come from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Split {
    /// A folder of their own.
    Given,
    /// This part of each class, drawn with the run's seed.
    Drawn(f64),
}

/// A folder, read: every picture in it can be decoded.
#[derive(Debug, Clone)]
pub struct ImageFolder {
    /// What to learn from.
    pub training: ImageFiles,
    /// What tells which epoch is best.
    pub validation: ImageFiles,
    /// What to be measured on, if there is a folder `test`.
    pub test: Option<ImageFiles>,
    /// Where the validation pictures come from.
    pub split: Split,
    /// What is not used.
    pub skipped: Vec<Skipped>,
    /// Sum over the names, classes and bytes of all pictures: the same sum means the same run.
    pub sum: [u8; 16],
    /// Pictures for training whose bytes are also among those for validation or test: each with its double.
    pub doubles: Vec<(PathBuf, PathBuf)>,
}

impl ImageFolder {
    /// Reads `directory` and decodes every picture once, so that a bad one is known before training begins. Where there
    /// is no folder for validation, `part` of each class is drawn for it with `seed`.
    pub fn open(directory: &Path, part: f64, seed: u64) -> Result<Self> {
        let given = directory.join(TRAINING);
        let (root, own) = if given.is_dir() {
            (given, true)
        } else {
            (directory.to_path_buf(), false)
        };
        let mut skipped = Vec::new();
        let training = list(&root, &mut skipped)?;
        if training.classes.len() < 2 {
            bail!(
                "{}: expected a folder for each of at least 2 classes, found {}: {:?}",
                root.display(),
                training.classes.len(),
                training.classes
            );
        }
        let beside = |names: &[&str], skipped: &mut Vec<Skipped>| -> Result<Option<ImageFiles>> {
            let path = names
                .iter()
                .map(|name| directory.join(name))
                .find(|path| path.is_dir());
            match path {
                Some(path) if own => list(&path, skipped)?
                    .with_classes(&training.classes, &path)
                    .map(Some),
                _ => Ok(None),
            }
        };
        let validation = beside(&VALIDATION, &mut skipped)?;
        let test = beside(&[TEST], &mut skipped)?;

        let parts = [Some(training), validation, test];
        let total = parts.iter().flatten().map(|part| part.files.len()).sum::<usize>();
        let bar = Bar::samples("read", total as u64, 0);
        let mut sums = Vec::new();
        let mut usable = Vec::new();
        for part in parts {
            let checked = part.map(|part| part.check(&bar)).transpose()?;
            let (part, found, bad) = checked.map_or((None, Vec::new(), Vec::new()), |(part, found, bad)| {
                (Some(part), found, bad)
            });
            usable.push(part);
            sums.push(found);
            skipped.extend(bad);
        }
        bar.finish();
        skipped.sort_by(|a, b| a.path.cmp(&b.path));
        let test = usable.pop().flatten();
        let validation = usable.pop().flatten();
        let training = usable.pop().flatten().context("no folder was read")?;
        let doubles = doubles(&training, &sums[0], [(&validation, &sums[1]), (&test, &sums[2])]);
        let sum = sum_of_all([Some(&training), validation.as_ref(), test.as_ref()], &sums);
        let empty: Vec<&str> = training.empty_classes().collect();
        if !empty.is_empty() {
            bail!(
                "{}: expected at least one picture in every class, found none that can be read in {}{}",
                root.display(),
                empty.join(", "),
                said(&skipped)
            );
        }
        let (training, validation, split) = if let Some(validation) = validation {
            (training, validation, Split::Given)
        } else {
            let (training, validation) = training.split(part, seed);
            (training, validation, Split::Drawn(part))
        };
        if validation.files.is_empty() {
            bail!(
                "{}: expected at least one picture for validation, found none: put some in val/<class>, or have classes \
                 of more than one picture and a larger --validation{}",
                directory.display(),
                said(&skipped)
            );
        }
        Ok(Self {
            training,
            validation,
            test,
            split,
            skipped,
            sum,
            doubles,
        })
    }
}

/// The end of a message about missing pictures, where some could not be used.
fn said(skipped: &[Skipped]) -> String {
    match skipped {
        [] => String::new(),
        [first, ..] => format!(" (skipped {}, the first one: {first})", skipped.len()),
    }
}

/// The files of each class: those that lie directly in its folder, sorted by name.
fn list(directory: &Path, skipped: &mut Vec<Skipped>) -> Result<ImageFiles> {
    let mut classes = BTreeMap::new();
    for (path, name) in entries(directory)? {
        if !path.is_dir() {
            continue;
        }
        // It becomes a label in JSON.
        let Some(class) = name.to_str() else {
            bail!(
                "{}: expected a folder whose name is UTF-8, for it is the name of a class",
                path.display()
            );
        };
        classes.insert(class.to_owned(), entries(&path)?);
    }
    let mut files = Vec::new();
    for (class, entries) in classes.values().enumerate() {
        for (path, _) in entries {
            if path.is_dir() {
                skipped.push(Skipped {
                    path: path.clone(),
                    reason: "a folder inside a class; expected pictures".to_owned(),
                });
            } else {
                files.push((path.clone(), class));
            }
        }
    }
    Ok(ImageFiles {
        classes: classes.into_keys().collect(),
        files,
    })
}

/// What a folder holds, sorted by name; hidden files, which systems leave behind, are no part of it.
fn entries(directory: &Path) -> Result<Vec<(PathBuf, std::ffi::OsString)>> {
    let unreadable = || format!("{}: expected a folder that can be read", directory.display());
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

impl ImageFiles {
    /// Lists a folder of pictures to be measured on: `<class>/`, or `test/<class>/`, or `val/<class>/`. Nothing is decoded.
    pub fn to_measure(directory: &Path) -> Result<Self> {
        let inside = [TEST].iter().chain(&VALIDATION).map(|name| directory.join(name));
        let root = inside.into_iter().find(|path| path.is_dir());
        let files = list(root.as_deref().unwrap_or(directory), &mut Vec::new())?;
        if files.files.is_empty() {
            bail!(
                "{}: expected pictures in folders named after their classes, found none",
                directory.display()
            );
        }
        Ok(files)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// How many files each class has.
    pub fn counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.classes.len()];
        for (_, class) in &self.files {
            counts[*class] += 1;
        }
        counts
    }

    /// Places of the first `count` files of each class, class by class.
    pub fn first_of_each_class(&self, count: usize) -> Vec<usize> {
        (0..self.classes.len())
            .flat_map(|class| {
                let places = (0..self.files.len()).filter(move |&at| self.files[at].1 == class);
                places.take(count)
            })
            .collect()
    }

    /// Keeps those files that can be decoded. Also gives the sum of each one's bytes, and those that cannot be used.
    fn check(self, bar: &Bar) -> Result<(Self, Vec<[u8; 16]>, Vec<Skipped>)> {
        let results = in_parallel(
            self.files.len(),
            || Ok(()),
            |(), at| {
                let result = readable(&self.files[at].0);
                bar.advance(1);
                Ok(result)
            },
        )?;
        let (mut files, mut sums, mut skipped) = (Vec::new(), Vec::new(), Vec::new());
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
        Ok((Self { classes, files }, sums, skipped))
    }

    /// Numbers the classes as `classes` does.
    fn with_classes(self, classes: &[String], path: &Path) -> Result<Self> {
        let place = |class: &String| {
            classes.iter().position(|known| known == class).with_context(|| {
                format!(
                    "{}: expected the classes that {TRAINING} has ({}), found {class:?}, of which nothing could be learnt",
                    path.display(),
                    classes.join(", ")
                )
            })
        };
        let places = self.classes.iter().map(place).collect::<Result<Vec<usize>>>()?;
        let mut files: Vec<_> = self
            .files
            .into_iter()
            .map(|(path, class)| (path, places[class]))
            .collect();
        files.sort_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0)));
        Ok(Self {
            classes: classes.to_vec(),
            files,
        })
    }

    fn empty_classes(&self) -> impl Iterator<Item = &str> {
        let counts = self.counts().into_iter().zip(&self.classes);
        counts
            .filter(|(count, _)| *count == 0)
            .map(|(_, class)| class.as_str())
    }

    /// Takes `part` of each class out, drawn with `seed`; at least one file stays. Gives what stays and what was taken.
    fn split(self, part: f64, seed: u64) -> (Self, Self) {
        let mut stays = Vec::new();
        let mut taken = Vec::new();
        for class in 0..self.classes.len() {
            let mut files: Vec<_> = self
                .files
                .iter()
                .filter(|file| file.1 == class)
                .cloned()
                .collect();
            let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x7370_6c69_7400_0000);
            rng.set_stream(class as u64);
            let mut order: Vec<usize> = (0..files.len()).collect();
            order.shuffle(&mut rng);
            let count = ((files.len() as f64 * part).ceil() as usize).min(files.len().saturating_sub(1));
            let drawn: BTreeSet<usize> = order.into_iter().take(count).collect();
            for (at, file) in files.drain(..).enumerate() {
                if drawn.contains(&at) {
                    taken.push(file)
                } else {
                    stays.push(file)
                }
            }
        }
        let classes = self.classes;
        let stays = Self {
            classes: classes.clone(),
            files: stays,
        };
        (
            stays,
            Self {
                classes,
                files: taken,
            },
        )
    }
}

impl LabelledSamples for ImageFiles {
    fn len(&self) -> usize {
        self.files.len()
    }

    fn name(&self, at: usize) -> String {
        let (path, class) = &self.files[at];
        let file = path.file_name().unwrap_or(OsStr::new(""));
        format!("{}/{}", self.classes[*class], file.to_string_lossy())
    }

    fn label(&self, at: usize) -> String {
        self.classes[self.files[at].1].clone()
    }

    fn input(&self, at: usize) -> Result<SampleInput> {
        Ok(SampleInput::Image(read(&self.files[at].0)?))
    }
}

/// The bytes of a file.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The sum of a picture's bytes, or why it cannot be used.
fn readable(path: &Path) -> Result<[u8; 16], String> {
    // Some decoders say more than one line.
    let line =
        |error: &dyn std::error::Error| error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    let bytes = fs::read(path).map_err(|error| line(&error))?;
    decode(&bytes, &Limits::default()).map_err(|error| line(&error))?;
    Ok(Md5::digest(&bytes).into())
}

fn sum_of_all(parts: [Option<&ImageFiles>; 3], sums: &[Vec<[u8; 16]>]) -> [u8; 16] {
    let mut all = Md5::new();
    for (files, sums) in parts.into_iter().zip(sums) {
        for (at, sum) in sums.iter().enumerate() {
            all.update(files.map(|files| files.name(at)).unwrap_or_default());
            all.update(sum);
        }
        all.update(b"next part");
    }
    all.finalize().into()
}

/// Training pictures that are also among the others.
fn doubles(
    training: &ImageFiles,
    sums: &[[u8; 16]],
    others: [(&Option<ImageFiles>, &Vec<[u8; 16]>); 2],
) -> Vec<(PathBuf, PathBuf)> {
    let known: HashMap<[u8; 16], &PathBuf> = training
        .files
        .iter()
        .zip(sums)
        .map(|((path, _), sum)| (*sum, path))
        .collect();
    let others = others
        .into_iter()
        .filter_map(|(files, sums)| Some((files.as_ref()?, sums)));
    others
        .flat_map(|(files, sums)| files.files.iter().zip(sums))
        .filter_map(|((path, _), sum)| Some(((*known.get(sum)?).clone(), path.clone())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transform::png;

    fn picture(level: u8) -> Vec<u8> {
        let picture = image::GrayImage::from_pixel(3, 2, image::Luma([level]));
        png(&picture.into()).unwrap()
    }

    /// Another one for each folder.
    fn level(class: &str) -> u8 {
        class
            .bytes()
            .fold(0_u8, |sum, byte| sum.wrapping_mul(3).wrapping_add(byte))
            / 2
    }

    /// Folders with so many different pictures each.
    fn tree(classes: &[(&str, u8)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (class, count) in classes {
            let path = directory.path().join(class);
            fs::create_dir_all(&path).unwrap();
            for at in 0..*count {
                fs::write(path.join(format!("{at:02}.png")), picture(level(class) + at)).unwrap();
            }
        }
        directory
    }

    fn error(directory: &Path) -> String {
        format!("{:#}", ImageFolder::open(directory, 0.2, 1).unwrap_err())
    }

    #[test]
    fn classes_are_sorted_and_a_part_of_each_is_drawn() {
        let directory = tree(&[("owl", 10), ("cat", 5), ("wildebeest", 1)]);
        let folder = ImageFolder::open(directory.path(), 0.2, 1).unwrap();
        assert_eq!(folder.training.classes, ["cat", "owl", "wildebeest"]);
        assert_eq!(folder.training.counts(), [4, 8, 1], "one is left to learn from");
        assert_eq!(folder.validation.counts(), [1, 2, 0]);
        assert_eq!(folder.split, Split::Drawn(0.2));
        let again = ImageFolder::open(directory.path(), 0.2, 1).unwrap();
        assert_eq!(folder.validation, again.validation);
        let others = (2..9).map(|seed| ImageFolder::open(directory.path(), 0.2, seed).unwrap().validation);
        assert!(others.into_iter().any(|other| other != folder.validation));
        assert_eq!(folder.training.first_of_each_class(2), [0, 1, 4, 5, 12]);
    }

    #[test]
    fn given_folders_keep_their_pictures_and_doubles_are_found() {
        let directory = tree(&[
            ("train/cat", 3),
            ("train/owls", 3),
            ("val/cat", 2),
            ("test/owls", 1),
        ]);
        fs::write(
            directory.path().join("val/cat/same.png"),
            picture(level("train/cat")),
        )
        .unwrap();
        let folder = ImageFolder::open(directory.path(), 0.2, 1).unwrap();
        assert_eq!(folder.split, Split::Given);
        assert_eq!(folder.validation.counts(), [3, 0]);
        assert_eq!(folder.test.unwrap().counts(), [0, 1]);
        let [(one, other)] = folder.doubles.as_slice() else {
            panic!("{:?}", folder.doubles)
        };
        assert!(one.ends_with("train/cat/00.png") && other.ends_with("val/cat/same.png"));
    }

    #[test]
    fn what_is_no_picture_is_skipped_with_a_reason() {
        let directory = tree(&[("cat", 5), ("owl", 5)]);
        let path = |name: &str| directory.path().join(name);
        fs::write(path("cat/notes.txt"), b"cats").unwrap();
        fs::write(path("cat/empty.jpg"), b"").unwrap();
        let whole = picture(7);
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
            folder.skipped[1].reason.contains("not a picture"),
            "{}",
            folder.skipped[1]
        );
        assert_eq!(folder.training.len() + folder.validation.len(), 10);
    }

    #[test]
    fn what_cannot_be_learnt_is_said() {
        let directory = tree(&[("cat", 3)]);
        assert!(error(directory.path()).contains("at least 2 classes, found 1"));
        assert!(error(&directory.path().join("nowhere")).contains("expected a folder that can be read"));
        let directory = tempfile::tempdir().unwrap();
        assert!(error(directory.path()).contains("at least 2 classes, found 0"));
        let directory = tree(&[("cat", 3), ("owl", 0)]);
        assert!(error(directory.path()).contains("found none that can be read in owl"));
        let directory = tree(&[("cat", 1), ("owl", 1)]);
        assert!(error(directory.path()).contains("at least one picture for validation"));
        let directory = tree(&[("train/cat", 3), ("train/owl", 3), ("val/zebra", 1)]);
        let said = error(directory.path());
        assert!(said.contains("(cat, owl), found \"zebra\""), "{said}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_class_needs_a_name_that_json_can_hold_and_a_picture_does_not() {
        use std::os::unix::ffi::OsStrExt as _;
        let directory = tree(&[("cat", 3), ("owl", 3)]);
        let strange = OsStr::from_bytes(b"\xff.png");
        fs::write(directory.path().join("cat").join(strange), picture(1)).unwrap();
        assert_eq!(
            ImageFolder::open(directory.path(), 0.2, 1)
                .unwrap()
                .training
                .counts(),
            [3, 2]
        );
        fs::create_dir(directory.path().join(strange)).unwrap();
        assert!(error(directory.path()).contains("whose name is UTF-8"));
    }
}
