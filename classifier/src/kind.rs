//! What a classifier takes.

use std::fmt;

/// The kind of input that a classifier takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InputKind {
    /// Images.
    Image,
    /// Texts.
    Text,
}

impl fmt::Display for InputKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Image => "an image",
            Self::Text => "a text",
        })
    }
}
