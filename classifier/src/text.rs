//! Text -> token ids, cut to the length that the model takes.
//!
//! What a text goes through stands in `tokenizer.json`, the file of the `tokenizers` crate: normalisation (case, HTML
//! breaks, accents), splitting, vocabulary, special tokens. Any such file is served as it is. How long a text may be and
//! which end is padded stand in `tokenizer_config.json`, as Hugging Face writes it; what is kept of a longer text, and the
//! lengths that texts are padded to, in `[text]` of `serving.toml`.

use std::any::Any;
use std::fmt;
use std::panic::catch_unwind;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};
use tokenizers::{Encoding, PaddingDirection, Token, TruncationDirection};

use crate::bundle::{BundleError, SERVING, read, read_json};

/// Name of the file of the `tokenizers` crate.
pub const TOKENIZER: &str = "tokenizer.json";
/// Name of the file with the lengths and sides.
pub const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// Most tokens that any model takes. Hugging Face writes an absurd number where nothing is known.
const LONGEST: usize = 1 << 16;

/// Shortest length that texts are padded to where `serving.toml` names none.
const SHORTEST_BUCKET: usize = 16;

/// Of a text that is cut at both ends, this part of what is kept is its beginning: the split that Sun et al. found best for
/// IMDb reviews (128 of 510, "How to Fine-Tune BERT for Text Classification?", 2019).
const HEAD_PART: usize = 4;

/// Bytes of a text that are read for each token that is wanted, at first. English has 5 to 6 for each word with its blank, and 3
/// to 4 for each token of a review, punctuation included.
const BYTES_PER_TOKEN: usize = 8;
/// At most so many are read for each token, when a text has few tokens for its length. It bounds time and memory: a tokenizer
/// needs up to 100 bytes for each byte of text.
const MOST_BYTES_PER_TOKEN: usize = 256;
/// Tokens next to where a text was cut before it was tokenised may be others than in the whole text.
const UNSURE: usize = 32;

/// Why a text cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// The bytes are no text.
    #[error("expected UTF-8, found bytes that are none at position {at}")]
    NotUtf8 {
        /// Position of the first byte that is wrong.
        at: usize,
    },
    /// Nothing is left of it after normalisation.
    #[error(
        "expected a text with at least one token, found one with none: it is empty, blank or markup alone"
    )]
    Empty,
    /// The tokenizer fails.
    #[error("the text cannot be tokenised: {0}")]
    Tokenizer(String),
}

/// `tokenizer_config.json`, as far as it concerns us; the rest of it belongs to other programs.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct TokenizerConfig {
    /// Most tokens of a text, special ones included.
    #[serde(deserialize_with = "saturating")]
    pub model_max_length: Option<u64>,
    /// Which side is filled up to the length of the batch. Default: as `tokenizer.json` says, else right.
    pub padding_side: Option<Side>,
    /// Which side is cut off: right keeps the head. Default: as `tokenizer.json` says, else right.
    pub truncation_side: Option<Side>,
    /// What is filled in. Default: as `tokenizer.json` says, else the token with id 0.
    pub pad_token: Option<TokenName>,
}

/// An end of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// Its beginning.
    Left,
    /// Its end.
    Right,
}

/// A token as Hugging Face writes it: its text, or an object that holds it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum TokenName {
    /// `"[PAD]"`
    Text(String),
    /// `{"content": "[PAD]", ...}`
    Object {
        /// The text.
        content: String,
    },
}

/// What is kept of a text that is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Truncation {
    /// Its beginning.
    Head,
    /// Its end.
    Tail,
    /// A quarter from its beginning, the rest from its end.
    HeadTail,
}

/// `[text]` of `serving.toml`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TextServing {
    /// What is kept of a text that is too long. Default: as `truncation_side` says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truncation: Option<Truncation>,
    /// Lengths that texts are padded to; `model_max_length` is always one of them. Default: powers of two from 16 on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub buckets: Option<Vec<u32>>,
}

/// A text as the graph takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// At least one, at most [`Tokenizer::max_length`]; special ones included, without padding.
    pub ids: Vec<i64>,
    /// Whether only a part of the text is in them.
    pub truncated: bool,
}

/// Turns texts into token ids. Cheap to clone.
#[derive(Clone)]
pub struct Tokenizer {
    /// What `tokenizer.json` says.
    pipeline: Arc<tokenizers::Tokenizer>,
    /// Special tokens before and after those of the text.
    prefix: Vec<i64>,
    suffix: Vec<i64>,
    max_length: usize,
    truncation: Truncation,
    padding: Padding,
    buckets: Vec<usize>,
}

