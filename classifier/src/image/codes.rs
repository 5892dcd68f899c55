//! The memory that the prefix codes of a lossless WebP take.
//!
//! About 60 bytes of a stream can announce up to 65,536 groups of five codes, each with a table of
//! 4 KiB. Their number follows the transforms, so the transforms have to be parsed as well.

use super::survey::{Reader, Stop};

/// The order in which the code lengths of the code for code lengths are stored.
const LENGTHS_ORDER: [usize; 19] = [17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// Bytes of one table of the decoder, and of the nodes for one symbol with a long code.
const TABLE: u64 = 4096 + 128;
const NODE: u64 = 32;

/// Largest number of bytes of codes per byte of the stream.
const GROWTH: u64 = 1024;

/// Number of symbols in the codes of a group, without those of its colour cache.
const SYMBOLS: u64 = 280 + 3 * 256 + 40;

/// Largest number of bytes for the codes of a stream, which begins with its transforms.
pub(super) fn memory(stream: &mut Reader<'_>, width: u32, height: u32) -> Result<u64, Stop> {
    let length = stream.rest.len() as u64;
    let mut bits = Bits {
        reader: stream,
        at: 0,
    };
    let mut width = width;
    let mut transforms = 0;
    while bits.take(1)? == 1 {
        let kind = bits.take(2)?;
        if transforms & 1 << kind != 0 {
            return Err(Stop::Malformed("it has a transform twice"));
        }
        transforms |= 1 << kind;
        match kind {
            0 | 1 => {
                let block = bits.take(3)? + 2;
                bits.image(parts(width, block), parts(height, block))?;
            }
            3 => {
                let colors = bits.take(8)? + 1;
                bits.image(colors, 1)?;
                let packed = match colors {
                    0..=2 => 3,
                    3..=4 => 2,
                    5..=16 => 1,
                    _ => 0,
                };
                width = parts(width, packed);
            }
            _ => {}
        }
    }
    let cache = bits.cache()?;
    let mut groups = 1;
    if bits.take(1)? == 1 {
        let block = bits.take(3)? + 2;
        groups = u64::from(bits.image(parts(width, block), parts(height, block))?) + 1;
    }
    let symbols = SYMBOLS + u64::from(cache);
    Ok((groups * (5 * TABLE + NODE * symbols)).min(GROWTH * length))
}

fn parts(side: u32, bits: u32) -> u32 {
    side.div_ceil(1 << bits)
}

/// A prefix code: the number of codes of each length, and the symbols in the order of their codes.
struct Code {
    counts: [u32; 16],
    symbols: Vec<u32>,
}

impl Code {
    fn new(lengths: &[u32]) -> Result<Self, Stop> {
        let mut code = Self {
            counts: [0; 16],
            symbols: Vec::new(),
        };
        for length in 1..16 {
            let of_length = (0_u32..).zip(lengths).filter(|(_, found)| **found == length);
            code.symbols.extend(of_length.map(|(symbol, _)| symbol));
            code.counts[length as usize] = lengths.iter().filter(|found| **found == length).count() as u32;
        }
        if code.symbols.is_empty() {
            return Err(Stop::Malformed("it has a code without symbols"));
        }
        Ok(code)
    }

    fn single(&self) -> Option<u32> {
        match self.symbols[..] {
            [symbol] => Some(symbol),
            _ => None,
        }
    }

    fn largest(&self, below: u32) -> u32 {
        let symbols = self.symbols.iter().copied();
        symbols.filter(|symbol| *symbol < below).max().unwrap_or(0)
    }
}

/// Reads bits, the lowest of a byte first.
struct Bits<'r, 'a> {
    reader: &'r mut Reader<'a>,
    at: usize,
}

impl Bits<'_, '_> {
    fn take(&mut self, count: u32) -> Result<u32, Stop> {
        let mut value = 0;
        for bit in 0..count {
            let byte = self
                .reader
                .rest
                .get(self.at / 8)
                .ok_or(super::survey::ENDS_EARLY)?;
            value |= u32::from(byte >> (self.at % 8) & 1) << bit;
            self.at += 1;
        }
        Ok(value)
    }

    fn symbol(&mut self, code: &Code) -> Result<u32, Stop> {
        if let Some(symbol) = code.single() {
            return Ok(symbol);
        }
        let (mut value, mut first, mut index) = (0, 0, 0);
        for count in &code.counts[1..] {
            value |= self.take(1)?;
            if value < first + count {
                let at = (index + value - first) as usize;
                return code.symbols.get(at).copied().ok_or(INCOMPLETE);
            }
            index += count;
            first = (first + count) << 1;
            value <<= 1;
        }
        Err(INCOMPLETE)
    }

    /// Reads the number of colours in the cache of an image.
    fn cache(&mut self) -> Result<u32, Stop> {
        if self.take(1)? == 0 {
            return Ok(0);
        }
        match self.take(4)? {
            bits @ 1..=11 => Ok(1 << bits),
            _ => Err(Stop::Malformed("its colour cache has an invalid size")),
        }
    }

    fn code(&mut self, alphabet: u32) -> Result<Code, Stop> {
        self.reader.block()?;
        if self.take(1)? == 1 {
            let two = self.take(1)? == 1;
            let wide = self.take(1)?;
            let mut symbols = vec![self.take(1 + 7 * wide)?];
            let mut counts = [0; 16];
            counts[1] = 1;
            if two {
                symbols.push(self.take(8)?);
                counts[1] = 2;
            }
            return Ok(Code { counts, symbols });
        }
        let mut lengths = [0; 19];
        let count = 4 + self.take(4)? as usize;
        for at in LENGTHS_ORDER.iter().take(count) {
            lengths[*at] = self.take(3)?;
        }
        let of_lengths = Code::new(&lengths)?;
        let mut left = alphabet;
        if self.take(1)? == 1 {
            let bits = 2 + 2 * self.take(3)?;
            left = 2 + self.take(bits)?;
        }
        let mut lengths = Vec::with_capacity(alphabet as usize);
        let mut previous = 8;
        while left > 0 && lengths.len() < alphabet as usize {
            left -= 1;
            let (length, times) = match self.symbol(&of_lengths)? {
                length @ 0..=15 => (length, 1),
                16 => (previous, 3 + self.take(2)?),
                17 => (0, 3 + self.take(3)?),
                _ => (0, 11 + self.take(7)?),
            };
            if length != 0 {
                previous = length;
            }
            lengths.extend(std::iter::repeat_n(length, times as usize));
        }
        if lengths.len() > alphabet as usize {
            return Err(Stop::Malformed("it has a code of too many symbols"));
        }
        Code::new(&lengths)
    }

    /// Skips an image with one group of codes. Returns the largest 16-bit number that its red and
    /// green channels can encode.
    fn image(&mut self, width: u32, height: u32) -> Result<u32, Stop> {
        let cache = self.cache()?;
        let green = self.code(280 + cache)?;
        let (red, blue, alpha) = (self.code(256)?, self.code(256)?, self.code(256)?);
        let distance = self.code(40)?;
        let largest = (red.largest(256) << 8) + green.largest(256);
        let channels = [&red, &blue, &alpha];
        if green.single().is_some_and(|symbol| symbol < 256)
            && channels.iter().all(|code| code.single().is_some())
        {
            return Ok(largest);
        }
        let pixels = u64::from(width) * u64::from(height);
        let mut done = 0;
        while done < pixels {
            self.reader.block()?;
            match self.symbol(&green)? {
                0..=255 => {
                    for code in channels {
                        self.symbol(code)?;
                    }
                    done += 1;
                }
                length @ 256..=279 => {
                    done += u64::from(self.number(length - 256)?);
                    let distance = self.symbol(&distance)?;
                    self.number(distance)?;
                }
                _ => done += 1,
            }
        }
        Ok(largest)
    }

    /// Reads a length or a distance, which is stored as a prefix and extra bits.
    fn number(&mut self, prefix: u32) -> Result<u32, Stop> {
        if prefix < 4 {
            return Ok(prefix + 1);
        }
        let extra = (prefix - 2) >> 1;
        if extra > 18 {
            return Err(Stop::Malformed("it has a distance that is too long"));
        }
        Ok(((2 + (prefix & 1)) << extra) + self.take(extra)? + 1)
    }
}

const INCOMPLETE: Stop = Stop::Malformed("it has an incomplete code");
