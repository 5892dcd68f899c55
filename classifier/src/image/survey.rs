//! What decoding a picture takes, from the structure of its file. Nothing is decompressed.
//!
//! A decoder allocates what each of its parts says, and the parts need not agree: the frame of a GIF may be larger than its
//! screen, the bitstream of a WebP larger than its canvas. Each of these sizes is held against the limits here.

use image::ImageFormat;

use super::{Limits, codes};

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Survey {
    /// Width of the picture in pixels.
    pub(super) width: u32,
    /// Its height.
    pub(super) height: u32,
    /// Pixels of the largest part that is decoded.
    pub(super) pixels: u64,
    /// Most bytes of memory at a time between the encoded picture and the row.
    pub(super) memory: u64,
}

/// Why there is no survey.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// A part is larger than the limits allow.
    TooLarge { width: u32, height: u32 },
    /// The file is not what its format asks for.
    Malformed(&'static str),
    /// There are more blocks before the pixels than were to be read.
    Unfinished,
}

pub(super) const ENDS_EARLY: Stop = Stop::Malformed("the file ends early");

/// What decoders take beside the pixels: tables, rows, profiles.
const OVERHEAD: u64 = 1 << 20;

/// Reads the structure of a picture as far as its first frame: at most `blocks` blocks of it.
pub(super) fn survey(
    format: ImageFormat,
    file: &[u8],
    limits: &Limits,
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
        ImageFormat::WebP => webp(reader),
        _ => bmp(reader),
    }?;
    survey.memory += OVERHEAD + file.len() as u64;
    Ok(survey)
}

/// Goes through a file.
#[derive(Clone)]
pub(super) struct Reader<'a> {
    pub(super) rest: &'a [u8],
    blocks: usize,
    limits: &'a Limits,
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

    /// To be called for each block, of which a file may have millions.
    pub(super) fn block(&mut self) -> Result<(), Stop> {
        self.blocks = self.blocks.checked_sub(1).ok_or(Stop::Unfinished)?;
        Ok(())
    }

    /// The number of pixels of a part, if it is within the limits.
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

/// Bytes a pixel while a decoded picture becomes 8-bit grey or red, green and blue; `copied` if it may be
/// copied as it is, to be turned.
fn conversion(channels: u64, bytes: u64, copied: bool) -> u64 {
    let pixel = channels * bytes;
    // With transparency by way of 8-bit RGBA, then laid over white.
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
    // The decoder stops after the last row; that the file is whole is seen here.
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
    // 16-bit levels of an interlaced picture are put into the order of this machine in a copy.
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
            // They have no length.
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
        // A progressive picture, or one whose components come one after the other, is kept as coefficients of 2 bytes until all
        // are there; there may be up to a block of 8 x 8 more of them on each side for each sampling factor.
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
                    // The frame is decoded apart from the screen unless it fits.
                    memory: (4 * (screen + frame)).max(screen * conversion(4, 1, false)),
                });
            }
            0x3b => return Err(Stop::Malformed("it has no frame")),
            _ => return Err(Stop::Malformed("it has a block of no known kind")),
        }
    }
}

/// The bitstreams of a WebP that are decoded.
#[derive(Default)]
struct Streams {
    /// Width and height of the last one, before it of what they are drawn on.
    size: (u32, u32),
    /// Pixels of the largest one.
    pixels: u64,
    lossy: bool,
    lossless: bool,
    alpha: bool,
    /// Bytes of memory for the codes of the lossless ones.
    codes: u64,
}

