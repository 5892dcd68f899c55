//! Fashion-MNIST: 60,000 + 10,000 grey images of clothes, 28 x 28 pixels, in MNIST's format.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use super::{
    files::{File, FileSet},
    idx,
    images::Splits,
};
use crate::download;

pub(super) const NAME: &str = "fashion-mnist";

const FILES: FileSet<4> = FileSet {
    set: NAME,
    files: [
        File {
            name: "train-images-idx3-ubyte",
            md5: "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        },
        File {
            name: "train-labels-idx1-ubyte",
            md5: "9018921c3c673c538a1fc5bad174d6f9",
        },
        File {
            name: "t10k-images-idx3-ubyte",
            md5: "8181f5470baa50b63fa0f6fddb340f0a",
        },
        File {
            name: "t10k-labels-idx1-ubyte",
            md5: "15d484375f8d13e6eb1aabb0c3f46965",
        },
    ],
};

/// A Debian package that contains the four files, gzipped.
const PACKAGE: &str = "dataset-fashion-mnist";

/// The names that the data set's authors use.
pub const CLASSES: [&str; 10] = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
];

pub(super) fn open(directory: &Path) -> Result<Splits> {
    idx::open(&FILES, directory, &CLASSES.map(str::to_owned))
}

pub(super) fn fetch(directory: &Path) -> Result<Vec<PathBuf>> {
    let package = || download::debian_package(PACKAGE, directory);
    FILES.obtain(directory, package, |archive| unpack(archive, directory))
}

/// Runs dpkg-deb, which writes the package's content as a plain tar archive, whatever its
/// compression.
fn unpack(archive: &Path, directory: &Path) -> Result<()> {
    let mut child = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(archive)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run dpkg-deb: is this Debian or Ubuntu?")?;
    let output = child.stdout.take().context("dpkg-deb has no standard output")?;
    let unpacked = FILES.untar(output, directory, (Path::new("fashion-mnist"), ".gz"));
    let status = child.wait().context("dpkg-deb")?;
    unpacked?;
    // dpkg-deb also fails, with another status, if its output is not read to the end. That is
    // harmless: the MD5 sums of the files are verified.
    if status.code() == Some(2) {
        bail!(
            "dpkg-deb --fsys-tarfile {}: expected a Debian package",
            archive.display()
        );
    }
    Ok(())
}
