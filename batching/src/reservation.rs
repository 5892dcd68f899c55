use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::time::Instant;

use crate::policy::{Reserved, Terms};
use crate::queue::Queue;
use crate::{Flow, Priority, Refusal};

/// Room in a queue for a request that is not queued yet; see [`Queue::reserve`].
///
/// Dropping it gives the room back. Drop it right before the request is queued, so that the request
/// finds the room.
#[must_use = "the room is given back when the reservation is dropped"]
pub struct Reservation<I, O, E> {
    queue: Queue<I, O, E>,
    weight: u32,
    flow: Flow,
    priority: Priority,
}

impl<I, O, E> Queue<I, O, E> {
    /// Reserves room for a request that has to be prepared before it can be queued, or refuses it
    /// as the queue would.
    ///
    /// For requests that cost something to prepare, such as an image to decode: nothing is done for
    /// a request that a full queue would refuse afterwards. Later reservations count the reserved
    /// weight as if it were queued.
    ///
    /// # Errors
    ///
    /// The [`Refusal`] that queueing the request now would fail with.
    pub fn reserve(
        &self,
        weight: u32,
        flow: Flow,
        priority: Priority,
        deadline: Instant,
    ) -> Result<Reservation<I, O, E>, Refusal> {
        let weight = weight.max(1);
        let timeout = deadline.saturating_duration_since(Instant::now());
        let terms = Terms {
            weight,
            flow,
            priority,
            timeout,
        };
        let counts = self.reserved();
        self.with_policy(|policy, workers| {
            policy.admit(terms, counts.reserved_for(flow, priority), workers)?;
            // Only ever added to under the lock of the policy, so that two requests cannot get the
            // same room.
            counts.add(weight, flow, priority);
            Ok(())
        })?;
        Ok(Reservation {
            queue: self.clone(),
            weight,
            flow,
            priority,
        })
    }
}

impl<I, O, E> Drop for Reservation<I, O, E> {
    fn drop(&mut self) {
        self.queue
            .reserved()
            .subtract(self.weight, self.flow, self.priority);
    }
}

impl<I, O, E> fmt::Debug for Reservation<I, O, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation")
            .field("weight", &self.weight)
            .finish_non_exhaustive()
    }
}

const COUNTS: usize = 1024;

/// Weight that is reserved, by priority and by flow, in bounded memory and without a lock.
pub(crate) struct ReservedWeight {
    by_priority: [AtomicU32; 3],
    /// Flows share a count where their numbers agree modulo [`COUNTS`], which makes each of them
    /// look like one flow with more reserved than it has.
    by_flow: Box<[AtomicU32; COUNTS]>,
    /// How many of the counts by flow are not zero.
    flows: AtomicU32,
}

impl ReservedWeight {
    pub(crate) fn new() -> Self {
        Self {
            by_priority: Default::default(),
            by_flow: Box::new([const { AtomicU32::new(0) }; COUNTS]),
            flows: AtomicU32::new(0),
        }
    }

    fn of_flow(&self, flow: Flow) -> &AtomicU32 {
        &self.by_flow[(flow.0 % COUNTS as u64) as usize]
    }

    fn reserved_for(&self, flow: Flow, priority: Priority) -> Reserved {
        let (higher, rest) = self.by_priority.split_at(priority.rank());
        let load = |count: &AtomicU32| count.load(Ordering::Relaxed);
        Reserved {
            higher: higher.iter().map(load).sum(),
            same: rest.first().map_or(0, load),
            own: load(self.of_flow(flow)),
            flows: load(&self.flows),
        }
    }

    fn add(&self, weight: u32, flow: Flow, priority: Priority) {
        self.by_priority[priority.rank()].fetch_add(weight, Ordering::Relaxed);
        if self.of_flow(flow).fetch_add(weight, Ordering::Relaxed) == 0 {
            self.flows.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn subtract(&self, weight: u32, flow: Flow, priority: Priority) {
        self.by_priority[priority.rank()].fetch_sub(weight, Ordering::Relaxed);
        if self.of_flow(flow).fetch_sub(weight, Ordering::Relaxed) == weight {
            self.flows.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
