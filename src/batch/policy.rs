//! Who is admitted, and who goes into the next batch. Pure: it knows no threads, no wakers and no clock.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::Refusal;

/// Limits of a queue and of the batches that are taken from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest weight of a batch.
    pub max_weight: u32,
    /// Largest weight that waits in the queue.
    pub capacity: u32,
    /// How long a batch that is not full may wait for more, from when its first member was queued. Zero: not at all.
    pub max_wait: Duration,
}

/// A request that waits.
#[derive(Debug)]
pub(super) struct Waiting<M> {
    pub(super) id: u64,
    pub(super) weight: u32,
    pub(super) queued: Instant,
    pub(super) deadline: Instant,
    pub(super) message: M,
}

/// What a worker finds in the queue.
#[derive(Debug)]
pub(super) enum Taken<M> {
    /// Requests to run together, at least one.
    Batch(Vec<Waiting<M>>),
    /// More may come: look again at this time, or when a request is added.
    NotBefore(Instant),
    /// Nothing waits.
    Nothing,
}

/// Requests in the order in which they came.
#[derive(Debug)]
pub(super) struct WaitingList<M> {
    limits: Limits,
    list: VecDeque<Waiting<M>>,
    weight: u32,
}

impl<M> WaitingList<M> {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            list: VecDeque::new(),
            weight: 0,
        }
    }

    /// Weight of all that waits.
    pub(super) fn weight(&self) -> u32 {
        self.weight
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether a request of this weight would be taken.
    pub(super) fn admit(&self, weight: u32) -> Result<(), Refusal> {
        let Limits {
            max_weight, capacity, ..
        } = self.limits;
        if weight > max_weight {
            return Err(Refusal::TooLarge { weight, max_weight });
        }
        if self.weight.saturating_add(weight) > capacity {
            return Err(Refusal::Full { capacity });
        }
        Ok(())
    }

    /// Adds a request that was admitted.
    pub(super) fn push(&mut self, waiting: Waiting<M>) {
        self.weight += waiting.weight;
        self.list.push_back(waiting);
    }

    /// Takes the requests for one batch, oldest first, as many as fit. Those whose deadline has passed are moved to
    /// `expired` instead. With `flush`, `max_wait` does not count.
    pub(super) fn take(&mut self, now: Instant, flush: bool, expired: &mut Vec<Waiting<M>>) -> Taken<M> {
        if !flush && let Some(at) = self.not_before(now) {
            return Taken::NotBefore(at);
        }
        let mut batch = Vec::new();
        let mut room = self.limits.max_weight;
        while let Some(first) = self.list.front() {
            let is_expired = first.deadline <= now;
            if !is_expired && first.weight > room {
                break;
            }
            let Some(waiting) = self.list.pop_front() else {
                break;
            };
            self.weight -= waiting.weight;
            if is_expired {
                expired.push(waiting);
            } else {
                room -= waiting.weight;
                batch.push(waiting);
            }
        }
        if batch.is_empty() {
            Taken::Nothing
        } else {
            Taken::Batch(batch)
        }
    }

    /// When the batch at the front has waited long enough, if that is still to come.
    fn not_before(&self, now: Instant) -> Option<Instant> {
        if self.limits.max_wait.is_zero() || self.weight >= self.limits.max_weight {
            return None;
        }
        let at = self.list.front()?.queued + self.limits.max_wait;
        (at > now).then_some(at)
    }

    /// Takes out one request.
    pub(super) fn remove(&mut self, id: u64) -> Option<Waiting<M>> {
        let at = self.list.iter().position(|waiting| waiting.id == id)?;
        let waiting = self.list.remove(at)?;
        self.weight -= waiting.weight;
        Some(waiting)
    }

    /// Takes out all.
    pub(super) fn drain(&mut self) -> Vec<Waiting<M>> {
        self.weight = 0;
        self.list.drain(..).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(max_weight: u32, capacity: u32, max_wait_ms: u64) -> WaitingList<&'static str> {
        WaitingList::new(Limits {
            max_weight,
            capacity,
            max_wait: Duration::from_millis(max_wait_ms),
        })
    }

    fn push(
        list: &mut WaitingList<&'static str>,
        name: &'static str,
        weight: u32,
        queued: Instant,
        timeout_ms: u64,
    ) {
        list.admit(weight).unwrap();
        list.push(Waiting {
            id: list.list.len() as u64,
            weight,
            queued,
            deadline: queued + Duration::from_millis(timeout_ms),
            message: name,
        });
    }

    /// Names of the batch, names of the expired.
    fn take(list: &mut WaitingList<&'static str>, now: Instant) -> (Vec<&'static str>, Vec<&'static str>) {
        let mut expired = Vec::new();
        let names = |waiting: Vec<Waiting<&'static str>>| waiting.into_iter().map(|w| w.message).collect();
        let batch = match list.take(now, false, &mut expired) {
            Taken::Batch(batch) => names(batch),
            Taken::NotBefore(_) | Taken::Nothing => Vec::new(),
        };
        (batch, names(expired))
    }

    #[test]
    fn a_batch_is_as_full_as_its_weight_allows_and_keeps_the_order() {
        let now = Instant::now();
        let mut list = list(4, 100, 0);
        for (name, weight) in [("a", 1), ("b", 2), ("c", 2), ("d", 1)] {
            push(&mut list, name, weight, now, 1000);
        }
        // d would fit beside a and b, but must not overtake c.
        assert_eq!(take(&mut list, now), (vec!["a", "b"], vec![]));
        assert_eq!(take(&mut list, now), (vec!["c", "d"], vec![]));
        assert_eq!(list.weight(), 0);
    }

    #[test]
    fn what_can_never_fit_and_what_does_not_fit_now_are_refused() {
        let mut list = list(4, 6, 0);
        assert_eq!(
            list.admit(5),
            Err(Refusal::TooLarge {
                weight: 5,
                max_weight: 4
            })
        );
        push(&mut list, "a", 4, Instant::now(), 1000);
        assert_eq!(list.admit(3), Err(Refusal::Full { capacity: 6 }));
        assert_eq!(list.admit(2), Ok(()));
    }

    #[test]
    fn expired_requests_take_no_room_in_a_batch() {
        let now = Instant::now();
        let mut list = list(2, 100, 0);
        push(&mut list, "late", 2, now, 10);
        push(&mut list, "a", 1, now, 1000);
        push(&mut list, "later", 1, now, 20);
        push(&mut list, "b", 1, now, 1000);
        let later = now + Duration::from_millis(50);
        assert_eq!(take(&mut list, later), (vec!["a", "b"], vec!["late", "later"]));
    }

    #[test]
    fn max_wait_holds_a_batch_back_until_it_is_full_or_old() {
        let now = Instant::now();
        let mut list = list(2, 100, 5);
        push(&mut list, "a", 1, now, 1000);
        let held = list.take(now, false, &mut Vec::new());
        assert!(matches!(held, Taken::NotBefore(at) if at == now + Duration::from_millis(5)));
        assert_eq!(take(&mut list, now + Duration::from_millis(5)).0, ["a"], "old");
        push(&mut list, "b", 1, now, 1000);
        push(&mut list, "c", 1, now, 1000);
        assert_eq!(take(&mut list, now).0, ["b", "c"], "full");
        push(&mut list, "d", 1, now, 1000);
        let flushed = list.take(now, true, &mut Vec::new());
        assert!(
            matches!(flushed, Taken::Batch(batch) if batch.len() == 1),
            "flushed"
        );
    }

    #[test]
    fn a_removed_request_gives_its_room_back() {
        let now = Instant::now();
        let mut list = list(4, 4, 0);
        push(&mut list, "a", 2, now, 1000);
        push(&mut list, "b", 2, now, 1000);
        assert!(list.admit(1).is_err());
        assert_eq!(list.remove(0).map(|waiting| waiting.message), Some("a"));
        assert_eq!(list.admit(2), Ok(()));
        assert!(list.remove(0).is_none(), "once");
    }
}
