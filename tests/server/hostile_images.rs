//! Small image files that decode to large images.

/// A lossless WebP of equal pixels: 28 bytes for any size.
pub(crate) fn flat_webp(width: u32, height: u32) -> Vec<u8> {
    // The signature; width and height minus 1, 14 bits each; no alpha; version 0.
    let sizes = u64::from(width - 1) | u64::from(height - 1) << 14;
    let mut bits = 0x2f | sizes << 8;
    // No transform, no colour cache, no groups of codes; then five codes with the single symbol 0.
    for code in 0..5 {
        bits |= 1 << (43 + 4 * code);
    }
    let mut file = b"RIFF\x14\0\0\0WEBPVP8L\x08\0\0\0".to_vec();
    file.extend(bits.to_le_bytes());
    file
}

/// A GIF whose first frame is larger than its screen. Its pixels are missing.
pub(crate) fn gif_of_large_frame(screen: (u16, u16), frame: (u16, u16)) -> Vec<u8> {
    let mut file = b"GIF89a".to_vec();
    file.extend(screen.0.to_le_bytes());
    file.extend(screen.1.to_le_bytes());
    // A palette of two colours.
    file.extend([0x80, 0, 0, 0, 0, 0, 255, 255, 255]);
    file.extend([0x2c, 0, 0, 0, 0]);
    file.extend(frame.0.to_le_bytes());
    file.extend(frame.1.to_le_bytes());
    // Clear code, one pixel, end code.
    file.extend([0, 2, 2, 0x44, 0x01, 0, 0x3b]);
    file
}

/// A lossy WebP whose bitstream is larger than its canvas.
pub(crate) fn webp_of_large_bitstream(canvas: (u32, u32), bitstream: (u16, u16)) -> Vec<u8> {
    let mut chunk = vec![0, 0, 0, 0x9d, 1, 0x2a];
    chunk.extend(bitstream.0.to_le_bytes());
    chunk.extend(bitstream.1.to_le_bytes());
    let mut file = b"RIFF\x28\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0".to_vec();
    file.extend(&(canvas.0 - 1).to_le_bytes()[..3]);
    file.extend(&(canvas.1 - 1).to_le_bytes()[..3]);
    file.extend(b"VP8 \x0a\0\0\0");
    file.extend(chunk);
    file
}

/// A deflate stream of this many zeros, at a thousandth of the length.
pub(crate) fn zeros(count: usize) -> Vec<u8> {
    // One block with the fixed codes. Codes are written from their highest bit, numbers from their
    // lowest.
    let mut bits = Bits::default();
    bits.add(0b011, 3);
    bits.add(0b0000_1100, 8);
    // 258 repetitions of the last byte: code 285 with distance 1.
    for _ in 0..count / 258 {
        bits.add(0b0_0000_1010_0011, 13);
    }
    for _ in 0..count % 258 {
        bits.add(0b0000_1100, 8);
    }
    bits.add(0, 7);
    let mut stream = vec![0x78, 1];
    stream.extend(bits.finish());
    let length = 1 + count / 258 * 258 + count % 258;
    let checksum = ((length % 65_521) as u32) << 16 | 1;
    stream.extend(checksum.to_be_bytes());
    stream
}

/// A black PNG whose compressed pixels begin with this many empty blocks of 5 bytes.
pub(crate) fn png_of_empty_blocks(side: u32, blocks: usize) -> Vec<u8> {
    let image = image::GrayImage::new(side, side);
    let file = super::harness::encode(&image.into(), image::ImageFormat::Png);
    // A filter byte for each row, and its pixels.
    let pixels = vec![0; (side * (side + 1)) as usize];
    let length = pixels.len() as u16;
    let mut stream = vec![0x78, 1];
    stream.extend([0, 0, 0, 0xff, 0xff].repeat(blocks));
    stream.push(1);
    stream.extend(length.to_le_bytes());
    stream.extend((!length).to_le_bytes());
    stream.extend(&pixels);
    let checksum = u32::from(length) << 16 | 1;
    stream.extend(checksum.to_be_bytes());
    let (start, end) = (&file[..33], &file[file.len() - 12..]);
    [start, &chunk(*b"IDAT", &stream), end].concat()
}

#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    last: u32,
    count: u32,
}

impl Bits {
    /// Writes the lowest `count` bits of `bits`, the lowest first.
    fn add(&mut self, bits: u32, count: u32) {
        self.last |= bits << self.count;
        self.count += count;
        while self.count >= 8 {
            self.bytes.push(self.last as u8);
            self.last >>= 8;
            self.count -= 8;
        }
    }

    fn finish(mut self) -> Vec<u8> {
        self.add(0, 7);
        self.bytes
    }
}

/// A white PNG with these chunks before and after its pixels.
pub(crate) fn png_with(side: u32, before: &[(&[u8; 4], Vec<u8>)], after: &[(&[u8; 4], Vec<u8>)]) -> Vec<u8> {
    let image = image::GrayImage::from_pixel(side, side, image::Luma([255]));
    let file = super::harness::encode(&image.into(), image::ImageFormat::Png);
    // Signature and IHDR; IEND.
    let (start, end) = (33, file.len() - 12);
    let mut changed = file[..start].to_vec();
    changed.extend(before.iter().flat_map(|(name, content)| chunk(**name, content)));
    changed.extend(&file[start..end]);
    changed.extend(after.iter().flat_map(|(name, content)| chunk(**name, content)));
    changed.extend(&file[end..]);
    changed
}

fn chunk(name: [u8; 4], content: &[u8]) -> Vec<u8> {
    let mut chunk = (content.len() as u32).to_be_bytes().to_vec();
    chunk.extend(name);
    chunk.extend(content);
    let checksum = chunk[4..].iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            sum >> 1 ^ if sum & 1 == 1 { 0xedb8_8320 } else { 0 }
        })
    });
    chunk.extend((!checksum).to_be_bytes());
    chunk
}
