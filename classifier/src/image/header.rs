//! From an encoded picture to a decoded one, by way of what its file says about itself.

use std::io::Cursor;

use image::metadata::Orientation;
use image::{DynamicImage, ImageBuffer, ImageDecoder, ImageFormat, ImageReader};

use super::survey::{self, Stop, Survey};
use super::{ImageError, Limits, guess_format};

/// A picture with at most so many pixels, in a file of at most so many bytes, is decoded within a fraction of a millisecond.
const SMALL_PIXELS: u64 = 96 * 96;
const SMALL_FILE: usize = 16 * 1024;

/// Blocks of a file that are read for [`Header::read_start`].
const FIRST_BLOCKS: usize = 1024;

/// Most that the PNG decoder may allocate for chunks beside the pixels.
const PNG_CHUNKS: usize = 4 << 20;

/// A picture whose structure was read and found within the limits; its pixels are still encoded.
pub struct Header<'a> {
    bytes: &'a [u8],
    format: ImageFormat,
    name: &'static str,
    survey: Survey,
    /// Width in pixels as stored, before the EXIF orientation is applied.
    pub width: u32,
    /// Height in pixels as stored.
    pub height: u32,
}

impl<'a> Header<'a> {
    /// Reads the structure of an encoded picture: of each part that is decoded, the size. Takes longer the more blocks there are;
    /// nothing is decompressed.
    pub fn read(bytes: &'a [u8], limits: &Limits) -> Result<Self, ImageError> {
        // There are fewer blocks than bytes, so this is never None.
        let header = Self::read_blocks(bytes, limits, usize::MAX)?;
        header.ok_or(ImageError::Empty)
    }

    /// The same in a time that is bounded: none where the file has more than some thousand blocks before its pixels.
    pub fn read_start(bytes: &'a [u8], limits: &Limits) -> Result<Option<Self>, ImageError> {
        Self::read_blocks(bytes, limits, FIRST_BLOCKS)
    }

    fn read_blocks(bytes: &'a [u8], limits: &Limits, blocks: usize) -> Result<Option<Self>, ImageError> {
        let (format, name) = guess_format(bytes)?;
        match survey::survey(format, bytes, limits, blocks) {
            Ok(survey) => Ok(Some(Self {
                bytes,
                format,
                name,
                survey,
                width: survey.width,
                height: survey.height,
            })),
            Err(Stop::Unfinished) => Ok(None),
            Err(Stop::TooLarge { width, height }) => Err(ImageError::TooLarge {
                width,
                height,
                max_side: limits.max_side,
                max_pixels: limits.max_pixels,
            }),
            Err(Stop::Malformed(reason)) => Err(ImageError::Malformed {
                format: name,
                reason: reason.to_owned(),
            }),
        }
    }

    /// Whether it is decoded within a fraction of a millisecond.
    pub fn is_small(&self) -> bool {
        self.survey.pixels <= SMALL_PIXELS && self.bytes.len() <= SMALL_FILE
    }

    /// Pixels that are decoded.
    pub fn pixels(&self) -> u64 {
        self.survey.pixels
    }

    /// Most bytes of memory at a time for [`Self::decode`] and [`Preprocessor::apply`](super::Preprocessor::apply).
    pub fn memory(&self) -> u64 {
        self.survey.memory
    }

    /// Decodes the pixels and turns the picture the way its EXIF orientation says. Profiles and texts are not read.
    pub fn decode(self) -> Result<DynamicImage, ImageError> {
        let (orientation, mut picture) = if self.format == ImageFormat::Png {
            self.decode_png()
        } else {
            self.decode_others()
        }
        .map_err(|reason| ImageError::Malformed {
            format: self.name,
            reason,
        })?;
        picture.apply_orientation(orientation);
        Ok(picture)
    }

    /// The decoders of [`image`] read profiles and texts of a PNG, and inflate them.
    fn decode_png(&self) -> Result<(Orientation, DynamicImage), String> {
        let text = |error: png::DecodingError| error.to_string();
        let chunks = png::Limits { bytes: PNG_CHUNKS };
        let mut decoder = png::Decoder::new_with_limits(Cursor::new(self.bytes), chunks);
        decoder.set_ignore_text_chunk(true);
        decoder.set_ignore_iccp_chunk(true);
        decoder.set_transformations(png::Transformations::EXPAND);
        let mut reader = decoder.read_info().map_err(text)?;
        let orientation = reader.info().exif_metadata.as_deref();
        let orientation = orientation.and_then(Orientation::from_exif_chunk);
        let (width, height) = reader.info().size();
        self.check_size(width, height)?;
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
            // Not as a whole: the decoder would inflate what comes after the last row.
            let mut row = vec![0; line];
            for _ in 0..height {
                reader.read_row(&mut row).map_err(text)?;
                rows.add_slice(&row);
            }
        }
        let picture = rows.into_picture(width, height, color);
        let picture = picture.ok_or_else(|| format!("its pixels are {color:?} of {depth:?} bits"))?;
        Ok((orientation.unwrap_or(Orientation::NoTransforms), picture))
    }

    fn decode_others(&self) -> Result<(Orientation, DynamicImage), String> {
        let text = |error: image::ImageError| error.to_string();
        let mut reader = ImageReader::with_format(Cursor::new(self.bytes), self.format);
        // What a decoder may allocate beside the pixels.
        let mut limits = image::Limits::default();
        limits.max_alloc = Some(self.survey.memory);
        reader.limits(limits);
        let mut decoder = reader.into_decoder().map_err(text)?;
        let (width, height) = decoder.dimensions();
        self.check_size(width, height)?;
        let orientation = decoder.orientation().map_err(text)?;
        let picture = DynamicImage::from_decoder(decoder).map_err(text)?;
        Ok((orientation, picture))
    }

    /// A decoder that finds another size than was held against the limits must not go on.
    fn check_size(&self, width: u32, height: u32) -> Result<(), String> {
        if (width, height) == (self.width, self.height) {
            return Ok(());
        }
        Err(format!(
            "it is {} x {} pixels in one place and {width} x {height} in another",
            self.width, self.height
        ))
    }
}

