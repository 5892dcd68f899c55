//! The labelled samples that a classifier is evaluated on.

use anyhow::Result;

use crate::transform::Transform;

/// A sample as a client would send it to a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SampleInput {
    /// The contents of an image file.
    Image(Vec<u8>),
    Text(String),
}

impl SampleInput {
    /// The bytes that a classifier takes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Image(bytes) => bytes,
            Self::Text(text) => text.as_bytes(),
        }
    }
}

pub trait LabelledSamples: Sync {
    fn len(&self) -> usize;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The plural noun for the samples in reports.
    fn unit(&self) -> &'static str {
        "images"
    }

    /// The transform that [`Self::input`] applies.
    fn transform(&self) -> Transform {
        Transform::None
    }

    /// The name of sample `at` in reports: a file name, or a number in a published split.
    fn name(&self, at: usize) -> String;

    /// The true label of sample `at`.
    fn label(&self, at: usize) -> String;

    fn input(&self, at: usize) -> Result<SampleInput>;
}
