//! From an input, a picture or a text, to a row of the graph.

use std::fmt;

use crate::{Error, Limits, image, text};

/// What a classifier takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Pictures.
    Image,
    /// Texts.
    Text,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Image => "a picture",
            Self::Text => "a text",
        })
    }
}

/// An input of the other kind than the classifier takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected {takes}, which is what the model takes, found {}", match takes { Kind::Image => Kind::Text, Kind::Text => Kind::Image })]
pub struct WrongKind {
    /// What it takes.
    pub takes: Kind,
}

/// One input as the graph takes it.
#[derive(Debug, Clone, PartialEq)]
pub enum Row {
    /// The numbers of a picture, as many as the graph's input wants.
    Image(Vec<f32>),
    /// The token ids of a text, without padding.
    Text(Vec<i64>),
}

impl From<Vec<f32>> for Row {
    fn from(numbers: Vec<f32>) -> Self {
        Self::Image(numbers)
    }
}

/// A row, and whether it holds only a part of its input.
#[derive(Debug, Clone, PartialEq)]
pub struct Prepared {
    /// The row.
    pub row: Row,
    /// Whether the input is a text that was cut.
    pub truncated: bool,
}

/// What turns inputs into rows.
#[derive(Debug, Clone)]
pub enum Preprocessor {
    /// Of an image classifier.
    Image(image::Preprocessor),
    /// Of a text classifier.
    Text(text::Tokenizer),
}

impl Preprocessor {
    /// What it takes.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Image(_) => Kind::Image,
            Self::Text(_) => Kind::Text,
        }
    }

    /// That of an image classifier.
    pub fn image(&self) -> Result<&image::Preprocessor, WrongKind> {
        match self {
            Self::Image(preprocessor) => Ok(preprocessor),
            Self::Text(_) => Err(WrongKind { takes: Kind::Text }),
        }
    }

    /// That of a text classifier.
    pub fn text(&self) -> Result<&text::Tokenizer, WrongKind> {
        match self {
            Self::Text(tokenizer) => Ok(tokenizer),
            Self::Image(_) => Err(WrongKind { takes: Kind::Image }),
        }
    }

    /// The row of an encoded picture, or of a text in UTF-8, whichever it takes.
    pub fn prepare(&self, bytes: &[u8], limits: &Limits) -> Result<Prepared, Error> {
        match self {
            Self::Image(preprocessor) => Ok(preprocessor.apply(image::decode(bytes, limits)?)?.into()),
            Self::Text(tokenizer) => Ok(tokenizer.encode(text::decode(bytes)?)?.into()),
        }
    }
}

impl From<Vec<f32>> for Prepared {
    fn from(numbers: Vec<f32>) -> Self {
        Self {
            row: Row::Image(numbers),
            truncated: false,
        }
    }
}

impl From<text::Tokens> for Prepared {
    fn from(tokens: text::Tokens) -> Self {
        Self {
            row: Row::Text(tokens.ids),
            truncated: tokens.truncated,
        }
    }
}
