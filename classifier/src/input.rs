//! From an input, an image or a text, to a row of the graph.

use crate::error::{ClassifierError, WrongKind};
use crate::image::{self, ImageLimits, ImagePreprocessor};
use crate::kind::InputKind;
use crate::text::{self, Tokenizer};

/// One input in the form that the graph takes.
#[derive(Debug, Clone, PartialEq)]
pub enum Row {
    /// The numbers of an image, in the order of [`ImagePreprocessor::shape`].
    Image(Vec<f32>),
    /// The token ids of a text, without padding.
    Text(Vec<i64>),
}

impl From<Vec<f32>> for Row {
    fn from(numbers: Vec<f32>) -> Self {
        Self::Image(numbers)
    }
}

/// A row, and whether it represents only a part of its input.
#[derive(Debug, Clone, PartialEq)]
pub struct Prepared {
    /// The row.
    pub row: Row,
    /// Whether the input is a text of which a part was cut off.
    pub truncated: bool,
}

/// Turns inputs into rows. Its variant tells image classifiers from text classifiers.
///
/// The enum is exhaustive on purpose: a new kind of input needs a decision wherever the two kinds
/// differ.
#[derive(Debug, Clone)]
pub enum Preprocessor {
    /// Of an image classifier.
    Image(ImagePreprocessor),
    /// Of a text classifier.
    Text(Tokenizer),
}

impl Preprocessor {
    /// The kind of input that it takes.
    pub fn kind(&self) -> InputKind {
        match self {
            Self::Image(_) => InputKind::Image,
            Self::Text(_) => InputKind::Text,
        }
    }

    /// The preprocessor of an image classifier.
    ///
    /// # Errors
    ///
    /// Fails for a text classifier.
    pub fn image(&self) -> Result<&ImagePreprocessor, WrongKind> {
        match self {
            Self::Image(preprocessor) => Ok(preprocessor),
            Self::Text(_) => Err(WrongKind { takes: self.kind() }),
        }
    }

    /// The tokenizer of a text classifier.
    ///
    /// # Errors
    ///
    /// Fails for an image classifier.
    pub fn text(&self) -> Result<&Tokenizer, WrongKind> {
        match self {
            Self::Text(tokenizer) => Ok(tokenizer),
            Self::Image(_) => Err(WrongKind { takes: self.kind() }),
        }
    }

    /// Turns the bytes of an input into a row: an encoded image, or a text in UTF-8, whichever the
    /// classifier takes.
    ///
    /// # Errors
    ///
    /// Fails with [`ClassifierError::Image`] or [`ClassifierError::Text`] if the input cannot be
    /// used.
    pub fn prepare(&self, bytes: &[u8], limits: &ImageLimits) -> Result<Prepared, ClassifierError> {
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