/// How rows of different lengths are made equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Padding {
    /// Id of the token that is filled in.
    pub id: i64,
    /// Where.
    pub side: Side,
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

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "one that panics".into())
}

/// The text in these bytes, without a byte order mark.
pub fn decode(bytes: &[u8]) -> Result<&str, TextError> {
    let text = std::str::from_utf8(bytes).map_err(|error| TextError::NotUtf8 {
        at: error.valid_up_to(),
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

impl Tokenizer {
    /// Reads `tokenizer.json` and `tokenizer_config.json` of a model directory.
    pub fn read(directory: &Path, serving: &TextServing) -> Result<Self, BundleError> {
        // The crate panics on some files, such as one whose post-processor names a token that it does not list.
        catch_unwind(|| Self::read_trusting(directory, serving)).unwrap_or_else(|panic| {
            let found = panic_message(panic.as_ref());
            let expected = "a tokenizer that works";
            Err(BundleError::new(directory.join(TOKENIZER), None, expected, found))
        })
    }

    fn read_trusting(directory: &Path, serving: &TextServing) -> Result<Self, BundleError> {
        let file = directory.join(TOKENIZER);
        let wrong = |key: &str, expected: &str, found: String| {
            let key = (!key.is_empty()).then(|| key.to_owned());
            BundleError::new(&file, key, expected, found)
        };
        let mut tokenizer = tokenizers::Tokenizer::from_bytes(read(&file)?)
            .map_err(|error| wrong("", "a tokenizer of the tokenizers crate", error.to_string()))?;
        let config_file = directory.join(TOKENIZER_CONFIG);
        let config: TokenizerConfig = if config_file.exists() {
            read_json(&config_file)?
        } else {
            TokenizerConfig::default()
        };

        // Cutting and padding is done here: the crate knows neither both ends nor buckets.
        let own_truncation = tokenizer.get_truncation().cloned();
        let own_padding = tokenizer.get_padding().cloned();
        tokenizer.with_padding(None);
        tokenizer
            .with_truncation(None)
            .map_err(|error| wrong("truncation", "valid values", error.to_string()))?;

        let max_length = own_truncation.as_ref().map(|own| own.max_length as u64);
        let max_length = config
            .model_max_length
            .filter(|&length| length <= LONGEST as u64)
            .or(max_length)
            .unwrap_or(u64::MAX);
        let (prefix, suffix) = special_tokens(&tokenizer)
            .map_err(|found| wrong("post_processor", "special tokens around the text", found))?;
        let least = prefix.len() + suffix.len() + 1;
        let max_length = usize::try_from(max_length)
            .ok()
            .filter(|length| (least..=LONGEST).contains(length))
            .ok_or_else(|| {
                BundleError::new(
                    &config_file,
                    "model_max_length".to_owned(),
                    format!("the most tokens of a text, between {least} and {LONGEST}"),
                    match config.model_max_length {
                        Some(length) => length.to_string(),
                        None => "none".to_owned(),
                    },
                )
            })?;

        let side = config.truncation_side.unwrap_or(match own_truncation {
            Some(own) if own.direction == TruncationDirection::Left => Side::Left,
            _ => Side::Right,
        });
        let truncation = serving.truncation.unwrap_or(match side {
            Side::Right => Truncation::Head,
            Side::Left => Truncation::Tail,
        });
        let padding_side = config.padding_side.unwrap_or(match &own_padding {
            Some(own) if matches!(own.direction, PaddingDirection::Left) => Side::Left,
            _ => Side::Right,
        });
        let pad_id = match (&config.pad_token, &own_padding) {
            (Some(TokenName::Text(token) | TokenName::Object { content: token }), _) => {
                tokenizer.token_to_id(token).ok_or_else(|| {
                    let found = format!("{token:?}");
                    let expected = format!("a token of {TOKENIZER}");
                    BundleError::new(&config_file, "pad_token".to_owned(), expected, found)
                })?
            }
            (None, Some(own)) => own.pad_id,
            (None, None) => 0,
        };
        let tokenizer = Self {
            pipeline: Arc::new(tokenizer),
            prefix,
            suffix,
            max_length,
            truncation,
            padding: Padding {
                id: i64::from(pad_id),
                side: padding_side,
            },
            buckets: buckets(serving, max_length).map_err(|(expected, found)| {
                BundleError::new(
                    directory.join(SERVING),
                    "text.buckets".to_owned(),
                    expected,
                    found,
                )
            })?,
        };
        // A vocabulary without a token for unknown words fails on the first one that a client sends.
        match tokenizer.encode("\u{10ffff} qzxjkvw \u{16a0}") {
            Err(TextError::Tokenizer(found)) => Err(wrong("model", "a token for unknown words", found)),
            _ => Ok(tokenizer),
        }
    }

    /// Most tokens of a text, special ones included.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// Most bytes of a text that are looked at, however long it is.
    pub fn most_read(&self) -> usize {
        (self.max_length + UNSURE).saturating_mul(MOST_BYTES_PER_TOKEN)
    }

    /// What is kept of a longer text.
    pub fn truncation(&self) -> Truncation {
        self.truncation
    }

    /// How shorter rows are filled up.
    pub fn padding(&self) -> Padding {
        self.padding
    }

    /// Lengths that texts are padded to, rising; the last one is [`Self::max_length`].
    pub fn buckets(&self) -> &[usize] {
        &self.buckets
    }

    /// The length that so many tokens are padded to.
    pub fn bucket(&self, tokens: usize) -> usize {
        let at = self.buckets.partition_point(|&bucket| bucket < tokens);
        self.buckets.get(at).copied().unwrap_or(self.max_length)
    }

    /// A row of `length` tokens to warm a session with. Its id is that of the last word of the vocabulary, so that a graph which
    /// knows fewer words fails then, and not on a client's text.
    pub fn blank(&self, length: usize) -> Vec<i64> {
        let last = self.pipeline.get_vocab_size(true).saturating_sub(1);
        vec![last as i64; length]
    }

    /// The token ids of a text.
    ///
    /// Of a text that is far too long only as much is read as is needed to fill [`Self::max_length`], at most 256 bytes for
    /// each token, so that time and memory do not grow with the text.
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

    /// The first `count` tokens, and whether there is more.
    fn first(&self, text: &str, count: usize) -> Result<(Vec<u32>, bool), TextError> {
        let (mut ids, whole) = self.enough(text, count, head)?;
        let truncated = !whole || ids.len() > count;
        ids.truncate(count);
        Ok((ids, truncated))
    }

    /// The last `count` tokens, and whether there is more.
    fn last(&self, text: &str, count: usize) -> Result<(Vec<u32>, bool), TextError> {
        let (ids, whole) = self.enough(text, count, tail)?;
        let from = ids.len().saturating_sub(count);
        Ok((ids[from..].to_vec(), !whole || from > 0))
    }

    /// The tokens of so much from one end of the text that the `count` ones at that end are sure, and whether that is the
    /// whole text.
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

/// At most `length` bytes from the beginning, up to a blank where there is one.
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

/// At most `length` bytes from the end, from a blank on where there is one.
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

/// What the post-processor puts before and after a text.
fn special_tokens(tokenizer: &tokenizers::Tokenizer) -> Result<(Vec<i64>, Vec<i64>), String> {
    let text = Encoding::from_tokens(vec![Token::new(u32::MAX, String::new(), (0, 0))], 0);
    let processed = tokenizer
        .post_process(text, None, true)
        .map_err(|error| error.to_string())?;
    let mut parts = processed.get_ids().split(|&id| id == u32::MAX);
    let ids = |part: &[u32]| part.iter().copied().map(i64::from).collect();
    match (parts.next(), parts.next(), parts.next()) {
        (Some(prefix), Some(suffix), None) => Ok((ids(prefix), ids(suffix))),
        _ => Err("a template that holds the text not just once".to_owned()),
    }
}

/// The lengths that texts are padded to, rising.
fn buckets(serving: &TextServing, max_length: usize) -> Result<Vec<usize>, (String, String)> {
    let mut buckets: Vec<usize> = match &serving.buckets {
        None => std::iter::successors(Some(SHORTEST_BUCKET), |length| Some(length * 2))
            .take_while(|&length| length < max_length)
            .collect(),
        Some(named) => named.iter().map(|&length| length as usize).collect(),
    };
    if let Some(wrong) = buckets.iter().find(|length| !(1..=max_length).contains(*length)) {
        let expected =
            format!("lengths between 1 and {max_length}, the model_max_length of {TOKENIZER_CONFIG}");
        return Err((expected, wrong.to_string()));
    }
    buckets.push(max_length);
    buckets.sort_unstable();
    buckets.dedup();
    Ok(buckets)
}

/// A whole number; one that is too large for 64 bits becomes the largest.
fn saturating<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let number: Option<f64> = Option::deserialize(deserializer)?;
    match number {
        Some(number) if number.fract() != 0.0 || number < 0.0 => Err(serde::de::Error::custom(format!(
            "invalid value: {number}, expected a whole number"
        ))),
        number => Ok(number.map(|number| number as u64)),
    }
}

#[cfg(test)]
mod tests;
