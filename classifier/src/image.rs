//! From an encoded image to a row of numbers: decode, resize, crop, rescale, normalise.
//!
//! The steps and their keys are those of `preprocessor_config.json` as Hugging Face image
//! processors write it ([`PreprocessorConfig`]), in their order: convert, resize, centre crop,
//! rescale, normalise. Resizing gives the result of Pillow, to one grey level.
//!
//! Decoding is safe for images from strangers. [`Header::read`] reads the structure of the file
//! without decompressing anything and holds every size in it against [`ImageLimits`];
//! [`Header::memory`] then says how much memory [`Header::decode`] takes at most.
//!
//! ```
//! use classifier::ImageLimits;
//! use classifier::image::{Header, ImagePreprocessor, Layout, PreprocessorConfig, Size};
//!
//! # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/digits/1/golden/7_0.png");
//! let bytes = std::fs::read(path)?;
//! let header = Header::read(&bytes, &ImageLimits::default())?;
//! assert_eq!((header.width, header.height), (28, 28));
//!
//! let config = PreprocessorConfig {
//!     size: Some(Size::Square(224)),
//!     ..PreprocessorConfig::default()
//! };
//! let preprocessor = ImagePreprocessor::new(&config, Layout::Nchw)?;
//! let row = preprocessor.apply(header.decode()?)?;
//! assert_eq!(row.len(), 3 * 224 * 224);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod codes;
mod config;
mod decoder;
mod header;
mod ink;
mod pixels;
mod preprocessor;
mod survey;

pub use self::config::{Layout, PreprocessorConfig, Resample, Size};
pub use self::header::{Header, decode};
pub use self::pixels::to_rgb;
pub use self::preprocessor::ImagePreprocessor;
pub use crate::error::{ImageError, PreprocessorConfigError};
pub use crate::formats::{EXTENSIONS, FORMAT_NAMES, FORMATS, Format};

/// The largest image that is decoded. Checked before any pixel is.
///
/// ```
/// use classifier::ImageLimits;
///
/// let limits = ImageLimits::new(4096, 8_000_000);
/// assert!(limits.max_pixels < ImageLimits::default().max_pixels);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageLimits {
    /// Largest width and largest height, in pixels.
    pub max_side: u32,
    /// Largest product of width and height.
    pub max_pixels: u64,
}

impl ImageLimits {
    /// Limits of `max_side` pixels per side and `max_pixels` in total.
    pub const fn new(max_side: u32, max_pixels: u64) -> Self {
        Self { max_side, max_pixels }
    }
}

impl Default for ImageLimits {
    /// 16,384 per side and 2^25 pixels: a 32-megapixel photograph, 96 MiB decoded.
    fn default() -> Self {
        Self::new(16_384, 1 << 25)
    }
}

/// The media type of an encoded image, told by its first bytes. `None` if it is not one of
/// [`FORMATS`].
pub fn media_type(bytes: &[u8]) -> Option<&'static str> {
    crate::formats::guess(bytes).map(|format| format.media_type)
}
