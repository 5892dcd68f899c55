//! Reads from the structure of an image file what decoding it takes. Nothing is decompressed.
//!
//! A decoder allocates what each part of the file announces, and the parts need not agree: the
//! frame of a GIF may be larger than its screen, the bitstream of a WebP larger than its canvas.
//! Each of these sizes is held against the limits here.

use image::ImageFormat;

use super::ImageLimits;

mod webp;

/// What decoding takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Survey {
    pub(super) width: u32,
    pub(super) height: u32,
    /// Pixels of the largest part that is decoded.
    pub(super) pixels: u64,
    /// Largest number of bytes held at any time between the encoded image and the row.
    pub(super) memory: u64,
}

/// Why there is no survey.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// A part is larger than the limits allow.
    TooLarge { width: u32, height: u32 },
    /// The file breaks the rules of its format.
    Malformed(&'static str),
    /// There are more blocks before the pixels than may be read.
    Unfinished,
}

pub(super) const ENDS_EARLY: Stop = Stop::Malformed("the file ends early");

/// Bytes that decoders take in addition to the pixels: tables, rows, profiles.
const OVERHEAD: u64 = 1 << 20;

/// Reads the structure of an image up to its first frame, at most `blocks` blocks of it.
pub(super) fn survey(
    format: ImageFormat,
    file: &[u8],
    limits: &ImageLimits,
    blocks: usize,
) -> Result<Survey, Stop> {
    let reader = Reader {
        rest: file,
        blocks,
        limits,
    };
    let mut survey = match format {
        ImageFormat::Png => png(reader),
        ImageFormat::Jpeg => jpeg(reader),
        ImageFormat::Gif => gif(reader),
        ImageFormat::WebP => webp::survey(reader),
        _ => bmp(reader),
    }?;
    survey.memory += OVERHEAD + file.len() as u64;
    Ok(survey)
}

/// Reads a file from its start to its end.
#[derive(Clone)]
pub(super) struct Reader<'a> {
    pub(super) rest: &'a [u8],
    blocks: usize,
    limits: &'a ImageLimits,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Stop> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(ENDS_EARLY)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        self.take(N)?.try_into().map_err(|_| ENDS_EARLY)
    }

    fn byte(&mut self) -> Result<u8, Stop> {
        self.array().map(u8::from_le_bytes)
    }

    fn be16(&mut self) -> Result<u32, Stop> {
        self.array().map(u16::from_be_bytes).map(u32::from)
    }

    fn be32(&mut self) -> Result<u32, Stop> {
        self.array().map(u32::from_be_bytes)
    }

    fn le16(&mut self) -> Result<u32, Stop> {
        self.array().map(u16::from_le_bytes).map(u32::from)
    }

    fn le24(&mut self) -> Result<u32, Stop> {
        let [low, middle, high] = self.array()?;
        Ok(u32::from_le_bytes([low, middle, high, 0]))
    }

    fn le32(&mut self) -> Result<u32, Stop> {
        self.array().map(u32::from_le_bytes)
    }

    /// Counts a block. A file may have millions of them.
    pub(super) fn block(&mut self) -> Result<(), Stop> {
        self.blocks = self.blocks.checked_sub(1).ok_or(Stop::Unfinished)?;
        Ok(())
    }

    /// Number of pixels of a part. Fails if it is not within the limits.
    fn pixels(&self, width: u32, height: u32) -> Result<u64, Stop> {
        let pixels = u64::from(width) * u64::from(height);
        if pixels == 0 {
            return Err(Stop::Malformed("it has no pixels"));
        }
        let limits = self.limits;
        if width > limits.max_side || height > limits.max_side || pixels > limits.max_pixels {
            return Err(Stop::TooLarge { width, height });
        }
        Ok(pixels)
    }
}

/// Bytes per pixel while a decoded image is converted to 8-bit grey or RGB. `copied`: the decoded
/// image may be copied first, to apply its orientation.
fn conversion(channels: u64, bytes: u64, copied: bool) -> u64 {
    let pixel = channels * bytes;
    // With transparency: through 8-bit RGBA, which is then laid over white.
    let by_way_of = match (channels, bytes) {
        (2 | 4, 1) => 7,
        (2 | 4, _) => pixel + 4,
        (_, 1) => 4,
        _ => pixel + 3,
    };
    if copied {
        by_way_of.max(2 * pixel)
    } else {
        by_way_of
    }
}

