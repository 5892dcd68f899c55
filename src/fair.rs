//! Shares a model equally between clients *before* its queue.
//!
//! The queue of a model is fair between clients ([`batching::FairQueue`]). Work that is done before
//! a request is queued is not: decoding, tokenising, and, where requests run their own batches, the
//! run. It is done on the requests' tasks, and the runtime polls tasks in the order in which they
//! became ready. A client with a thousand connections has a thousand tasks there, and would get a
//! thousand times the service of a client with one.
//!
//! [`Permits`] bound how many requests do such work at a time, and hand the permits out fairly.
//! They cost time when there is nothing to share, so they only count while more than one client is
//! active.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use batching::{FairQueue, Flow};
use tokio::sync::oneshot;

/// Lets a number of requests work at a time, and shares that number equally between flows. While
/// only one flow is active, any number of its requests may work.
#[derive(Debug)]
pub struct Permits {
    permits: u32,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    working: u32,
    waiting: FairQueue<Waiter>,
    next_id: u64,
    /// The flow of the request that came last.
    latest_flow: Flow,
    /// When a request came last that was of another flow than the one before it.
    flow_changed: Option<Instant>,
}

#[derive(Debug)]
struct Waiter {
    id: u64,
    granted: oneshot::Sender<()>,
}

/// For this long after two flows were active, the number of permits counts.
const SHARED_FOR: Duration = Duration::from_secs(1);

impl Permits {
    pub fn new(permits: u32) -> Self {
        Self {
            permits,
            state: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is complete, so a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a permit, which the request has until it drops it.
    pub async fn acquire(&self, flow: Flow, weight: u32) -> Permit<'_> {
        let (id, granted) = {
            let mut state = self.lock();
            if flow != state.latest_flow {
                state.latest_flow = flow;
                state.flow_changed = Some(Instant::now());
            }
            if state.waiting.is_empty() && state.has_permit(self.permits) {
                state.working += 1;
                return Permit(self);
            }
            let (granted, is_granted) = oneshot::channel();
            let id = state.next_id;
            state.next_id += 1;
            state.waiting.push(flow, weight, Waiter { id, granted });
            (id, is_granted)
        };
        let mut waiting = Waiting {
            permits: self,
            id,
            granted,
            is_done: false,
        };
        // Never fails: the sender is in the list of waiters until it sends.
        let _ = (&mut waiting.granted).await;
        waiting.is_done = true;
        Permit(self)
    }

    fn release(&self) {
        let mut state = self.lock();
        state.working -= 1;
        while !state.waiting.is_empty() && state.has_permit(self.permits) {
            let Some(next) = state.waiting.serve(0) else { break };
            state.working += 1;
            // A request that goes away now gives the permit back when it drops its `Waiting`.
            let _ = next.granted.send(());
        }
    }
}

impl State {
    fn has_permit(&self, permits: u32) -> bool {
        let is_shared = self.flow_changed.is_some_and(|at| at.elapsed() <= SHARED_FOR);
        self.working < permits || !is_shared
    }
}

/// Permission to work; dropping it gives it to the next request.
#[derive(Debug)]
pub struct Permit<'a>(&'a Permits);

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// A request that waits for a permit. Dropping it takes the request off the list, or gives back a
/// permit that was granted but not taken yet.
struct Waiting<'a> {
    permits: &'a Permits,
    id: u64,
    granted: oneshot::Receiver<()>,
    is_done: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        let mut state = self.permits.lock();
        let at = state.waiting.iter().position(|waiter| waiter.id == self.id);
        if let Some(at) = at {
            state.waiting.remove(at);
        } else {
            drop(state);
            self.permits.release();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;

    const A: Flow = Flow(1);
    const B: Flow = Flow(2);

    #[test]
    fn a_single_flow_is_not_limited() {
        let permits = Permits::new(2);
        let mut many: Vec<_> = (0..10)
            .map(|_| task::spawn(permits.acquire(Flow(0), 1)))
            .collect();
        let working: Vec<_> = many.iter_mut().map(|one| assert_ready!(one.poll())).collect();
        assert_eq!(permits.lock().working, 10);
        drop(working);
        assert_eq!(permits.lock().working, 0);
    }

    #[test]
    fn flows_that_meet_share_the_permits() {
        let permits = Permits::new(2);
        let acquire = |flow| task::spawn(permits.acquire(flow, 1));
        let (mut a1, mut b0) = (acquire(A), acquire(B));
        let mut working = vec![assert_ready!(a1.poll()), assert_ready!(b0.poll())];
        let mut of_a: Vec<_> = (0..4).map(|_| acquire(A)).collect();
        for one in &mut of_a {
            assert_pending!(one.poll());
        }
        let mut b1 = acquire(B);
        assert_pending!(b1.poll());
        working.pop();
        let first = assert_ready!(of_a[0].poll());
        assert_pending!(b1.poll());
        drop(first);
        let of_b = assert_ready!(b1.poll());
        assert_pending!(of_a[1].poll());
        drop(of_b);
        assert!(of_a[1].is_woken());
    }

    #[test]
    fn a_request_that_has_gone_takes_no_permit() {
        let permits = Permits::new(1);
        let acquire = |flow| task::spawn(permits.acquire(flow, 1));
        let mut first = acquire(A);
        let working = assert_ready!(first.poll());
        let (mut gone, mut granted, mut last) = (acquire(B), acquire(A), acquire(B));
        for waiting in [&mut gone, &mut granted, &mut last] {
            assert_pending!(waiting.poll());
        }
        drop(gone);
        drop(working);
        drop(granted);
        drop(assert_ready!(last.poll()));
        let state = permits.lock();
        assert!(state.waiting.is_empty());
        assert_eq!(state.working, 0);
    }
}
