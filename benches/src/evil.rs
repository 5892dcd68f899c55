//! Images that take far more memory or time to decode than their size suggests.

use flate2::{Compression, Crc, FlushCompress};
use image::codecs::jpeg::JpegEncoder;

/// A lossless WebP of 16,383 x 2,048 equal pixels in 28 bytes.
pub fn small_webp() -> Vec<u8> {
    let mut bits = Bits::default();
    bits.put(0x2f, 8);
    bits.put(16_383 - 1, 14);
    bits.put(2_048 - 1, 14);
    // No alpha, version 0; no transform, no colour cache, no groups of codes.
    bits.put(0, 7);
    for _ in 0..5 {
        // A prefix code with the single symbol 0: its pixels take no bits at all.
        bits.put(0b0001, 4);
    }
    let data = bits.into_bytes();
    let length = |bytes: usize| (bytes as u32).to_le_bytes();
    [
        b"RIFF",
        &length(12 + data.len())[..],
        b"WEBPVP8L",
        &length(data.len()),
        &data,
    ]
    .concat()
}

/// A GIF with a screen of 8 x 8 and a far larger frame of one colour.
pub fn gif_with_frame(width: u16, height: u16) -> Vec<u8> {
    gif((8, 8), (width, height))
}

fn gif(screen: (u16, u16), frame: (u16, u16)) -> Vec<u8> {
    /// LZW codes for pixels of two bits: the two control codes, the first free code, and the number
    /// of codes.
    const CLEAR: u32 = 4;
    const END: u32 = 5;
    const FIRST: u32 = 6;
    const CODES: u32 = 4096;

    let mut bits = Bits::default();
    let mut width = 3;
    let mut missing = i64::from(frame.0) * i64::from(frame.1);
    while missing > 0 {
        bits.put(CLEAR, width);
        // One pixel. Each code after it stands for a run that is one pixel longer than the last.
        width = 3;
        bits.put(0, width);
        missing -= 1;
        for (code, run) in (FIRST..CODES).zip(2_i64..) {
            if missing <= 0 {
                break;
            }
            bits.put(code, width);
            missing -= run;
            width = (u32::BITS - (code + 1).leading_zeros()).clamp(3, 12);
        }
    }
    bits.put(END, width);
    let mut file = b"GIF89a".to_vec();
    file.extend([screen.0, screen.1].map(u16::to_le_bytes).concat());
    // A palette of two colours, and the frame at the upper left corner.
    file.extend(b"\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0");
    file.extend([frame.0, frame.1].map(u16::to_le_bytes).concat());
    // No palette of its own; pixels of two bits.
    file.extend([0, 2]);
    for block in bits.into_bytes().chunks(255) {
        file.push(block.len() as u8);
        file.extend_from_slice(block);
    }
    file.extend([0, b';']);
    file
}

/// A PNG of 8 x 8 with a colour profile of `length` zeros.
pub fn png_with_profile(length: usize) -> Vec<u8> {
    let profile = [b"p\0\0", zeros(length).as_slice()].concat();
    png(8, 8, 8, 0, &[(b"iCCP", profile)], &zeros(9 * 8))
}

/// A PNG of 96 x 96 with `length` bytes of empty IDAT chunks.
pub fn empty_blocks(length: usize) -> Vec<u8> {
    const BLOCK: usize = 12;
    let blocks = vec![(b"IDAT", Vec::new()); length / BLOCK];
    png(96, 96, 8, 0, &blocks, &zeros(97 * 96))
}

/// A black PNG with four channels of 16 bits.
pub fn deep_png(width: u32, height: u32) -> Vec<u8> {
    let row = 1 + 8 * width as usize;
    png(width, height, 16, 6, &[], &zeros(row * height as usize))
}

/// A JPEG of noise, 1.4 MB long if `scale` is 1.
pub fn photo(scale: f64) -> Vec<u8> {
    let (width, height) = ((1_600.0 * scale) as u32, (1_200.0 * scale) as u32);
    let mut state = 1_u32;
    let noise = image::RgbImage::from_fn(width.max(1), height.max(1), |_, _| {
        image::Rgb(std::array::from_fn(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        }))
    });
    let mut file = Vec::new();
    // Cannot fail: it writes to memory, and a JPEG may have this size.
    let _ = JpegEncoder::new_with_quality(&mut file, 75).encode_image(&noise);
    file
}

