//! Decodes images of every format.

use std::io::Cursor;

use image::metadata::Orientation;
use image::{DynamicImage, ImageBuffer, ImageDecoder, ImageFormat, ImageReader};

use super::header::Header;

/// Largest number of bytes that the PNG decoder may allocate for chunks, without the pixels.
const PNG_CHUNKS: usize = 4 << 20;

/// Decodes the pixels and applies the EXIF orientation. Fails with the decoder's message.
pub(super) fn decode(header: &Header<'_>) -> Result<DynamicImage, String> {
    let (orientation, mut image) = if header.format == ImageFormat::Png {
        decode_png(header)?
    } else {
        decode_others(header)?
    };
    image.apply_orientation(orientation);
    Ok(image)
}

/// Decodes a PNG. The decoder of [`image`] would also inflate its profiles and texts.
fn decode_png(header: &Header<'_>) -> Result<(Orientation, DynamicImage), String> {
    let text = |error: png::DecodingError| error.to_string();
    let chunks = png::Limits { bytes: PNG_CHUNKS };
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(header.bytes), chunks);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    decoder.set_transformations(png::Transformations::EXPAND);
    let mut reader = decoder.read_info().map_err(text)?;
    let orientation = reader.info().exif_metadata.as_deref();
    let orientation = orientation.and_then(Orientation::from_exif_chunk);
    let (width, height) = reader.info().size();
    check_size(header, width, height)?;
    let (color, depth) = reader.output_color_type();
    let line = reader
        .output_line_size(width)
        .ok_or("it is too large for this machine")?;
    let mut rows = Rows::new(depth, line * height as usize);
    if reader.info().interlaced {
        let mut pixels = vec![0; line * height as usize];
        reader.next_frame(&mut pixels).map_err(text)?;
        rows.add(pixels);
    } else {
        // Row by row, because the decoder would otherwise inflate what follows the last row.
        let mut row = vec![0; line];
        for _ in 0..height {
            reader.read_row(&mut row).map_err(text)?;
            rows.add_slice(&row);
        }
    }
    let image = rows.into_image(width, height, color);
    let image = image.ok_or_else(|| format!("its pixels are {color:?} of {depth:?} bits"))?;
    Ok((orientation.unwrap_or(Orientation::NoTransforms), image))
}

fn decode_others(header: &Header<'_>) -> Result<(Orientation, DynamicImage), String> {
    let text = |error: image::ImageError| error.to_string();
    let mut reader = ImageReader::with_format(Cursor::new(header.bytes), header.format);
    let mut limits = image::Limits::default();
    limits.max_alloc = Some(header.memory());
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(text)?;
    let (width, height) = decoder.dimensions();
    check_size(header, width, height)?;
    let orientation = decoder.orientation().map_err(text)?;
    let image = DynamicImage::from_decoder(decoder).map_err(text)?;
    Ok((orientation, image))
}

/// Stops a decoder that finds another size than the one that was held against the limits.
fn check_size(header: &Header<'_>, width: u32, height: u32) -> Result<(), String> {
    if (width, height) == (header.width, header.height) {
        return Ok(());
    }
    Err(format!(
        "it is {} x {} pixels in one place and {width} x {height} in another",
        header.width, header.height
    ))
}

/// Rows of a PNG, with 8 or 16 bits per channel.
enum Rows {
    Eight(Vec<u8>),
    Sixteen(Vec<u16>),
}

impl Rows {
    /// No rows, with capacity for `bytes` of the file.
    fn new(depth: png::BitDepth, bytes: usize) -> Self {
        if depth == png::BitDepth::Sixteen {
            Self::Sixteen(Vec::with_capacity(bytes / 2))
        } else {
            Self::Eight(Vec::with_capacity(bytes))
        }
    }

    fn add(&mut self, bytes: Vec<u8>) {
        match self {
            Self::Eight(pixels) if pixels.is_empty() => *pixels = bytes,
            _ => self.add_slice(&bytes),
        }
    }

    fn add_slice(&mut self, bytes: &[u8]) {
        match self {
            Self::Eight(pixels) => pixels.extend_from_slice(bytes),
            // A PNG has the high byte first.
            Self::Sixteen(pixels) => {
                pixels.extend(
                    bytes
                        .as_chunks::<2>()
                        .0
                        .iter()
                        .map(|level| u16::from_be_bytes(*level)),
                );
            }
        }
    }

    fn into_image(self, width: u32, height: u32, color: png::ColorType) -> Option<DynamicImage> {
        use png::ColorType::{Grayscale, GrayscaleAlpha, Indexed, Rgb, Rgba};
        match (self, color) {
            (Self::Eight(pixels), Grayscale) => {
                ImageBuffer::from_raw(width, height, pixels).map(DynamicImage::ImageLuma8)
            }
            (Self::Eight(pixels), GrayscaleAlpha) => {
                ImageBuffer::from_raw(width, height, pixels).map(DynamicImage::ImageLumaA8)
            }
            (Self::Eight(pixels), Rgb) => {
                ImageBuffer::from_raw(width, height, pixels).map(DynamicImage::ImageRgb8)
            }
            (Self::Eight(pixels), Rgba) => {
                ImageBuffer::from_raw(width, height, pixels).map(DynamicImage::ImageRgba8)
            }
            (Self::Sixteen(pixels), Grayscale) => {
                ImageBuffer::from_raw(width, height, pixels).map(DynamicImage::ImageLuma16)
            }
            (Self::Sixteen(pixels), GrayscaleAlpha) => {
                ImageBuffer::from_raw(width, height, pixels).map(DynamicImage::ImageLumaA16)
            }
            (Self::Sixteen(pixels), Rgb) => {
                ImageBuffer::from_raw(width, height, pixels).map(DynamicImage::ImageRgb16)
            }
            (Self::Sixteen(pixels), Rgba) => {
                ImageBuffer::from_raw(width, height, pixels).map(DynamicImage::ImageRgba16)
            }
            (_, Indexed) => None,
        }
    }
}
