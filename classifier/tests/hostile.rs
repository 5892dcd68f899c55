//! Damaged files never panic and never go beyond the limits: valid ones with bytes changed, cut and
//! repeated at random.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};

use classifier::image::{ImagePreprocessor, Layout, PreprocessorConfig, Resample, Size, decode};
use classifier::text::decode as decode_text;
use classifier::{Bundle, ImageLimits, TextError};
use proptest::prelude::*;
use proptest::sample::{Index, select};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pillow")
}

fn model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/fixtures/models")
        .join(name)
        .join("1")
}

/// One change of a file.
#[derive(Debug, Clone)]
enum Damage {
    Set(Index, u8),
    Cut(Index),
    Repeat(Index, Index),
    Insert(Index, Vec<u8>),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        8 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        1 => any::<Index>().prop_map(Damage::Cut),
        1 => any::<(Index, Index)>().prop_map(|(from, to)| Damage::Repeat(from, to)),
        1 => (any::<Index>(), proptest::collection::vec(any::<u8>(), 1..20)).prop_map(|(at, more)| Damage::Insert(at, more)),
    ]
}

fn damaged(mut bytes: Vec<u8>, damages: &[Damage]) -> Vec<u8> {
    for damage in damages {
        if bytes.is_empty() {
            break;
        }
        match damage {
            Damage::Set(at, byte) => {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            Damage::Cut(at) => bytes.truncate(at.index(bytes.len())),
            Damage::Repeat(from, to) => {
                let (from, to) = (from.index(bytes.len()), to.index(bytes.len()));
                let part = bytes[from.min(to)..from.max(to)].to_vec();
                bytes.extend(part);
            }
            Damage::Insert(at, more) => {
                let at = at.index(bytes.len());
                bytes.splice(at..at, more.iter().copied());
            }
        }
    }
    bytes
}

const LIMITS: ImageLimits = ImageLimits::new(500, 100_000);

proptest! {
    #[test]
    fn damaged_images_are_rejected_or_decoded_within_the_limits(
        name in select(vec![
            "source.png", "alpha.png", "gray16.png", "orientation_6.jpg", "cmyk.jpg", "animated.gif", "animated.webp",
        ]),
        damages in proptest::collection::vec(damage(), 0..12),
    ) {
        let bytes = damaged(fs::read(fixtures().join(name)).unwrap(), &damages);
        if let Ok(decoded) = decode(&bytes, &LIMITS) {
            prop_assert!(decoded.width() <= 500 && decoded.height() <= 500);
            let config = PreprocessorConfig {
                do_convert_grayscale: true,
                do_fit_ink: true,
                size: Some(Size::Exact { height: 28, width: 28 }),
                ..PreprocessorConfig::default()
            };
            let row = ImagePreprocessor::new(&config, Layout::Nchw).unwrap().apply(decoded).unwrap();
            prop_assert_eq!(row.len(), 28 * 28);
        }
    }

    #[test]
    fn any_image_becomes_a_row_of_the_configured_size(
        (width, height) in (1_u32..80, 1_u32..80),
        (row_width, row_height) in (1_u32..60, 1_u32..60),
        resample in 0_u8..6,
        gray in any::<bool>(),
        crop in any::<bool>(),
        noise in any::<u64>(),
    ) {
        let drawn = image::RgbImage::from_fn(width, height, |x, y| {
            let level = (u64::from(x * 31 + y * 17)).wrapping_mul(noise | 1) as u8;
            image::Rgb([level, level.wrapping_add(x as u8), level.wrapping_mul(3)])
        });
        let size = Size::Exact { height: row_height, width: row_width };
        let config = PreprocessorConfig {
            do_convert_grayscale: gray,
            size: Some(if crop { Size::ShortestEdge { shortest_edge: row_width } } else { size }),
            do_center_crop: crop,
            crop_size: Some(size),
            resample: Some(Resample::try_from(resample).unwrap()),
            ..PreprocessorConfig::default()
        };
        let row = ImagePreprocessor::new(&config, Layout::Nchw).unwrap().apply(drawn.into()).unwrap();
        prop_assert_eq!(row.len() as u32, row_width * row_height * if gray { 1 } else { 3 });
        prop_assert!(row.iter().all(|value| (0.0..=1.0).contains(value)));
    }

    #[test]
    fn damaged_model_directories_are_errors_and_never_panics(
        (fixture, name) in select(vec![
            ("linear_nhwc", "config.json"),
            ("linear_nhwc", "preprocessor_config.json"),
            ("linear_nhwc", "serving.toml"),
            ("words_left", "tokenizer.json"),
            ("words_left", "tokenizer_config.json"),
            ("words_left", "serving.toml"),
        ]),
        damages in proptest::collection::vec(damage(), 1..6),
    ) {
        let directory = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(model(fixture)).unwrap() {
            let path = entry.unwrap().path();
            let mut bytes = fs::read(&path).unwrap();
            if path.ends_with(name) {
                bytes = damaged(bytes, &damages);
            }
            fs::write(directory.path().join(path.file_name().unwrap()), bytes).unwrap();
        }
        match Bundle::open(directory.path()) {
            Err(error) => prop_assert!(error.to_string().contains(name), "{}", error),
            Ok(bundle) => {
                if let Ok(tokenizer) = bundle.preprocessor.text()
                    && let Ok(tokens) = tokenizer.encode("apple <br> banana! pear")
                {
                    prop_assert!(tokens.ids.len() <= tokenizer.max_length());
                }
            }
        }
    }

    #[test]
    fn any_text_becomes_tokens_within_the_limits_or_is_empty(
        bytes in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..300),
            any::<String>().prop_map(String::into_bytes),
            "(<br( /)?>|\\PC|[ \n\t]|apple){0,400}".prop_map(String::into_bytes),
        ],
        name in select(vec!["words", "words_left"]),
    ) {
        let bundle = Bundle::open(model(name)).unwrap();
        let tokenizer = bundle.preprocessor.text().unwrap();
        match decode_text(&bytes).and_then(|text| tokenizer.encode(text)) {
            Ok(tokens) => {
                prop_assert!((1..=tokenizer.max_length()).contains(&tokens.ids.len()));
                prop_assert!(tokens.ids.iter().all(|id| (0..9).contains(id)));
            }
            Err(TextError::Empty) => {}
            Err(error) => prop_assert!(std::str::from_utf8(&bytes).is_err(), "{}", error),
        }
    }
}
