//! Memory that all requests share, counted in bytes.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes that one permit stands for: a semaphore counts to 2^29 on 32-bit machines, and a body need not be counted to the byte.
const UNIT: u64 = 1024;

/// So many bytes, of which requests take some and give them back when they have ended.
#[derive(Debug)]
pub struct Budget {
    free: Arc<Semaphore>,
    limit: u64,
}

impl Budget {
    /// A budget of so many bytes, rounded up to KiB.
    pub fn new(limit: u64) -> Self {
        let units = usize::try_from(limit.div_ceil(UNIT)).unwrap_or(usize::MAX);
        Self {
            free: Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS))),
            limit,
        }
    }

    /// All of it, in bytes.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// How many bytes are taken.
    pub fn used(&self) -> u64 {
        let free = self.free.available_permits() as u64 * UNIT;
        self.limit.next_multiple_of(UNIT).saturating_sub(free)
    }

    /// Nothing of it yet.
    pub fn share(&self) -> Share {
        Share {
            budget: Arc::clone(&self.free),
            taken: None,
        }
    }
}

/// What one request has taken. Dropping it gives it back.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Semaphore>,
    taken: Option<OwnedSemaphorePermit>,
}

impl Share {
    /// Takes as much more as is missing to `bytes` in all. False if the budget has not as much left; then nothing changes.
    pub fn grow_to(&mut self, bytes: u64) -> bool {
        let taken = self.taken.as_ref().map_or(0, OwnedSemaphorePermit::num_permits) as u64;
        let Ok(missing) = u32::try_from(bytes.div_ceil(UNIT).saturating_sub(taken)) else {
            return false;
        };
        if missing == 0 {
            return true;
        }
        let Ok(more) = Arc::clone(&self.budget).try_acquire_many_owned(missing) else {
            return false;
        };
        match &mut self.taken {
            Some(taken) => taken.merge(more),
            None => self.taken = Some(more),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_grows_as_far_as_the_budget_goes_and_is_given_back() {
        let budget = Budget::new(10 * UNIT);
        let (mut one, mut other) = (budget.share(), budget.share());
        assert!(one.grow_to(1));
        assert!(one.grow_to(4 * UNIT));
        assert!(one.grow_to(3 * UNIT));
        assert_eq!(budget.used(), 4 * UNIT);
        assert!(!other.grow_to(7 * UNIT));
        assert!(other.grow_to(6 * UNIT));
        assert_eq!(budget.used(), 10 * UNIT);
        drop(one);
        assert!(other.grow_to(10 * UNIT));
        drop(other);
        assert_eq!(budget.used(), 0);
        assert!(!budget.share().grow_to(u64::MAX));
    }
}
