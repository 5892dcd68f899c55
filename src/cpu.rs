//! How many CPUs there really are, and who gets them.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;

/// CPUs that this process may use: the affinity mask and the cgroup quota (v1 and v2) count, not the host.
pub fn available() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Runs work that is too long for the threads that serve connections, at most so many at a time as there are CPUs.
#[derive(Debug)]
pub struct Pool {
    running: Semaphore,
    waiting: AtomicUsize,
    max_waiting: usize,
}

/// Why the pool gave no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PoolError {
    /// As much work waits as may.
    Full,
    /// The work panicked.
    Panicked,
}

impl Pool {
    /// A pool in which at most `max_waiting` pieces of work wait.
    pub fn new(cpus: usize, max_waiting: usize) -> Self {
        Self {
            running: Semaphore::new(cpus),
            waiting: AtomicUsize::new(0),
            max_waiting,
        }
    }

    /// Runs `work`. Dropping the future before the work has begun takes it back.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PoolError> {
        let permit = if let Ok(permit) = self.running.try_acquire() {
            permit
        } else {
            let _waiting = Waiting::enter(self)?;
            // The semaphore is never closed.
            self.running.acquire().await.map_err(|_| PoolError::Full)?
        };
        let result = tokio::task::spawn_blocking(work).await;
        drop(permit);
        result.map_err(|_| PoolError::Panicked)
    }
}

/// Counts one waiting piece of work for as long as it waits.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn enter(pool: &'a Pool) -> Result<Self, PoolError> {
        let waiting = Self(&pool.waiting);
        if pool.waiting.fetch_add(1, Ordering::Relaxed) >= pool.max_waiting {
            return Err(PoolError::Full);
        }
        Ok(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};

    use super::*;

    #[tokio::test]
    async fn work_beyond_the_limit_is_refused_and_the_pool_goes_on() {
        let pool = Arc::new(Pool::new(1, 1));
        let (release, released) = mpsc::channel::<()>();
        let first = tokio::spawn({
            let pool = Arc::clone(&pool);
            async move { pool.run(move || released.recv().is_ok()).await }
        });
        while pool.running.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let mut second = tokio_test::task::spawn(pool.run(|| 2));
        tokio_test::assert_pending!(second.poll());
        assert_eq!(pool.run(|| 3).await, Err(PoolError::Full));
        release.send(()).unwrap();
        assert_eq!(first.await.unwrap(), Ok(true));
        assert_eq!(second.await, Ok(2));
        assert_eq!(pool.run(|| 4).await, Ok(4));
    }

    #[tokio::test]
    async fn a_panic_is_an_error_of_its_own_work_alone() {
        let pool = Pool::new(1, 1);
        assert_eq!(
            pool.run(|| panic!("asked to panic")).await,
            Err::<(), _>(PoolError::Panicked)
        );
        assert_eq!(pool.run(|| 1).await, Ok(1));
    }

    #[tokio::test]
    async fn work_whose_caller_has_gone_leaves_the_line() {
        let pool = Pool::new(1, 1);
        let held = pool.running.acquire().await.unwrap();
        let mut gone = tokio_test::task::spawn(pool.run(|| panic!("nobody waits for this")));
        tokio_test::assert_pending!(gone.poll());
        drop(gone);
        let mut next = tokio_test::task::spawn(pool.run(|| 1));
        tokio_test::assert_pending!(next.poll());
        drop(held);
        assert_eq!(next.await, Ok(1));
    }
}