fn png(
    width: u32,
    height: u32,
    depth: u8,
    colour: u8,
    more: &[(&[u8; 4], Vec<u8>)],
    pixels: &[u8],
) -> Vec<u8> {
    let mut header = [width.to_be_bytes(), height.to_be_bytes()].concat();
    header.extend([depth, colour, 0, 0, 0]);
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    chunk(&mut file, *b"IHDR", &header);
    for (kind, content) in more {
        chunk(&mut file, **kind, content);
    }
    chunk(&mut file, *b"IDAT", pixels);
    chunk(&mut file, *b"IEND", &[]);
    file
}

fn chunk(file: &mut Vec<u8>, kind: [u8; 4], content: &[u8]) {
    let mut sum = Crc::new();
    sum.update(&kind);
    sum.update(content);
    file.extend((content.len() as u32).to_be_bytes());
    file.extend(&kind);
    file.extend(content);
    file.extend(sum.sum().to_be_bytes());
}

/// `count` zeros, compressed by zlib. One block is compressed and repeated, because compressing
/// some hundred MB would take seconds.
fn zeros(count: usize) -> Vec<u8> {
    const BLOCK: usize = 1 << 20;
    let block = complete(&vec![0; BLOCK]);
    let mut file = vec![0x78, 0xda];
    file.extend(block.repeat(count / BLOCK));
    file.extend(complete(&vec![0; count % BLOCK]));
    // The last block, which is empty, and the Adler-32 sum: for zeros 1 and their number.
    file.extend([3, 0]);
    file.extend(((count % 65_521) as u16).to_be_bytes());
    file.extend([0, 1]);
    file
}

/// Deflate blocks that refer to nothing before them and end at a byte boundary.
fn complete(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::Compress::new(Compression::best(), false);
    let mut compressed = Vec::with_capacity(bytes.len() / 100 + 1024);
    // Cannot fail: the buffer is large enough for compressed zeros.
    let _ = encoder.compress_vec(bytes, &mut compressed, FlushCompress::Full);
    compressed
}

/// Writes bits, the lowest bit of each byte first.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    rest: u64,
    count: u32,
}

impl Bits {
    fn put(&mut self, value: u32, bits: u32) {
        self.rest |= u64::from(value) << self.count;
        self.count += bits;
        while self.count >= 8 {
            self.bytes.push(self.rest as u8);
            self.rest >>= 8;
            self.count -= 8;
        }
    }

    fn into_bytes(mut self) -> Vec<u8> {
        if self.count > 0 {
            self.bytes.push(self.rest as u8);
        }
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Read as _};

    use classifier::ImageLimits;
    use classifier::image::decode;

    use super::*;

    const LARGE: ImageLimits = ImageLimits::new(16_384, 1 << 25);

    #[test]
    fn an_image_of_28_bytes_has_33_million_pixels() {
        let file = small_webp();
        assert_eq!(file.len(), 28);
        let format = image::guess_format(&file).unwrap();
        let reader = image::ImageReader::with_format(Cursor::new(&file), format);
        assert_eq!(reader.into_dimensions().unwrap(), (16_383, 2_048));
    }

    #[test]
    fn compressed_zeros_have_the_requested_length() {
        let count = (3 << 20) + 5;
        let mut read = Vec::new();
        flate2::read::ZlibDecoder::new(&zeros(count)[..])
            .read_to_end(&mut read)
            .unwrap();
        assert_eq!(read, vec![0; count]);
    }

    #[test]
    fn the_other_files_are_valid_images() {
        for (file, size) in [
            (empty_blocks(1200), (96, 96)),
            (deep_png(300, 200), (300, 200)),
            (png_with_profile(5000), (8, 8)),
        ] {
            let image = decode(&file, &LARGE).unwrap();
            assert_eq!((image.width(), image.height()), size);
        }
        assert!(decode(&photo(0.1), &LARGE).is_ok());
    }

    #[test]
    fn a_gif_frame_is_complete() {
        // Large enough to fill the table of codes, so that it is cleared.
        let size = (4096, 4096);
        let image = decode(&gif(size, size), &LARGE).unwrap();
        assert_eq!((image.width(), image.height()), (4096, 4096));
        assert!(image.to_luma8().iter().all(|&level| level == 0));
    }
}
