//! Fashion-MNIST: 60,000 + 10,000 grey pictures of clothes, 28 x 28 pixels, in MNIST's format.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use super::{Data, DataSet, File, files, idx};
use crate::download;

/// The published files: training pictures and labels, test pictures and labels.
pub const FILES: [File; 4] = [
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
];

/// A Debian package that holds the four files, gzipped.
const PACKAGE: &str = "dataset-fashion-mnist";

/// What the labels stand for, in the words of the data set's authors.
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

/// See [`DataSet::open`].
pub fn open(directory: &Path) -> Result<Data> {
    idx::open(
        DataSet::FashionMnist,
        directory,
        &FILES,
        &CLASSES.map(str::to_owned),
    )
}

/// See [`DataSet::fetch`].
pub fn fetch(directory: &Path) -> Result<Vec<PathBuf>> {
    let package = || download::debian_package(PACKAGE, directory);
    files::obtain(
        DataSet::FashionMnist.name(),
        directory,
        &FILES,
        package,
        |archive| {
            // Whatever the package is compressed with, dpkg-deb gives a plain tar archive.
            let mut child = Command::new("dpkg-deb")
                .arg("--fsys-tarfile")
                .arg(archive)
                .stdout(Stdio::piped())
                .spawn()
                .context("cannot run dpkg-deb: is this a Debian or Ubuntu?")?;
            let output = child.stdout.take().context("dpkg-deb: expected its output")?;
            let unpacked = files::untar(output, directory, &FILES, (Path::new("fashion-mnist"), ".gz"));
            let status = child.wait().context("dpkg-deb")?;
            unpacked?;
            // It also fails if it is not read to the end, which does not matter: the sums are verified.
            if status.code() == Some(2) {
                bail!(
                    "dpkg-deb --fsys-tarfile {}: expected a Debian package",
                    archive.display()
                );
            }
            Ok(())
        },
    )
}
