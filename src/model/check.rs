//! The golden samples of a model: checked before it serves, and offered to clients as examples.

use std::time::Duration;

use bytes::Bytes;
use classifier::golden::{GoldenSample, Proof};
use classifier::text::Tokenizer;
use classifier::{BundleError, Preprocessor, Row, output};

use super::run::{Part, Ran};
use super::{Model, Terms};
use crate::telemetry::spans::SpanRef;
use batching::{Flow, Priority};

/// Most golden samples that are kept as examples, and the most bytes of one.
const MAX_EXAMPLES: usize = 32;
const MAX_EXAMPLE: usize = 256 * 1024;

/// An input to try a model with.
#[derive(Debug)]
pub struct Example {
    /// File name of the golden sample.
    pub name: String,
    /// The true label.
    pub label: String,
    /// The encoded image, or the text.
    pub content: Bytes,
}

impl Model {
    /// Sends the golden samples through the queue, all at once, so that they are batched like
    /// requests, and compares the scores. Returns some samples as examples.
    ///
    /// Each lane has already run the samples by itself, see
    /// [`Engine::start`](crate::engine::Engine::start).
    pub(super) fn check_golden(
        &self,
        proof: Option<&Proof>,
    ) -> Result<Vec<Example>, classifier::ClassifierError> {
        let Some(proof) = proof else {
            tracing::warn!(
                model = self.name,
                "the model has no golden samples, so its scores are not verified"
            );
            return Ok(Vec::new());
        };
        let golden = proof.golden().clone().at_the_precision_of(self.placement());
        let rows = proof.rows();
        let terms = Terms {
            priority: Priority::Normal,
            flow: Flow::default(),
            deadline: tokio::time::Instant::now() + Duration::from_mins(1),
            span: &SpanRef::default(),
        };
        let alone = self.scores_of(self.parts(rows.to_vec(), terms))?;
        let mut largest: f32 = 0.0;
        for (sample, scores) in golden.samples.iter().zip(&alone) {
            largest = largest.max(golden.compare(sample, scores, &self.bundle.labels)?);
        }
        if let Preprocessor::Text(tokenizer) = &self.bundle.preprocessor
            && self.max_batch > 1
        {
            for ((sample, row), alone) in golden.samples.iter().zip(rows).zip(&alone) {
                let padded = self.scores_beside_the_longest(row, tokenizer, terms)?;
                golden.compare_padded(sample, alone, &padded, &self.bundle.labels)?;
            }
        }
        tracing::info!(
            model = self.name,
            samples = golden.samples.len(),
            largest_difference = largest,
            "golden samples reproduced"
        );
        Ok(examples(golden.samples))
    }

    /// The scores of a text that is padded to the largest length, because it shares its batch with
    /// a text of that length.
    fn scores_beside_the_longest(
        &self,
        row: &Row,
        tokenizer: &Tokenizer,
        terms: Terms<'_>,
    ) -> Result<Vec<f32>, classifier::ClassifierError> {
        let longest = tokenizer.max_length();
        let rows = vec![row.clone(), Row::Text(tokenizer.blank(longest))];
        let mut scores = self.scores_of(vec![self.part(longest, vec![0, 1], rows, terms)])?;
        Ok(scores.swap_remove(0))
    }

    fn scores_of(&self, parts: Vec<Part>) -> Result<Vec<Vec<f32>>, classifier::ClassifierError> {
        let ran = tokio::runtime::Handle::current().block_on(self.run(parts));
        let Ran { outputs, .. } = ran.map_err(|error| BundleError {
            file: self.bundle.model(),
            key: None,
            expected: "a graph that runs the golden samples".into(),
            found: error.to_string(),
        })?;
        let scores = outputs
            .iter()
            .map(|row| output::scores(row, self.bundle.activation));
        Ok(scores.collect::<Result<_, _>>()?)
    }
}

fn examples(samples: Vec<GoldenSample>) -> Vec<Example> {
    let short = samples
        .into_iter()
        .filter(|sample| sample.bytes.len() <= MAX_EXAMPLE);
    short
        .take(MAX_EXAMPLES)
        .map(|sample| Example {
            name: sample.file.rsplit('/').next().unwrap_or_default().to_owned(),
            label: sample.label,
            content: sample.bytes.into(),
        })
        .collect()
}
