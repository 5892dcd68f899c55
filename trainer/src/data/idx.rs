//! The IDX format of MNIST and Fashion-MNIST: a big-endian header, then bytes.

use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::{
    files::{FileSet, FoundFile},
    images::{Images, Splits},
};

// The third byte says that the values are unsigned bytes, the fourth is the number of axes.
const IMAGES_MAGIC: u32 = 0x0000_0803;
const LABELS_MAGIC: u32 = 0x0000_0801;

/// Reads a data set of four files: training images and labels, test images and labels.
pub(super) fn open(files: &FileSet<4>, directory: &Path, classes: &[String]) -> Result<Splits> {
    let (found, sums) = files.read(directory)?;
    let parse = |images: &FoundFile, labels: &FoundFile| {
        parse(
            (&images.path, &images.bytes),
            (&labels.path, &labels.bytes),
            classes,
        )
    };
    let [images, labels, test_images, test_labels] = &found;
    Ok(Splits {
        training: parse(images, labels)?,
        test: parse(test_images, test_labels)?,
        sums,
    })
}

/// Parses an image file and its label file, each given as path and content.
fn parse(images: (&Path, &[u8]), labels: (&Path, &[u8]), classes: &[String]) -> Result<Images> {
    let (path, bytes) = images;
    let ([count, height, width], pixels) =
        header(bytes, IMAGES_MAGIC).with_context(|| path.display().to_string())?;
    let (label_path, bytes) = labels;
    let ([label_count], labels) =
        header(bytes, LABELS_MAGIC).with_context(|| label_path.display().to_string())?;
    if count != label_count {
        bail!(
            "{}: expected {count} labels, one for each image in {}, found {label_count}",
            label_path.display(),
            path.display()
        );
    }
    Images::new(
        [1, height, width],
        pixels.to_vec(),
        labels.to_vec(),
        classes.to_vec(),
    )
    .with_context(|| label_path.display().to_string())
}

/// Splits a file into the lengths of its axes and the bytes after the header.
fn header<const AXES: usize>(bytes: &[u8], magic: u32) -> Result<([u32; AXES], &[u8])> {
    let mut rest = bytes;
    let mut next = || -> Result<u32> {
        let (number, tail) = rest.split_first_chunk::<4>().with_context(|| {
            format!(
                "expected an IDX header of {} bytes, found {}",
                4 + 4 * AXES,
                bytes.len()
            )
        })?;
        rest = tail;
        Ok(u32::from_be_bytes(*number))
    };
    let found = next()?;
    if found != magic {
        bail!("expected the IDX magic number {magic:#010x}, found {found:#010x}");
    }
    let mut axes = [0; AXES];
    for axis in &mut axes {
        *axis = next()?;
    }
    if axes.contains(&0) {
        bail!("expected positive lengths in the header, found {axes:?}");
    }
    // The header may be damaged: u128 holds the product of any three lengths.
    let expected: u128 = axes.iter().map(|&axis| u128::from(axis)).product();
    if expected != rest.len() as u128 {
        bail!(
            "expected {expected} bytes after the header, which gives the lengths {axes:?}, found {}",
            rest.len()
        );
    }
    Ok((axes, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(count: u32, pixels: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for number in [IMAGES_MAGIC, count, 2, 3] {
            bytes.extend(number.to_be_bytes());
        }
        bytes.extend((0..pixels).map(|at| at as u8));
        bytes
    }

    fn labels(labels: &[u8]) -> Vec<u8> {
        let mut bytes = LABELS_MAGIC.to_be_bytes().to_vec();
        bytes.extend((labels.len() as u32).to_be_bytes());
        bytes.extend(labels);
        bytes
    }

    fn parsed(images: &[u8], labels: &[u8]) -> Result<Images> {
        parse(
            (Path::new("images"), images),
            (Path::new("labels"), labels),
            &super::super::mnist::classes(),
        )
    }

    fn error(images: &[u8], labels: &[u8]) -> String {
        format!("{:#}", parsed(images, labels).unwrap_err())
    }

    #[test]
    fn images_and_labels_are_read_in_order() {
        let images = parsed(&images(2, 12), &labels(&[7, 9])).unwrap();
        assert_eq!(images.labels(), [7, 9]);
        assert_eq!(images.get(1).unwrap().into_bytes(), [6, 7, 8, 9, 10, 11]);
        assert_eq!((images.width(), images.height()), (3, 2));
        assert!(images.get(2).is_none());
        let (first, second) = images.split_at(1);
        assert_eq!(
            (first.labels(), second.labels()),
            ([7].as_slice(), [9].as_slice())
        );
        assert_eq!(second.get(0).unwrap().into_bytes(), [6, 7, 8, 9, 10, 11]);
    }

    #[test]
    fn errors_name_the_file_and_what_was_expected() {
        let good = labels(&[7, 9]);
        assert_eq!(
            error(&images(2, 11), &good),
            "images: expected 12 bytes after the header, which gives the lengths [2, 2, 3], found 11"
        );
        assert_eq!(
            error(&images(2, 12)[..10], &good),
            "images: expected an IDX header of 16 bytes, found 10"
        );
        assert_eq!(
            error(&good, &good),
            "images: expected the IDX magic number 0x00000803, found 0x00000801"
        );
        assert_eq!(
            error(&images(2, 12), &labels(&[7])),
            "labels: expected 2 labels, one for each image in images, found 1"
        );
        assert_eq!(
            error(&images(2, 12), &labels(&[7, 10])),
            "labels: label 1: expected 0 to 9, found 10"
        );
        // A header with lengths beyond any memory must not be trusted.
        let mut huge = images(2, 12);
        huge[4..16].fill(0xff);
        assert!(error(&huge, &good).contains("expected"), "no panic");
    }
}
