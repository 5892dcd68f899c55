//! Memory budgets that all requests share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::HashMap;

use batching::Flow;

/// The requests of one client may take this many times the memory that is then left free. A client
/// that is alone can take three quarters of the budget.
///
/// A larger factor leaves less for others, a smaller one leaves more memory unused. This is the
/// dynamic threshold of Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory
/// packet switches", IEEE/ACM Transactions on Networking 6(2), 1998.
const TIMES_FREE: u64 = 3;

/// A number of bytes of which requests take shares.
///
/// A client with many requests always leaves some for others. The only request of a client may take
/// all that is free.
#[derive(Debug)]
pub struct Budget {
    state: Arc<Mutex<State>>,
    limit: u64,
}

#[derive(Debug, Default)]
struct State {
    used: u64,
    /// Bytes by client. Clients without any are removed.
    flows: HashMap<Flow, u64>,
}

/// The most that the requests of one client can take together of a budget of `limit` bytes.
pub fn most_of_one_client(limit: u64) -> u64 {
    limit / (TIMES_FREE + 1) * TIMES_FREE
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // The state is consistent even after a panic.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Budget {
    pub fn new(limit: u64) -> Self {
        Self {
            state: Arc::default(),
            limit,
        }
    }

    /// Size of the budget in bytes.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    pub fn used(&self) -> u64 {
        lock(&self.state).used
    }

    /// An empty share for a request of this client.
    pub fn share(&self, flow: Flow) -> Share {
        Share {
            state: Arc::clone(&self.state),
            limit: self.limit,
            flow,
            taken: 0,
        }
    }
}

/// The bytes that one request has taken, returned on drop.
#[derive(Debug)]
pub struct Share {
    state: Arc<Mutex<State>>,
    limit: u64,
    flow: Flow,
    taken: u64,
}

impl Share {
    /// Size of the whole budget in bytes.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Grows the share to `bytes` in total. Returns false and changes nothing if that is not
    /// available to this client.
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
