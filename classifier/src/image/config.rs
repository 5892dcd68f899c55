//! `preprocessor_config.json`: the steps from an image to a row, as Hugging Face writes them.

use fast_image_resize as fir;
use serde::{Deserialize, Serialize};

/// Resize filters, with Pillow's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum Resample {
    /// 0
    Nearest,
    /// 1
    Lanczos,
    /// 2
    Bilinear,
    /// 3
    Bicubic,
    /// 4
    Box,
    /// 5
    Hamming,
}

impl TryFrom<u8> for Resample {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, String> {
        Ok(match number {
            0 => Self::Nearest,
            1 => Self::Lanczos,
            2 => Self::Bilinear,
            3 => Self::Bicubic,
            4 => Self::Box,
            5 => Self::Hamming,
            _ => {
                return Err(format!(
                    "expected 0 (nearest), 1 (lanczos), 2 (bilinear), 3 (bicubic), 4 (box) or 5 (hamming), found {number}"
                ));
            }
        })
    }
}

impl From<Resample> for u8 {
    fn from(resample: Resample) -> Self {
        resample as u8
    }
}

impl Resample {
    pub(super) fn algorithm(self) -> fir::ResizeAlg {
        use fir::FilterType as F;
        fir::ResizeAlg::Convolution(match self {
            Self::Nearest => return fir::ResizeAlg::Nearest,
            Self::Lanczos => F::Lanczos3,
            Self::Bilinear => F::Bilinear,
            // Pillow's bicubic has a = -0.5, which is the Catmull-Rom spline.
            Self::Bicubic => F::CatmullRom,
            Self::Box => F::Box,
            Self::Hamming => F::Hamming,
        })
    }
}

/// The size that an image is resized to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Size {
    /// This height and width in pixels. Proportions may change.
    #[allow(missing_docs)]
    Exact { height: u32, width: u32 },
    /// The shorter side gets this length in pixels. Proportions stay.
    #[allow(missing_docs)]
    ShortestEdge { shortest_edge: u32 },
    /// A square with sides of this length in pixels. Older configurations write a bare number.
    Square(u32),
}

impl Size {
    /// `(width, height)` to which an image of `width` x `height` is resized.
    pub(super) fn target(self, width: u32, height: u32) -> (u32, u32) {
        match self {
            Self::Exact { height, width } => (width, height),
            Self::Square(side) => (side, side),
            Self::ShortestEdge { shortest_edge } => {
                let scaled = |long: u32, short: u32| {
                    (u64::from(shortest_edge) * u64::from(long) / u64::from(short)) as u32
                };
                if width <= height {
                    (shortest_edge, scaled(height, width))
                } else {
                    (scaled(width, height), shortest_edge)
                }
            }
        }
    }

    /// `(width, height)`, if that is the same for every image.
    pub(super) fn fixed(self) -> Option<(u32, u32)> {
        match self {
            Self::Exact { height, width } => Some((width, height)),
            Self::Square(side) => Some((side, side)),
            Self::ShortestEdge { .. } => None,
        }
    }

    pub(super) fn largest_side(self) -> u32 {
        match self {
            Self::Exact { height, width } => height.max(width),
            Self::Square(side) | Self::ShortestEdge { shortest_edge: side } => side,
        }
    }

    pub(super) fn smallest_side(self) -> u32 {
        match self {
            Self::Exact { height, width } => height.min(width),
            Self::Square(side) | Self::ShortestEdge { shortest_edge: side } => side,
        }
    }
}

/// Order of the axes of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// Channels, height, width: what PyTorch exports.
    #[default]
    Nchw,
    /// Height, width, channels: what TensorFlow exports.
    Nhwc,
}

/// `preprocessor_config.json`.
///
/// Unknown keys belong to other programs and are ignored. Known keys that would change the pixels
/// in a way that this crate does not implement are listed here and rejected by
/// [`ImagePreprocessor::new`](super::ImagePreprocessor::new).
///
/// Keys that are marked as extensions are not written by Hugging Face.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct PreprocessorConfig {
    /// Convert to three channels. Always done unless `do_convert_grayscale` is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub do_convert_rgb: Option<bool>,
    /// Convert to one channel: ITU-R 601-2 luma, as in Pillow's mode `L`. An extension.
    pub do_convert_grayscale: bool,
    /// Instead of resizing, find the ink on a plain background and frame it the way MNIST framed
    /// its digits: bright on dark, longest side `ink_size`, centre of mass in the middle of `size`.
    /// An extension.
    pub do_fit_ink: bool,
    /// Longest side of the framed ink in pixels. Default: 5/7 of the smaller side of `size`. An
    /// extension.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ink_size: Option<u32>,
    /// Contrast above which a pixel counts as ink, from 0 (background) to 1 (strongest ink).
    /// Default: 0.2. An extension.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ink_threshold: Option<f32>,
    /// Resize to `size`. Default: `true` if there is a `size`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub do_resize: Option<bool>,
    /// Size after resizing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    /// Filter for resizing. Default: 2, bilinear.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resample: Option<Resample>,
    /// Cut `crop_size` out of the middle. Where the image is smaller, the rest is filled with 0.
    pub do_center_crop: bool,
    /// Size after cropping.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crop_size: Option<Size>,
    /// Multiply the levels, 0 to 255, by `rescale_factor`. Default: `true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub do_rescale: Option<bool>,
    /// Default: 1 / 255.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rescale_factor: Option<f64>,
    /// Subtract `image_mean` and divide by `image_std`. Default: `true` if there is an
    /// `image_mean`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub do_normalize: Option<bool>,
    /// One value per channel, in the scale after `do_rescale`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_mean: Option<Vec<f64>>,
    /// One value per channel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_std: Option<Vec<f64>>,
    /// Rejected if `true`: padding is not implemented.
    #[serde(skip_serializing)]
    pub do_pad: Option<bool>,
    /// Rejected if present: the crop of ConvNeXT processors is not implemented.
    #[serde(skip_serializing)]
    pub crop_pct: Option<f64>,
}
