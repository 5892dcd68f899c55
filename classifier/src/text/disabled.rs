//! In place of `tokenizer.rs` without the feature `text`: a tokenizer that can never be made.

use std::convert::Infallible;
use std::path::Path;

use super::{Padding, TOKENIZER, TextServing, Tokens, Truncation};
use crate::error::{BundleError, TextError};

/// Turns texts into token ids. Never made, because the feature `text` is off.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    never: Infallible,
}

#[allow(missing_docs, clippy::missing_errors_doc)]
impl Tokenizer {
    /// Always fails.
    pub fn read(directory: &Path, _serving: &TextServing) -> Result<Self, BundleError> {
        Err(BundleError::new(
            directory.join(TOKENIZER),
            None,
            "an image classifier, because this program is built without the feature `text` of the crate classifier",
            "a text classifier",
        ))
    }

    pub fn max_length(&self) -> usize {
        match self.never {}
    }

    pub fn most_read(&self) -> usize {
        match self.never {}
    }

    pub fn truncation(&self) -> Truncation {
        match self.never {}
    }

    pub fn padding(&self) -> Padding {
        match self.never {}
    }

    pub fn buckets(&self) -> &[usize] {
        match self.never {}
    }

    pub fn bucket(&self, _tokens: usize) -> usize {
        match self.never {}
    }

    pub fn blank(&self, _length: usize) -> Vec<i64> {
        match self.never {}
    }

    pub fn encode(&self, _text: &str) -> Result<Tokens, TextError> {
        match self.never {}
    }
}
