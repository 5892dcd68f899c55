//! Which requests are admitted, and which of them go into the next batch. It knows no threads, no
//! wakers and no clock, so that its tests need none.

mod forming;
mod run_times;
#[cfg(test)]
mod tests;

use std::time::Duration;

use tokio::time::Instant;

use self::forming::{Fit, Forming};
pub(crate) use self::run_times::RunTimes;
use crate::{FairQueue, Flow, Limits, Priority, Refusal, Submission};

/// A request that waits.
#[derive(Debug)]
pub(crate) struct Waiting<M> {
    pub(crate) id: u64,
    pub(crate) weight: u32,
    pub(crate) bucket: u32,
    pub(crate) priority: Priority,
    pub(crate) flow: Flow,
    pub(crate) queued: Instant,
    pub(crate) deadline: Instant,
    pub(crate) message: M,
}

/// The deadline of a request without one, counted from when it is queued: thirty years.
const NO_DEADLINE: Duration = Duration::from_hours(30 * 365 * 24);

impl<M> Waiting<M> {
    /// A request that is queued now. Its id is yet to be given.
    pub(crate) fn new<I>(submission: Submission<I>, message: impl FnOnce(I) -> M) -> Self {
        let queued = Instant::now();
        Self {
            id: 0,
            weight: submission.weight.max(1),
            bucket: submission.bucket,
            priority: submission.priority,
            flow: submission.flow,
            queued,
            deadline: submission.deadline.unwrap_or_else(|| queued + NO_DEADLINE),
            message: message(submission.input),
        }
    }

    fn terms(&self) -> Terms {
        Terms {
            weight: self.weight,
            flow: self.flow,
            priority: self.priority,
            timeout: self.deadline.saturating_duration_since(self.queued),
        }
    }
}

/// What admission needs to know of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) weight: u32,
    pub(crate) flow: Flow,
    pub(crate) priority: Priority,
    pub(crate) timeout: Duration,
}

/// Weight that is [reserved](crate::Queue::reserve), as a request sees it that asks for room.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Reserved {
    /// For requests of higher priorities.
    pub(crate) higher: u32,
    /// For requests of the same priority.
    pub(crate) same: u32,
    /// For requests of the same flow, whatever their priority.
    pub(crate) own: u32,
    /// How many flows have weight reserved.
    pub(crate) flows: u32,
}

/// What a worker finds in the queue.
#[derive(Debug)]
pub(crate) enum Taken<M> {
    /// Requests to run together, at least one.
    Batch(Vec<Waiting<M>>),
    /// The batch is held back for more: look again at this time, or when a request is added.
    NotBefore(Instant),
    Nothing,
}

/// The requests that wait, by priority and then by flow.
#[derive(Debug)]
pub(crate) struct WaitingList<M> {
    limits: Limits,
    /// Indexed by [`Priority::rank`]: high, normal, low.
    by_priority: [FairQueue<Waiting<M>>; 3],
    pub(crate) run_times: RunTimes,
}

