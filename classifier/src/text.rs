//! From a text to token ids, cut to the length that the model takes.
//!
//! `tokenizer.json`, the file of the [`tokenizers`](https://docs.rs/tokenizers) crate, says how a
//! text is processed: normalisation (case, HTML breaks, accents), splitting, vocabulary, special
//! tokens. Any such file works. `tokenizer_config.json` ([`TokenizerConfig`]) says how long a text
//! may be and which end is padded, as Hugging Face writes it. `[text]` of `serving.toml`
//! ([`TextServing`]) says which part of a longer text is kept and to which lengths texts are
//! padded.
//!
//! The time and memory that [`Tokenizer::encode`] takes do not grow with the length of a text:
//! of a text that is far too long, only the part is tokenised that can affect the result.
//!
//! Without the feature `text`, this module has the same items, but [`Tokenizer::read`] always
//! fails.

#[cfg(feature = "text")]
mod tokenizer;
#[cfg(not(feature = "text"))]
#[path = "text/disabled.rs"]
mod tokenizer;

use serde::{Deserialize, Deserializer, Serialize};

pub use self::tokenizer::Tokenizer;
pub use crate::error::TextError;

/// Name of the file of the `tokenizers` crate.
pub const TOKENIZER: &str = "tokenizer.json";
/// Name of the file that [`TokenizerConfig`] describes.
pub const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// The keys of `tokenizer_config.json` that are used here. Others belong to other programs.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct TokenizerConfig {
    /// Largest number of tokens of a text, special tokens included.
    #[serde(deserialize_with = "saturating")]
    pub model_max_length: Option<u64>,
    /// The side that is padded to the length of the batch. Default: the one in `tokenizer.json`,
    /// else right.
    pub padding_side: Option<Side>,
    /// The side that is cut off: right keeps the beginning. Default: the one in `tokenizer.json`,
    /// else right.
    pub truncation_side: Option<Side>,
    /// The token to pad with. Default: the one in `tokenizer.json`, else the token with id 0.
    pub pad_token: Option<TokenName>,
}

/// A side of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The beginning.
    Left,
    /// The end.
    Right,
}

/// A token as Hugging Face writes it: its text, or an object that holds the text.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum TokenName {
    /// Such as `"[PAD]"`.
    Text(String),
    /// Such as `{"content": "[PAD]", ...}`.
    #[allow(missing_docs)]
    Object { content: String },
}

impl TokenName {
    /// The token's text.
    pub fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Object { content: text } => text,
        }
    }
}

/// The part of a text that is kept if it is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Truncation {
    /// The beginning.
    Head,
    /// The end.
    Tail,
    /// A quarter from the beginning and the rest from the end.
    HeadTail,
}

/// `[text]` of `serving.toml`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TextServing {
    /// The part of a text that is kept if it is too long. Default: follows `truncation_side`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truncation: Option<Truncation>,
    /// Lengths in tokens that texts are padded to. `model_max_length` is always one of them.
    /// Default: powers of two from 16 on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub buckets: Option<Vec<u32>>,
}

/// The token ids of one text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// Between one and [`Tokenizer::max_length`] ids. Special tokens are included, padding is not.
    pub ids: Vec<i64>,
    /// Whether a part of the text was cut off.
    pub truncated: bool,
}

/// How rows of different lengths are made equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Padding {
    /// Id of the padding token.
    pub id: i64,
    /// The side that is padded.
    pub side: Side,
}

/// Decodes UTF-8 and removes a byte order mark.
///
/// # Errors
///
/// Fails with the position of the first byte that is not UTF-8.
///
/// ```
/// assert_eq!(classifier::text::decode(b"\xef\xbb\xbfgood")?, "good");
/// assert_eq!(classifier::text::decode(b"go\xff").unwrap_err().to_string(), "invalid UTF-8 at byte 2");
/// # Ok::<(), classifier::TextError>(())
/// ```
pub fn decode(bytes: &[u8]) -> Result<&str, TextError> {
    let text = std::str::from_utf8(bytes).map_err(|error| TextError::NotUtf8 {
        at: error.valid_up_to(),
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// A whole number. One that is too large for 64 bits becomes the largest: Hugging Face writes 10^30
/// for "unknown".
fn saturating<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let number: Option<f64> = Option::deserialize(deserializer)?;
    match number {
        Some(number) if number.fract() != 0.0 || number < 0.0 => Err(serde::de::Error::custom(format!(
            "invalid value: {number}, expected a whole number"
        ))),
        number => Ok(number.map(|number| number as u64)),
    }
}
