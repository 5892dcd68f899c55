//! The structure of a WebP.

use super::super::codes;
use super::{Reader, Stop, Survey, conversion};

/// The bitstreams of a WebP that are decoded.
#[derive(Default)]
struct Streams {
    /// Width and height of the last stream; before the first one, of the canvas or frame.
    size: (u32, u32),
    /// Number of pixels of the largest stream.
    pixels: u64,
    lossy: bool,
    lossless: bool,
    alpha: bool,
    /// Bytes of memory for the prefix codes of the lossless streams.
    codes: u64,
}

impl Streams {
    /// Adds a chunk. Returns whether it holds pixels.
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

    /// Bytes per pixel while the streams are decoded.
    fn memory(&self) -> u64 {
        // Planes of brightness and colour, a quarter of the size for colour.
        let lossy = if self.lossy { 2 } else { 0 };
        // Four bytes per pixel, and the images of transforms and codes, with a sixteenth of the
        // pixels each.
        let lossless = if self.lossless { 5 } else { 0 };
        // A lossless image and one channel of it.
        let alpha = if self.alpha { 6 } else { 0 };
        lossy + lossless + alpha
    }
}

/// The next chunk of a WebP. Fails for a chunk that ends after the file, because a decoder would
/// allocate the length that it announces.
fn next_chunk<'a>(file: &mut Reader<'a>) -> Result<([u8; 4], Reader<'a>), Stop> {
    file.block()?;
    let name = file.array()?;
    let length = file.le32()? as usize;
    let content = Reader {
        rest: file.take(length)?,
        ..file.clone()
    };
    // Chunks are padded to an even length. The last byte of a file may be missing.
    file.rest = file.rest.get(length % 2..).unwrap_or_default();
    Ok((name, content))
}

pub(super) fn survey(mut file: Reader<'_>) -> Result<Survey, Stop> {
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
    // The decoder reads the lengths of the chunks after the pixels as well.
    while !file.rest.is_empty() {
        next_chunk(&mut file)?;
    }
    // An animation has a canvas and a frame in addition.
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