impl<M> WaitingList<M> {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            by_priority: Default::default(),
            run_times: RunTimes::default(),
        }
    }

    /// Weight of all requests.
    pub(crate) fn weight(&self) -> u32 {
        self.by_priority.iter().map(FairQueue::weight).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_priority.iter().all(FairQueue::is_empty)
    }

    /// Whether a request with these terms would be taken now, if `workers` share the work.
    ///
    /// In a full queue a flow with less than an equal share is admitted all the same: when its
    /// request is queued, it displaces one of another flow.
    pub(crate) fn admit(&self, terms: Terms, reserved: Reserved, workers: usize) -> Result<(), Refusal> {
        let Terms {
            weight,
            flow,
            priority,
            ..
        } = terms;
        let capacity = self.limits.capacity;
        self.check(terms, reserved, workers)?;
        if self.weight_down_to(priority) + reserved.higher + reserved.same + weight > capacity {
            let queues = &self.by_priority[..=priority.rank()];
            let flows = queues.iter().map(|queue| flows_with(queue, flow, reserved));
            let own: u32 = queues.iter().map(|queue| queue.weight_of(flow)).sum();
            if own + reserved.own + weight > capacity / flows.max().unwrap_or(1) {
                return Err(Refusal::Full { capacity });
            }
        }
        Ok(())
    }

    /// Weight of the requests of this priority and of higher ones.
    fn weight_down_to(&self, priority: Priority) -> u32 {
        let queues = &self.by_priority[..=priority.rank()];
        queues.iter().map(FairQueue::weight).sum()
    }

    /// Whether a request fits into a batch, and is expected to run before its deadline.
    fn check(&self, terms: Terms, reserved: Reserved, workers: usize) -> Result<(), Refusal> {
        let Terms {
            weight,
            flow,
            priority,
            timeout,
        } = terms;
        let max_weight = self.limits.max_weight;
        if weight > max_weight {
            return Err(Refusal::TooLarge { weight, max_weight });
        }
        let queue = &self.by_priority[priority.rank()];
        let higher = self.weight_down_to(priority) - queue.weight() + reserved.higher;
        let same = queue.weight() + reserved.same;
        if higher + same == 0 {
            // A request with nothing ahead of it is taken whatever the averages say: they must be
            // able to recover.
            return Ok(());
        }
        // Before this request is served, each flow is served at most as much as this request's own.
        let own_service = queue.backlog_of(flow) + u64::from(reserved.own) + u64::from(weight);
        let all_service = own_service * u64::from(flows_with(queue, flow, reserved));
        let same = same.min(u32::try_from(all_service).unwrap_or(u32::MAX));
        match self.run_times.until_run(higher + same + weight, workers) {
            Some(wait) if wait > timeout => Err(Refusal::TooLate { wait }),
            _ => Ok(()),
        }
    }

    /// Adds a request, or says why not. In a full queue it displaces others, which are moved to
    /// `displaced`: the newest of lower priorities, and within its own priority the newest of the
    /// flow that has most waiting, if its own flow has less than an equal share.
    pub(crate) fn push(
        &mut self,
        waiting: Waiting<M>,
        workers: usize,
        displaced: &mut Vec<Waiting<M>>,
    ) -> Result<(), Refusal> {
        let Waiting {
            weight,
            flow,
            priority,
            ..
        } = waiting;
        self.check(waiting.terms(), Reserved::default(), workers)?;
        let capacity = self.limits.capacity;
        let rank = priority.rank();
        let missing = (self.weight_down_to(priority) + weight).saturating_sub(capacity);
        if missing > 0 && !self.by_priority[rank].would_yield(missing, flow, weight) {
            return Err(Refusal::Full { capacity });
        }
        while self.weight() + weight > capacity {
            let mut lowest_first = self.by_priority[rank..].iter_mut().rev();
            let Some(newest) = lowest_first.find_map(FairQueue::remove_last) else {
                break;
            };
            displaced.push(newest);
        }
        self.by_priority[rank].push(flow, weight, waiting);
        Ok(())
    }

    /// Takes the requests for one batch: the first in the queue, and those of its bucket that fit
    /// beside it, in their order. A request is left out if the batch would then be expected to
    /// outlast the deadline of one of its requests. Requests whose deadline has passed are moved to
    /// `expired`. With `flush`, `max_wait` does not count.
    pub(crate) fn take(&mut self, now: Instant, flush: bool, expired: &mut Vec<Waiting<M>>) -> Taken<M> {
        if !flush && let Some(at) = self.not_before(now) {
            return Taken::NotBefore(at);
        }
        match self.take_up_to(self.limits.max_weight, now, expired) {
            Some(batch) => Taken::Batch(batch),
            None => Taken::Nothing,
        }
    }

    /// Takes a batch that a caller may run. There is none if the first request is too heavy for
    /// that.
    pub(crate) fn take_for_caller(
        &mut self,
        now: Instant,
        expired: &mut Vec<Waiting<M>>,
    ) -> Option<Vec<Waiting<M>>> {
        self.take_up_to(self.limits.caller_weight, now, expired)
    }

    fn take_up_to(
        &mut self,
        max_weight: u32,
        now: Instant,
        expired: &mut Vec<Waiting<M>>,
    ) -> Option<Vec<Waiting<M>>> {
        let mut batch = Forming::new(max_weight, self.limits.fill_weight);
        'queues: for queue in &mut self.by_priority {
            let mut at = 0;
            while let Some(next) = queue.get(at) {
                if next.deadline <= now {
                    expired.extend(queue.remove(at));
                    continue;
                }
                match batch.fits(next, now, &self.run_times) {
                    Fit::Joins => queue.serve(at).into_iter().for_each(|next| batch.add(next)),
                    Fit::OtherBucket => at += 1,
                    Fit::Complete => break 'queues,
                }
            }
        }
        Some(batch.requests).filter(|requests| !requests.is_empty())
    }

    /// When the oldest request has waited for `max_wait`, if that time is to come and there is no
    /// full batch.
    fn not_before(&self, now: Instant) -> Option<Instant> {
        if self.limits.max_wait.is_zero() || self.weight() >= self.limits.max_weight {
            return None;
        }
        // Short: there are fewer requests than one batch holds.
        let waiting = self.by_priority.iter().flat_map(FairQueue::iter);
        let at = waiting.map(|waiting| waiting.queued).min()? + self.limits.max_wait;
        (at > now).then_some(at)
    }

    pub(crate) fn remove(&mut self, id: u64) -> Option<Waiting<M>> {
        self.by_priority.iter_mut().find_map(|queue| {
            let at = queue.iter().position(|waiting| waiting.id == id)?;
            queue.remove(at)
        })
    }

    pub(crate) fn drain(&mut self) -> Vec<Waiting<M>> {
        self.by_priority.iter_mut().flat_map(FairQueue::drain).collect()
    }
}

/// How many flows share a queue at least, if `flow` has a request in it.
fn flows_with<M>(queue: &FairQueue<Waiting<M>>, flow: Flow, reserved: Reserved) -> u32 {
    let waiting = queue.flows() + u32::from(queue.weight_of(flow) == 0);
    let with_reserved = reserved.flows + u32::from(reserved.own == 0);
    waiting.max(with_reserved)
}