impl Streams {
    /// Takes in a chunk. Says whether it holds pixels.
    fn add(&mut self, name: [u8; 4], mut chunk: Reader<'_>) -> Result<bool, Stop> {
        let (width, height) = match &name {
            b"VP8 " => {
                chunk.take(6)?;
                self.lossy = true;
                (chunk.le16()? & 0x3fff, chunk.le16()? & 0x3fff)
            }
            b"VP8L" => {
                chunk.byte()?;
                let sizes = chunk.le32()?;
                self.lossless = true;
                let (width, height) = ((sizes & 0x3fff) + 1, (sizes >> 14 & 0x3fff) + 1);
                chunk.pixels(width, height)?;
                self.codes += codes::memory(&mut chunk, width, height)?;
                (width, height)
            }
            b"ALPH" => {
                self.alpha = true;
                if chunk.byte()? & 3 == 1 {
                    let (width, height) = self.size;
                    self.codes += codes::memory(&mut chunk, width, height)?;
                }
                return Ok(false);
            }
            _ => return Ok(false),
        };
        self.size = (width, height);
        self.pixels = self.pixels.max(chunk.pixels(width, height)?);
        Ok(true)
    }

    /// Bytes a pixel while they are decoded.
    fn memory(&self) -> u64 {
        // Planes of brightness and colour, a quarter of the size for colour.
        let lossy = if self.lossy { 2 } else { 0 };
        // Four bytes a pixel, and the images of its transforms and codes, which have a sixteenth of the pixels each.
        let lossless = if self.lossless { 5 } else { 0 };
        // A lossless picture, and one channel of it.
        let alpha = if self.alpha { 6 } else { 0 };
        lossy + lossless + alpha
    }
}

/// The next chunk of a WebP. One that goes beyond the end of the file is none: a decoder would allocate what it says.
fn next_chunk<'a>(file: &mut Reader<'a>) -> Result<([u8; 4], Reader<'a>), Stop> {
    file.block()?;
    let name = file.array()?;
    let length = file.le32()? as usize;
    let content = Reader {
        rest: file.take(length)?,
        ..file.clone()
    };
    // Chunks have an even length; the last byte of a file may be missing.
    file.rest = file.rest.get(length % 2..).unwrap_or_default();
    Ok((name, content))
}

fn webp(mut file: Reader<'_>) -> Result<Survey, Stop> {
    file.take(12)?;
    let (name, mut first) = next_chunk(&mut file)?;
    let mut streams = Streams::default();
    if &name != b"VP8X" {
        if !streams.add(name, first)? {
            return Err(Stop::Malformed("its first chunk holds no pixels"));
        }
        let ((width, height), pixels) = (streams.size, streams.pixels);
        return Ok(Survey {
            width,
            height,
            pixels,
            memory: streams.codes + pixels * (4 + streams.memory()).max(conversion(4, 1, false)),
        });
    }
    let flags = first.byte()?;
    first.take(3)?;
    let (width, height) = (first.le24()? + 1, first.le24()? + 1);
    let canvas = file.pixels(width, height)?;
    streams.size = (width, height);
    let animated = flags & 2 != 0;
    let turned = flags & 8 != 0;
    let mut found = false;
    while !found {
        let (name, mut content) = next_chunk(&mut file)?;
        if &name == b"ANMF" {
            content.take(6)?;
            let (width, height) = (content.le24()? + 1, content.le24()? + 1);
            streams.pixels = streams.pixels.max(file.pixels(width, height)?);
            streams.size = (width, height);
            content.take(4)?;
            while !found {
                let (name, part) = next_chunk(&mut content)?;
                found = streams.add(name, part)?;
            }
        } else {
            found = streams.add(name, content)? && !animated;
        }
    }
    // What comes after the pixels is read as well, if only its length.
    while !file.rest.is_empty() {
        next_chunk(&mut file)?;
    }
    // An animation is drawn on a canvas of its own, from a frame of its own.
    let drawing = if animated { 8 } else { 0 };
    let pixels = canvas.max(streams.pixels);
    let decoding = 4 + streams.memory() + drawing;
    Ok(Survey {
        width,
        height,
        pixels,
        memory: streams.codes + pixels * decoding.max(conversion(4, 1, turned)),
    })
}

fn bmp(mut file: Reader<'_>) -> Result<Survey, Stop> {
    file.take(14)?;
    let (width, height) = if file.le32()? == 12 {
        (file.le16()?, file.le16()?)
    } else {
        // A height below zero is that of a picture whose first row is the topmost.
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
