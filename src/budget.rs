//! Memory that all requests share, counted in bytes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::HashMap;

use batching::Flow;

/// The requests of one client may take so many times the memory that they leave free: three quarters where nobody else takes any.
/// A larger factor leaves less to others, a smaller one lets much of the memory go unused. The rule is that of dynamic
/// thresholds for shared buffers: Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory packet
/// switches", IEEE/ACM Transactions on Networking 6(2), 1998.
const TIMES_FREE: u64 = 3;

/// So many bytes, of which requests take some and give them back when they have ended.
///
/// A client with many requests always leaves some to others. A client's only request may take all that is free.
#[derive(Debug)]
pub struct Budget {
    state: Arc<Mutex<State>>,
    limit: u64,
}

#[derive(Debug, Default)]
struct State {
    used: u64,
    /// Of those that have some.
    flows: HashMap<Flow, u64>,
}

/// Most of a budget of so many bytes that the requests of one client take together.
pub fn most_of_one_client(limit: u64) -> u64 {
    limit / (TIMES_FREE + 1) * TIMES_FREE
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // Every change under it is complete.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(limit: u64) -> Self {
        Self {
            state: Arc::default(),
            limit,
        }
    }

    /// All of it, in bytes.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// How many bytes are taken.
    pub fn used(&self) -> u64 {
        lock(&self.state).used
    }

    /// Nothing of it yet, for a request of this client.
    pub fn share(&self, flow: Flow) -> Share {
        Share {
            state: Arc::clone(&self.state),
            limit: self.limit,
            flow,
            taken: 0,
        }
    }
}

/// What one request has taken. Dropping it gives it back.
#[derive(Debug)]
pub struct Share {
    state: Arc<Mutex<State>>,
    limit: u64,
    flow: Flow,
    taken: u64,
}

impl Share {
    /// All of the budget, in bytes.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Takes as much more as is missing to `bytes` in all. False if there is not as much left for this client; then nothing
    /// changes.
    pub fn grow_to(&mut self, bytes: u64) -> bool {
        let missing = bytes.saturating_sub(self.taken);
        if missing == 0 {
            return true;
        }
        let mut state = lock(&self.state);
        let Some(free) = (self.limit - state.used).checked_sub(missing) else {
            return false;
        };
        let held = state.flows.entry(self.flow).or_default();
        if *held > self.taken && *held + missing > free.saturating_mul(TIMES_FREE) {
            return false;
        }
        *held += missing;
        state.used += missing;
        self.taken = bytes;
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.taken == 0 {
            return;
        }
        let mut state = lock(&self.state);
        state.used -= self.taken;
        if let Some(held) = state.flows.get_mut(&self.flow) {
            *held -= self.taken;
            if *held == 0 {
                state.flows.remove(&self.flow);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Flow = Flow(1);
    const B: Flow = Flow(2);

    #[test]
    fn a_share_grows_as_far_as_the_budget_goes_and_is_given_back() {
        let budget = Budget::new(10);
        let (mut one, mut other) = (budget.share(A), budget.share(B));
        assert!(one.grow_to(1));
        assert!(one.grow_to(4));
        assert!(one.grow_to(3));
        assert_eq!(budget.used(), 4);
        assert!(!other.grow_to(7));
        assert!(other.grow_to(6));
        assert_eq!(budget.used(), 10);
        drop(one);
        assert!(other.grow_to(10));
        drop(other);
        assert_eq!(budget.used(), 0);
        assert!(!budget.share(A).grow_to(u64::MAX));
        assert!(lock(&budget.state).flows.is_empty());
    }

    #[test]
    fn a_client_with_many_requests_leaves_some_to_others() {
        let budget = Budget::new(100);
        let take = |flow| {
            let mut share = budget.share(flow);
            share.grow_to(10).then_some(share)
        };
        let many: Vec<_> = std::iter::from_fn(|| take(A)).collect();
        assert_eq!(many.len(), 7, "at most three quarters");
        let other = take(B).expect("a request of another client");
        assert!(take(A).is_none());
        drop(many);
        let many: Vec<_> = std::iter::from_fn(|| take(A)).collect();
        assert_eq!(many.len(), 6, "three times what is free");
        drop(other);
    }

    #[test]
    fn the_only_request_of_a_client_may_take_all_that_is_free() {
        let budget = Budget::new(100);
        let mut other = budget.share(B);
        assert!(other.grow_to(20));
        let mut only = budget.share(A);
        assert!(only.grow_to(50) && only.grow_to(80));
        assert!(!other.grow_to(21));
    }
}
