//! Images become the numbers that Pillow makes of them; `fixtures/make_pillow.py` made the images
//! to compare with.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::path::Path;

use classifier::ImageLimits;
use classifier::image::{ImagePreprocessor, Layout, PreprocessorConfig, Resample, Size, decode};
use image::DynamicImage;

fn bytes(name: &str) -> Vec<u8> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pillow");
    std::fs::read(directory.join(name)).unwrap()
}

fn read_image(name: &str) -> DynamicImage {
    decode(&bytes(name), &ImageLimits::default()).unwrap()
}

/// Levels between 0 and 255, not normalised.
fn levels(name: &str, config: PreprocessorConfig) -> Vec<f32> {
    let config = PreprocessorConfig {
        do_rescale: Some(false),
        ..config
    };
    let preprocessor = ImagePreprocessor::new(&config, Layout::Nhwc).unwrap();
    preprocessor.apply(read_image(name)).unwrap()
}

fn exact(width: u32, height: u32) -> Size {
    Size::Exact { height, width }
}

/// The levels of an image, without any preprocessing.
fn expected(name: &str, channels: u8) -> Vec<f32> {
    let image = read_image(name);
    let raw = if channels == 1 {
        image.into_luma8().into_raw()
    } else {
        image.into_rgb8().into_raw()
    };
    raw.into_iter().map(f32::from).collect()
}

/// The largest difference in levels of 0 to 255.
fn difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let differences = found
        .iter()
        .zip(expected)
        .map(|(found, expected)| (found - expected).abs());
    differences.fold(0.0, f32::max)
}

#[test]
fn every_filter_resizes_as_pillow_does_to_one_level() {
    for resample in 0..6 {
        // Where the edge of a box falls exactly on the middle of a pixel (97 columns to 20), float
        // rounding decides whether that pixel counts, and decides differently in the two: such
        // sizes are left out.
        for (width, height) in [(32, 24), (21, 61), (150, 130)] {
            let config = |gray| PreprocessorConfig {
                do_convert_grayscale: gray,
                size: Some(exact(width, height)),
                resample: Some(Resample::try_from(resample).unwrap()),
                ..PreprocessorConfig::default()
            };
            let name = format!("rgb_{resample}_{width}x{height}.png");
            let found = difference(&levels("source.png", config(false)), &expected(&name, 3));
            assert!(found <= 1.0, "{name}: {found} levels");
            if (width, height) == (32, 24) {
                let name = format!("gray_{resample}_{width}x{height}.png");
                let found = difference(&levels("source.png", config(true)), &expected(&name, 1));
                assert!(found <= 1.0, "{name}: {found} levels");
            }
        }
    }
}

#[test]
fn gray_is_pillows_gray() {
    let config = PreprocessorConfig {
        do_convert_grayscale: true,
        size: Some(exact(97, 71)),
        ..PreprocessorConfig::default()
    };
    assert_eq!(
        difference(&levels("source.png", config.clone()), &expected("gray.png", 1)),
        0.0
    );
    let sixteen = difference(&levels("gray16.png", config), &expected("gray.png", 1));
    assert_eq!(sixteen, 0.0, "16 bits a level");
}

#[test]
fn shortest_edge_and_centre_crop_are_those_of_image_processors() {
    let config = PreprocessorConfig {
        size: Some(Size::ShortestEdge { shortest_edge: 40 }),
        do_center_crop: true,
        crop_size: Some(exact(36, 36)),
        ..PreprocessorConfig::default()
    };
    let found = difference(
        &levels("source.png", config),
        &expected("shortest_edge_40_crop_36.png", 3),
    );
    assert!(found <= 1.0, "{found} levels");
}

#[test]
fn a_crop_larger_than_the_image_is_filled_with_zeros() {
    let config = PreprocessorConfig {
        do_convert_grayscale: true,
        do_resize: Some(false),
        do_center_crop: true,
        crop_size: Some(exact(101, 73)),
        ..PreprocessorConfig::default()
    };
    let found = levels("source.png", config);
    assert_eq!(found.len(), 101 * 73);
    let row = |y: usize| &found[y * 101..(y + 1) * 101];
    assert!(row(0).iter().chain(row(72)).all(|&level| level == 0.0));
    let inside = &expected("gray.png", 1)[..97];
    assert_eq!(&row(1)[2..99], inside);
    assert_eq!((row(1)[1], row(1)[99]), (0.0, 0.0));
}

