//! Rows to outputs: the rows of one request are split into parts, and each part goes through the
//! queue as one submission.

use std::collections::BTreeMap;
use std::time::Duration;

use classifier::{Preprocessor, Row};
use futures_util::future::try_join_all;
use tower::Service;

use super::{Model, Terms};
use crate::engine::{Job, LaneError, Outputs};
use crate::telemetry::spans::SpanRef;
use batching::{BatchReply, Submission};

/// Rows of one request that run together.
pub(super) struct Part {
    /// Index of each row in the request.
    places: Vec<usize>,
    submission: Submission<Job>,
}

/// The outputs of the rows of one request.
#[derive(Debug, Default)]
pub(super) struct Ran {
    /// One entry for each row, in the order of the request.
    pub(super) outputs: Vec<Vec<f32>>,
    /// Longest time that a part spent in the queue.
    pub(super) queue: Duration,
    /// Longest time that a part spent in a run.
    pub(super) inference: Duration,
    /// Rows of the largest batch.
    pub(super) batch_size: u32,
    /// Span of the largest batch.
    pub(super) batch: SpanRef,
}

impl Model {
    /// Runs all parts. If one fails, the others are withdrawn.
    pub(super) async fn run(&self, mut parts: Vec<Part>) -> Result<Ran, batching::Error<LaneError>> {
        let submit = |part: Part| {
            let answer = self.service.clone().call(part.submission);
            async move { Ok::<_, batching::Error<LaneError>>((part.places, answer.await?)) }
        };
        let answers: Vec<(Vec<usize>, BatchReply<Outputs>)> = match parts.pop() {
            Some(only) if parts.is_empty() => vec![submit(only).await?],
            last => try_join_all(parts.into_iter().chain(last).map(submit)).await?,
        };
        let mut ran = Ran {
            outputs: vec![Vec::new(); answers.iter().map(|(places, _)| places.len()).sum()],
            ..Ran::default()
        };
        for (places, answer) in answers {
            ran.queue = ran.queue.max(answer.queued);
            ran.inference = ran.inference.max(answer.ran);
            if answer.output.batch_rows > ran.batch_size {
                ran.batch_size = answer.output.batch_rows;
                ran.batch = answer.output.batch;
            }
            let rows = answer.output.values.chunks_exact(self.bundle.labels.len());
            for (place, row) in places.into_iter().zip(rows) {
                ran.outputs[place] = row.to_vec();
            }
        }
        Ok(ran)
    }

    /// Splits rows into parts: images together, texts by their length bucket, none heavier than a
    /// batch may be.
    pub(super) fn parts(&self, rows: Vec<Row>, terms: Terms<'_>) -> Vec<Part> {
        let mut buckets: BTreeMap<usize, Vec<(usize, Row)>> = BTreeMap::new();
        for (place, row) in rows.into_iter().enumerate() {
            let bucket = match (&self.bundle.preprocessor, &row) {
                (Preprocessor::Text(tokenizer), Row::Text(ids)) => tokenizer.bucket(ids.len()),
                _ => 0,
            };
            buckets.entry(bucket).or_default().push((place, row));
        }
        let mut parts = Vec::new();
        for (bucket, mut rows) in buckets {
            let most = self.weights.most_rows(bucket) as usize;
            while !rows.is_empty() {
                let rest = rows.split_off(rows.len().min(most));
                let (places, rows) = std::mem::replace(&mut rows, rest).into_iter().unzip();
                parts.push(self.part(bucket, places, rows, terms));
            }
        }
        parts
    }

    /// `bucket`: the padded length of texts, 0 for images.
    pub(super) fn part(&self, bucket: usize, places: Vec<usize>, rows: Vec<Row>, terms: Terms<'_>) -> Part {
        let weight = self.weights.of(bucket) * rows.len() as u32;
        let job = Job {
            rows,
            span: terms.span.clone(),
        };
        Part {
            places,
            submission: Submission::new(job)
                .weight(weight.min(self.weights.max_weight()))
                .bucket(bucket as u32)
                .priority(terms.priority)
                .flow(terms.flow)
                .deadline(terms.deadline),
        }
    }
}
