//! The tokenizer of a text classifier.

mod read;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use super::{Padding, Tokens, Truncation};
use crate::error::TextError;

/// With [`Truncation::HeadTail`], one in this many tokens is kept from the beginning. Sun et al.
/// found this split best for IMDb reviews: 128 of 510 tokens ("How to Fine-Tune BERT for Text
/// Classification?", 2019).
const HEAD_PART: usize = 4;

/// Bytes of a text that are read at first for each token that is needed. English has 5 to 6 bytes
/// per word with its space, and 3 to 4 per token of a review, punctuation included.
const BYTES_PER_TOKEN: usize = 8;
/// Largest number of bytes that are read for each token that is needed, for a text with few tokens
/// for its length. It bounds time and memory: a tokenizer takes up to 100 bytes per byte of text.
const MOST_BYTES_PER_TOKEN: usize = 256;
/// Number of tokens next to a cut that may differ from those of the whole text.
const UNSURE: usize = 32;

/// Turns texts into token ids. Cheap to clone.
///
/// ```
/// use classifier::text::{TextServing, Tokenizer};
///
/// # let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/models/words/1");
/// let tokenizer = Tokenizer::read(directory.as_ref(), &TextServing::default())?;
/// let tokens = tokenizer.encode("apple banana")?;
/// assert_eq!((tokens.ids.len(), tokens.truncated), (2, false));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Tokenizer {
    /// The content of `tokenizer.json`, without its truncation and padding.
    pipeline: Arc<tokenizers::Tokenizer>,
    /// Special tokens before those of the text.
    prefix: Vec<i64>,
    /// Special tokens after those of the text.
    suffix: Vec<i64>,
    max_length: usize,
    truncation: Truncation,
    padding: Padding,
    buckets: Vec<usize>,
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("max_length", &self.max_length)
            .field("truncation", &self.truncation)
            .field("padding", &self.padding)
            .field("buckets", &self.buckets)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Largest number of tokens of a text, special tokens included.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// Largest number of bytes of a text that are tokenised, however long it is.
    pub fn most_read(&self) -> usize {
        (self.max_length + UNSURE).saturating_mul(MOST_BYTES_PER_TOKEN)
    }

    /// The part of a text that is kept if it is too long.
    pub fn truncation(&self) -> Truncation {
        self.truncation
    }

    /// How shorter rows are padded.
    pub fn padding(&self) -> Padding {
        self.padding
    }

    /// The lengths that texts are padded to, in ascending order. The last one is
    /// [`Self::max_length`].
    pub fn buckets(&self) -> &[usize] {
        &self.buckets
    }

    /// The length that a text of `tokens` tokens is padded to.
    pub fn bucket(&self, tokens: usize) -> usize {
        let at = self.buckets.partition_point(|&bucket| bucket < tokens);
        self.buckets.get(at).copied().unwrap_or(self.max_length)
    }

    /// A row of `length` tokens to warm up a session with. All of them are the last word of the
    /// vocabulary, so that a graph with fewer embeddings fails then, and not for a real text.
    pub fn blank(&self, length: usize) -> Vec<i64> {
        let last = self.pipeline.get_vocab_size(true).saturating_sub(1);
        vec![last as i64; length]
    }

    /// Tokenises a text and cuts it to [`Self::max_length`].
    ///
    /// At most [`Self::most_read`] bytes are tokenised, so time and memory do not grow with the
    /// text.
    ///
    /// # Errors
    ///
    /// Fails if no token is left after normalisation, or if the tokenizer fails.
    pub fn encode(&self, text: &str) -> Result<Tokens, TextError> {
        let room = self.max_length - self.prefix.len() - self.suffix.len();
        let (kept, truncated) = match self.truncation {
            Truncation::Head => self.first(text, room)?,
            Truncation::Tail => self.last(text, room)?,
            Truncation::HeadTail => match self.first(text, room)? {
                (mut head, true) => {
                    head.truncate(room / HEAD_PART);
                    let (tail, _) = self.last(text, room - head.len())?;
                    head.extend(tail);
                    (head, true)
                }
                whole => whole,
            },
        };
        if kept.is_empty() {
            return Err(TextError::Empty);
        }
        let mut ids = Vec::with_capacity(self.prefix.len() + kept.len() + self.suffix.len());
        ids.extend_from_slice(&self.prefix);
        ids.extend(kept.into_iter().map(i64::from));
        ids.extend_from_slice(&self.suffix);
        Ok(Tokens { ids, truncated })
    }

    /// The first `count` tokens, and whether there are more.
    fn first(&self, text: &str, count: usize) -> Result<(Vec<u32>, bool), TextError> {
        let (mut ids, whole) = self.enough(text, count, head)?;
        let truncated = !whole || ids.len() > count;
        ids.truncate(count);
        Ok((ids, truncated))
    }

    /// The last `count` tokens, and whether there are more.
    fn last(&self, text: &str, count: usize) -> Result<(Vec<u32>, bool), TextError> {
        let (ids, whole) = self.enough(text, count, tail)?;
        let from = ids.len().saturating_sub(count);
        Ok((ids[from..].to_vec(), !whole || from > 0))
    }

    /// Tokenises a growing part at one end of the text until the `count` tokens at that end can no
    /// longer change. The flag says whether the whole text was needed.
    fn enough(
        &self,
        text: &str,
        count: usize,
        end: fn(&str, usize) -> &str,
    ) -> Result<(Vec<u32>, bool), TextError> {
        let sure = count + UNSURE;
        let most = sure * MOST_BYTES_PER_TOKEN;
        let mut length = sure * BYTES_PER_TOKEN;
        loop {
            let part = end(text, length);
            let encoding = self
                .pipeline
                .encode_fast(part, false)
                .map_err(|error| TextError::Tokenizer(error.to_string()))?;
            let ids = encoding.get_ids();
            let whole = part.len() == text.len();
            if whole || ids.len() >= sure || length >= most {
                return Ok((ids.to_vec(), whole));
            }
            length = (length * 4).min(most);
        }
    }
}

/// At most `length` bytes from the beginning, cut at white space if possible.
fn head(text: &str, length: usize) -> &str {
    if length >= text.len() {
        return text;
    }
    let part = &text[..text.floor_char_boundary(length)];
    match part.rfind(char::is_whitespace) {
        Some(at) if at > part.len() / 2 => &part[..at],
        _ => part,
    }
}

/// At most `length` bytes from the end, cut at white space if possible.
fn tail(text: &str, length: usize) -> &str {
    if length >= text.len() {
        return text;
    }
    let part = &text[text.ceil_char_boundary(text.len() - length)..];
    match part.find(char::is_whitespace) {
        Some(at) if at < part.len() / 2 => &part[at..],
        _ => part,
    }
}