fn png(mut file: Reader<'_>) -> Result<Survey, Stop> {
    file.take(8)?;
    if file.take(8)?.get(4..) != Some(b"IHDR") {
        return Err(Stop::Malformed("its first chunk is not IHDR"));
    }
    let (width, height) = (file.be32()?, file.be32()?);
    let pixels = file.pixels(width, height)?;
    let (depth, color) = (file.byte()?, file.byte()?);
    let mut channels = match color {
        0 => 1,
        4 => 2,
        6 => 4,
        _ => 3,
    };
    file.take(2)?;
    let interlaced = file.byte()? != 0;
    // The checksum.
    file.take(4)?;
    let mut turned = false;
    let mut has_pixels = false;
    // The decoder stops after the last row, so this loop is what notices a file that was cut off.
    while !(has_pixels && file.rest.is_empty()) {
        file.block()?;
        let length = file.be32()?;
        match &file.array()? {
            b"IDAT" => has_pixels = true,
            b"IEND" if !has_pixels => return Err(Stop::Malformed("it ends before its pixels")),
            _ if has_pixels => break,
            b"tRNS" if channels % 2 == 1 => channels += 1,
            b"eXIf" => turned = true,
            _ => {}
        }
        file.take(length as usize)?;
        file.take(4)?;
    }
    let bytes = if depth == 16 { 2 } else { 1 };
    // The 16-bit levels of an interlaced image are converted to native byte order in a copy.
    let copied = turned || interlaced && depth == 16;
    Ok(Survey {
        width,
        height,
        pixels,
        memory: pixels * conversion(channels, bytes, copied),
    })
}

fn jpeg(mut file: Reader<'_>) -> Result<Survey, Stop> {
    file.take(2)?;
    let mut turned = false;
    loop {
        file.block()?;
        if file.byte()? != 0xff {
            continue;
        }
        let marker = loop {
            match file.byte()? {
                0xff => file.block()?,
                marker => break marker,
            }
        };
        match marker {
            // These markers have no length.
            0x00 | 0x01 | 0xd0..=0xd8 => continue,
            0xd9 | 0xda => return Err(Stop::Malformed("its pixels come before its size")),
            0xe1 => turned = true,
            _ => {}
        }
        let length = file.be16()?.checked_sub(2);
        let mut segment = Reader {
            rest: file.take(length.ok_or(Stop::Malformed("a segment is too short"))? as usize)?,
            ..file.clone()
        };
        if !(0xc0..=0xcf).contains(&marker) || [0xc4, 0xc8, 0xcc].contains(&marker) {
            continue;
        }
        segment.byte()?;
        let (height, width) = (segment.be16()?, segment.be16()?);
        let pixels = file.pixels(width, height)?;
        let components = u64::from(segment.byte()?);
        let (mut samples, mut most) = (0, (1, 1));
        for _ in 0..components {
            let [_, factors, _] = segment.array()?;
            let (across, down) = (u64::from(factors >> 4), u64::from(factors & 15));
            samples += across * down;
            most = (most.0.max(across), most.1.max(down));
        }
        let channels = if components == 1 { 1 } else { 3 };
        // A progressive image, or one with separate components, is kept as coefficients of 2 bytes
        // until all of them are read. Sampling factors pad it by up to one block of 8 x 8 each per
        // side.
        let padded = (u64::from(width) + 8 * most.0) * (u64::from(height) + 8 * most.1);
        let coefficients = padded * 2 * samples / (most.0 * most.1);
        return Ok(Survey {
            width,
            height,
            pixels,
            memory: (pixels * channels + coefficients).max(pixels * conversion(channels, 1, turned)),
        });
    }
}

fn gif(mut file: Reader<'_>) -> Result<Survey, Stop> {
    let colors = |flags: u8| {
        if flags & 0x80 == 0 {
            0
        } else {
            3 << ((flags & 7) + 1)
        }
    };
    file.take(6)?;
    let (width, height) = (file.le16()?, file.le16()?);
    let screen = file.pixels(width, height)?;
    let flags = file.byte()?;
    file.take(2 + colors(flags))?;
    loop {
        file.block()?;
        match file.byte()? {
            // An extension.
            0x21 => {
                file.byte()?;
                loop {
                    file.block()?;
                    match file.byte()? {
                        0 => break,
                        length => file.take(usize::from(length))?,
                    };
                }
            }
            // A frame.
            0x2c => {
                file.take(4)?;
                let frame = {
                    let (width, height) = (file.le16()?, file.le16()?);
                    file.pixels(width, height)?
                };
                return Ok(Survey {
                    width,
                    height,
                    pixels: screen.max(frame),
                    // A frame that does not have the screen's size gets its own buffer.
                    memory: (4 * (screen + frame)).max(screen * conversion(4, 1, false)),
                });
            }
            0x3b => return Err(Stop::Malformed("it has no frame")),
            _ => return Err(Stop::Malformed("it has a block of an unknown kind")),
        }
    }
}

fn bmp(mut file: Reader<'_>) -> Result<Survey, Stop> {
    file.take(14)?;
    let (width, height) = if file.le32()? == 12 {
        (file.le16()?, file.le16()?)
    } else {
        // A negative height means that the topmost row comes first.
        let side = |side: u32| side.cast_signed().unsigned_abs();
        (side(file.le32()?), side(file.le32()?))
    };
    let pixels = file.pixels(width, height)?;
    Ok(Survey {
        width,
        height,
        pixels,
        memory: pixels * conversion(4, 1, false),
    })
}