#[test]
fn transparency_is_laid_over_white() {
    let config = PreprocessorConfig {
        size: Some(exact(97, 71)),
        ..PreprocessorConfig::default()
    };
    let found = difference(&levels("alpha.png", config), &expected("alpha_over_white.png", 3));
    assert!(found <= 1.0, "{found} levels");
}

#[test]
fn images_are_turned_by_their_exif_orientation() {
    for orientation in 1..9 {
        let upright = read_image(&format!("orientation_{orientation}.png"));
        let config = PreprocessorConfig {
            size: Some(exact(upright.width(), upright.height())),
            ..PreprocessorConfig::default()
        };
        let jpeg = levels(&format!("orientation_{orientation}.jpg"), config);
        let expected = expected(&format!("orientation_{orientation}.png"), 3);
        // Two jpeg decoders differ by more than two resizes do.
        let found = difference(&jpeg, &expected);
        assert!(found <= 4.0, "orientation {orientation}: {found} levels");
    }
}

#[test]
fn a_cmyk_jpeg_and_animations_are_read() {
    let size = Some(exact(8, 8));
    let config = PreprocessorConfig {
        size,
        ..PreprocessorConfig::default()
    };
    for name in ["animated.gif", "animated.webp"] {
        let found = levels(name, config.clone());
        assert!(
            found.chunks(3).all(|pixel| pixel == [255.0, 0.0, 0.0]),
            "{name}: the first frame is red"
        );
    }
    let inks = read_image("cmyk.jpg");
    let config = PreprocessorConfig {
        size: Some(exact(inks.width(), inks.height())),
        ..PreprocessorConfig::default()
    };
    let plain = levels(
        "source.png",
        PreprocessorConfig {
            resample: Some(Resample::Box),
            ..config.clone()
        },
    );
    let found = levels("cmyk.jpg", config);
    let mean = found.iter().zip(&plain).map(|(a, b)| (a - b).abs()).sum::<f32>() / found.len() as f32;
    assert!(
        mean < 8.0,
        "the colours are those of the image: {mean} levels on average"
    );
}

#[test]
fn rescaling_and_normalising_follow_the_formula_in_both_layouts() {
    let config = PreprocessorConfig {
        size: Some(exact(97, 71)),
        image_mean: Some(vec![0.485, 0.456, 0.406]),
        image_std: Some(vec![0.229, 0.224, 0.225]),
        ..PreprocessorConfig::default()
    };
    let raw = expected("source.png", 3);
    let nhwc = ImagePreprocessor::new(&config, Layout::Nhwc).unwrap();
    let nchw = ImagePreprocessor::new(&config, Layout::Nchw).unwrap();
    assert_eq!((nhwc.shape(), nchw.shape()), ([71, 97, 3], [3, 71, 97]));
    let last = nhwc.apply(read_image("source.png")).unwrap();
    let first = nchw.apply(read_image("source.png")).unwrap();
    for (at, level) in raw.iter().enumerate() {
        let (pixel, channel) = (at / 3, at % 3);
        let mean = [0.485, 0.456, 0.406][channel];
        let deviation = [0.229, 0.224, 0.225][channel];
        let by_hand = (level / 255.0 - mean) / deviation;
        assert!((last[at] - by_hand).abs() < 1e-5);
        assert_eq!(first[channel * 97 * 71 + pixel], last[at]);
    }
}

#[test]
fn limits_are_checked_before_anything_is_decoded() {
    let limits = ImageLimits::new(96, 1 << 20);
    let error = decode(&bytes("source.png"), &limits).unwrap_err().to_string();
    assert!(error.contains("97 x 71") && error.contains("96"), "{error}");
    // The size of a truncated file is reported before the missing end.
    let whole = bytes("source.png");
    let error = decode(&whole[..whole.len() / 2], &limits)
        .unwrap_err()
        .to_string();
    assert!(error.contains("97 x 71"), "{error}");
}
