//! The structure of an encoded image: what decoding it takes, without decoding it.

use image::{DynamicImage, ImageFormat};

use super::ImageLimits;
use super::survey::{self, Stop, Survey};
use crate::error::ImageError;
use crate::formats;

/// Largest number of pixels, and largest file, that [`Header::is_small`] accepts. Decoding such an
/// image takes a fraction of a millisecond.
const SMALL_PIXELS: u64 = 96 * 96;
const SMALL_FILE: usize = 16 * 1024;

/// Blocks of a file that [`Header::read_start`] reads at most.
const FIRST_BLOCKS: usize = 1024;

/// An encoded image whose structure was read and is within the limits. Its pixels are still
/// encoded.
pub struct Header<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) format: ImageFormat,
    name: &'static str,
    survey: Survey,
    /// Width in pixels as stored, before the EXIF orientation is applied.
    pub width: u32,
    /// Height in pixels as stored, before the EXIF orientation is applied.
    pub height: u32,
}

impl<'a> Header<'a> {
    /// Reads the structure of an encoded image: the size of each part that would be decoded.
    ///
    /// Nothing is decompressed, but a file of many small blocks takes a while; see
    /// [`Self::read_start`].
    ///
    /// # Errors
    ///
    /// Fails if the format is unknown, if a part is larger than `limits` or if the structure is
    /// damaged.
    pub fn read(bytes: &'a [u8], limits: &ImageLimits) -> Result<Self, ImageError> {
        // There are fewer blocks than bytes, so this is never None.
        let header = Self::read_blocks(bytes, limits, usize::MAX)?;
        header.ok_or(ImageError::Empty)
    }

    /// Like [`Self::read`], in bounded time: `None` if there are more than about a thousand blocks
    /// before the pixels.
    ///
    /// # Errors
    ///
    /// As for [`Self::read`].
    pub fn read_start(bytes: &'a [u8], limits: &ImageLimits) -> Result<Option<Self>, ImageError> {
        Self::read_blocks(bytes, limits, FIRST_BLOCKS)
    }

    fn read_blocks(bytes: &'a [u8], limits: &ImageLimits, blocks: usize) -> Result<Option<Self>, ImageError> {
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

    /// Whether the image is decoded within a fraction of a millisecond.
    pub fn is_small(&self) -> bool {
        self.survey.pixels <= SMALL_PIXELS && self.bytes.len() <= SMALL_FILE
    }

    /// Number of pixels of the largest part that is decoded.
    pub fn pixels(&self) -> u64 {
        self.survey.pixels
    }

    /// Largest number of bytes that [`Self::decode`] and
    /// [`ImagePreprocessor::apply`](super::ImagePreprocessor::apply) hold at any time.
    pub fn memory(&self) -> u64 {
        self.survey.memory
    }

    /// Decodes the pixels and applies the EXIF orientation. Colour profiles and texts are not read.
    ///
    /// # Errors
    ///
    /// Fails if the pixels are damaged.
    pub fn decode(self) -> Result<DynamicImage, ImageError> {
        super::decoder::decode(&self).map_err(|reason| ImageError::Malformed {
            format: self.name,
            reason,
        })
    }
}

fn guess_format(bytes: &[u8]) -> Result<(ImageFormat, &'static str), ImageError> {
    if bytes.is_empty() {
        return Err(ImageError::Empty);
    }
    match formats::guess(bytes) {
        Some(format) => Ok((format.decoder, format.name)),
        None => Err(ImageError::UnknownFormat {
            found: hex::encode(&bytes[..bytes.len().min(8)]),
        }),
    }
}

/// Decodes an image: png, jpeg, webp, bmp, or the first frame of a gif. The content tells the
/// format.
///
/// # Errors
///
/// Fails if the format is unknown, if the image is larger than `limits` or if it is damaged.
pub fn decode(bytes: &[u8], limits: &ImageLimits) -> Result<DynamicImage, ImageError> {
    Header::read(bytes, limits)?.decode()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ImageLimits = ImageLimits::new(1000, 10_000);

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
    fn the_frame_of_a_gif_counts_if_it_is_larger_than_the_screen() {
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
    fn read_start_stops_in_a_file_of_many_blocks() {
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
    fn the_memory_of_lossless_webp_codes_counts() {
        // No transform, no cache; groups of codes for blocks of 4 x 4: an image without a cache
        // whose codes have one symbol each.
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