/// Rows of a PNG, of 8 or 16 bits a channel.
enum Rows {
    Eight(Vec<u8>),
    Sixteen(Vec<u16>),
}

impl Rows {
    /// No row yet, with room for as many bytes of the file.
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

    fn into_picture(self, width: u32, height: u32, color: png::ColorType) -> Option<DynamicImage> {
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

/// Decodes a picture (png, jpeg, webp, bmp, or the first frame of a gif). The format is told by the content.
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<DynamicImage, ImageError> {
    Header::read(bytes, limits)?.decode()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        max_side: 1000,
        max_pixels: 10_000,
    };

    fn gif(screen: (u16, u16), blocks: &[u8], frame: (u16, u16)) -> Vec<u8> {
        let mut file = b"GIF89a".to_vec();
        file.extend(screen.0.to_le_bytes());
        file.extend(screen.1.to_le_bytes());
        file.extend([0, 0, 0]);
        file.extend(blocks);
        file.extend([0x2c, 0, 0, 0, 0]);
        file.extend(frame.0.to_le_bytes());
        file.extend(frame.1.to_le_bytes());
        file.extend([0, 2, 0, 0x3b]);
        file
    }

    fn webp(chunks: &[(&[u8; 4], Vec<u8>)]) -> Vec<u8> {
        let mut content = b"WEBP".to_vec();
        for (name, chunk) in chunks {
            content.extend(*name);
            content.extend((chunk.len() as u32).to_le_bytes());
            content.extend(chunk);
            content.resize(content.len().next_multiple_of(2), 0);
        }
        let mut file = b"RIFF".to_vec();
        file.extend((content.len() as u32).to_le_bytes());
        file.extend(content);
        file
    }

    fn canvas(flags: u8, width: u32, height: u32) -> Vec<u8> {
        let mut chunk = vec![flags, 0, 0, 0];
        chunk.extend(&(width - 1).to_le_bytes()[..3]);
        chunk.extend(&(height - 1).to_le_bytes()[..3]);
        chunk
    }

    fn lossy(width: u16, height: u16) -> Vec<u8> {
        let mut chunk = vec![0, 0, 0, 0x9d, 1, 0x2a];
        chunk.extend(width.to_le_bytes());
        chunk.extend(height.to_le_bytes());
        chunk
    }

    fn lossless(width: u32, height: u32) -> Vec<u8> {
        let mut chunk = vec![0x2f];
        chunk.extend(((width - 1) | ((height - 1) << 14)).to_le_bytes());
        // No transform, no cache, one group of five codes with the one symbol 0.
        chunk.extend(0x8_8888_u32.to_le_bytes());
        chunk
    }

    fn frame(width: u32, height: u32, content: Vec<u8>) -> Vec<u8> {
        let mut chunk = vec![0; 6];
        chunk.extend(&(width - 1).to_le_bytes()[..3]);
        chunk.extend(&(height - 1).to_le_bytes()[..3]);
        chunk.extend([0; 4]);
        chunk.extend(content);
        chunk
    }

    fn part(name: [u8; 4], content: Vec<u8>) -> Vec<u8> {
        webp(&[(&name, content)])[12..].to_vec()
    }

    fn found(file: &[u8]) -> Result<(u64, bool), ImageError> {
        let header = Header::read(file, &LIMITS)?;
        Ok((header.pixels(), header.is_small()))
    }

    fn too_large(width: u32, height: u32) -> Result<(u64, bool), ImageError> {
        Err(ImageError::TooLarge {
            width,
            height,
            max_side: 1000,
            max_pixels: 10_000,
        })
    }

    #[test]
    fn the_frame_of_a_gif_counts_where_it_is_larger_than_the_screen() {
        assert_eq!(found(&gif((10, 10), &[], (100, 100))), Ok((10_000, false)));
        assert_eq!(found(&gif((10, 10), &[], (9, 9))), Ok((100, true)));
        assert_eq!(found(&gif((10, 10), &[], (101, 100))), too_large(101, 100));
        assert_eq!(found(&gif((101, 100), &[], (10, 10))), too_large(101, 100));
    }

    #[test]
    fn every_bitstream_of_a_webp_counts() {
        let still = |content: (&'static [u8; 4], Vec<u8>)| webp(&[(b"VP8X", canvas(0, 10, 10)), content]);
        let animation = |content: Vec<u8>| {
            let frame = frame(10, 10, content);
            webp(&[
                (b"VP8X", canvas(2, 10, 10)),
                (b"ANIM", vec![0; 6]),
                (b"ANMF", frame),
            ])
        };
        assert_eq!(found(&webp(&[(b"VP8 ", lossy(10, 10))])), Ok((100, true)));
        assert_eq!(found(&webp(&[(b"VP8L", lossless(10, 10))])), Ok((100, true)));
        assert_eq!(found(&webp(&[(b"VP8 ", lossy(101, 100))])), too_large(101, 100));
        assert_eq!(
            found(&webp(&[(b"VP8L", lossless(101, 100))])),
            too_large(101, 100)
        );
        assert_eq!(found(&still((b"VP8 ", lossy(10, 10)))), Ok((100, true)));
        assert_eq!(found(&still((b"VP8 ", lossy(101, 100)))), too_large(101, 100));
        assert_eq!(found(&still((b"VP8L", lossless(101, 100)))), too_large(101, 100));
        assert_eq!(found(&animation(part(*b"VP8 ", lossy(10, 10)))), Ok((100, true)));
        assert_eq!(
            found(&animation(part(*b"VP8 ", lossy(101, 100)))),
            too_large(101, 100)
        );
        let mut alpha = part(*b"ALPH", vec![0; 4]);
        alpha.extend(part(*b"VP8 ", lossy(101, 100)));
        assert_eq!(found(&animation(alpha)), too_large(101, 100));
        let large_frame = frame(101, 100, part(*b"VP8 ", lossy(10, 10)));
        let animation = webp(&[(b"VP8X", canvas(2, 10, 10)), (b"ANMF", large_frame)]);
        assert_eq!(found(&animation), too_large(101, 100));
    }

    #[test]
    fn a_chunk_that_is_longer_than_its_file_is_not_allocated() {
        let mut file = webp(&[
            (b"VP8X", canvas(8, 10, 10)),
            (b"VP8L", lossless(10, 10)),
            (b"EXIF", vec![0; 4]),
        ]);
        assert_eq!(found(&file), Ok((100, true)));
        let length = file.len() - 8;
        file[length..length + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        let error = found(&file).unwrap_err();
        assert!(error.to_string().contains("ends early"), "{error}");
    }

    #[test]
    fn a_file_of_very_many_blocks_is_not_read_to_its_end_at_once() {
        let mut comment = vec![0x21, 0xfe];
        comment.extend([1, b' '].repeat(5000));
        comment.push(0);
        let file = gif((10, 10), &comment, (10, 10));
        assert!(Header::read_start(&file, &LIMITS).unwrap().is_none());
        assert_eq!(found(&file), Ok((100, true)));
        let file = gif((10, 10), &[0x21, 0xfe, 1, b' ', 0], (10, 10));
        assert!(Header::read_start(&file, &LIMITS).unwrap().is_some());
    }

    #[test]
    fn the_codes_of_a_lossless_webp_count() {
        // No transform, no cache; groups of codes for blocks of 4 x 4: an image without a cache whose codes have one symbol each.
        let groups = |red: u64, green: u64| {
            let symbol = |symbol: u64| symbol << 3 | 0b101;
            let codes = [symbol(green), symbol(red), symbol(0), symbol(0), symbol(0)];
            let codes = codes
                .iter()
                .rev()
                .fold(0_u128, |all, code| all << 11 | u128::from(*code));
            let bits = 0b100_u128 | codes << 7;
            let mut chunk = lossless(100, 100)[..5].to_vec();
            chunk.extend(bits.to_le_bytes());
            chunk.resize(1_000_000, 0);
            chunk
        };
        let memory = |chunk: Vec<u8>| {
            let file = webp(&[(b"VP8L", chunk)]);
            Header::read(&file, &LIMITS).map(|header| header.memory())
        };
        let few = memory(groups(0, 1)).unwrap();
        assert!(few < 5_000_000, "{few}");
        let many = memory(groups(255, 255)).unwrap();
        assert!(many > 1_000_000_000, "{many}");
        let missing = memory(lossless(100, 100)[..5].to_vec()).unwrap_err();
        assert!(missing.to_string().contains("ends early"), "{missing}");
    }

    #[test]
    fn a_long_file_is_not_small() {
        let mut file = gif((10, 10), &[], (10, 10));
        file.resize(SMALL_FILE, 0);
        assert_eq!(found(&file), Ok((100, true)));
        file.push(0);
        assert_eq!(found(&file), Ok((100, false)));
    }
}
