use tokio::time::Instant;

use super::{RunTimes, Waiting};

/// A batch that requests are being added to.
pub(super) struct Forming<M> {
    pub(super) requests: Vec<Waiting<M>>,
    weight: u32,
    /// The earliest deadline among the requests.
    deadline: Option<Instant>,
    max_weight: u32,
    fill_weight: u32,
}

/// Whether a request can join a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    Joins,
    /// It stays in the queue, and those behind it may still join.
    OtherBucket,
    /// The batch is complete: neither this request nor one behind it joins.
    Complete,
}

impl<M> Forming<M> {
    pub(super) fn new(max_weight: u32, fill_weight: u32) -> Self {
        Self {
            requests: Vec::new(),
            weight: 0,
            deadline: None,
            max_weight,
            fill_weight: fill_weight.min(max_weight),
        }
    }

    pub(super) fn fits(&self, next: &Waiting<M>, now: Instant, run_times: &RunTimes) -> Fit {
        let Some(first) = self.requests.first() else {
            // The first request runs even if it is expected to take longer than its deadline: the
            // averages must be able to recover.
            return if next.weight > self.max_weight {
                Fit::Complete
            } else {
                Fit::Joins
            };
        };
        if self.weight >= self.fill_weight {
            return Fit::Complete;
        }
        if first.bucket != next.bucket {
            return Fit::OtherBucket;
        }
        let weight = self.weight + next.weight;
        let deadline = self.deadline_with(next);
        let outlasts_deadline = run_times.of_run(weight).is_some_and(|run| now + run > deadline);
        // Requests of its bucket must not overtake it, or a heavy request would wait for ever.
        if weight > self.max_weight || outlasts_deadline {
            return Fit::Complete;
        }
        Fit::Joins
    }

    pub(super) fn add(&mut self, next: Waiting<M>) {
        self.weight += next.weight;
        self.deadline = Some(self.deadline_with(&next));
        self.requests.push(next);
    }

    fn deadline_with(&self, next: &Waiting<M>) -> Instant {
        self.deadline
            .map_or(next.deadline, |earliest| earliest.min(next.deadline))
    }
}
