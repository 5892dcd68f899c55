//! Long runs: side by side when there are many, spread over all CPUs when there is one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use classifier::RunError;

use super::{Backend, Interrupt, Job};

/// A lane's own backend, which has one thread, and the one that all lanes of the model share, which has a thread for each
/// CPU. A run that finds the model idle takes that one.
#[derive(Debug)]
pub(super) struct Solo<B> {
    pub(super) own: B,
    pub(super) shared: Arc<Shared<B>>,
}

/// What the lanes of a model share.
#[derive(Debug)]
pub(super) struct Shared<B> {
    /// None after a failed run: what that leaves behind in it is unknown.
    spread: Mutex<Option<B>>,
    /// Lanes in a run.
    running: AtomicUsize,
}

impl<B> Default for Shared<B> {
    fn default() -> Self {
        Self {
            spread: Mutex::new(None),
            running: AtomicUsize::new(0),
        }
    }
}

impl<B> Shared<B> {
    /// The shared backend, while no run uses it.
    pub(super) fn spread(&self) -> MutexGuard<'_, Option<B>> {
        self.spread.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a run for as long as it takes, also if it panics.
struct Running<'a>(&'a AtomicUsize);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<B: Backend> Backend for Solo<B> {
    fn run(&mut self, jobs: &[Job], watch: &dyn Fn(Interrupt)) -> Result<Vec<f32>, RunError> {
        let others = self.shared.running.fetch_add(1, Ordering::Relaxed);
        let _running = Running(&self.shared.running);
        // Taken out, so that a panic leaves none behind.
        let spread = (others == 0).then(|| self.shared.spread().take()).flatten();
        let Some(mut spread) = spread else {
            return self.own.run(jobs, watch);
        };
        let result = spread.run(jobs, watch);
        if matches!(result, Ok(_) | Err(RunError::Interrupted)) {
            *self.shared.spread() = Some(spread);
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// Says which one it is; runs until it is told to go on, if it has a channel.
    struct Named(f32, Option<(mpsc::Sender<()>, mpsc::Receiver<()>)>);

    impl Backend for Named {
        fn run(&mut self, _: &[Job], _: &dyn Fn(Interrupt)) -> Result<Vec<f32>, RunError> {
            if let Some((started, go_on)) = &self.1 {
                started.send(()).unwrap();
                go_on.recv_timeout(Duration::from_secs(20)).unwrap();
            }
            if self.0 < 0.0 {
                return Err(RunError::Failed("asked to fail".into()));
            }
            Ok(vec![self.0])
        }
    }

    const OWN: f32 = 1.0;
    const SPREAD: f32 = 2.0;

    fn lane(shared: &Arc<Shared<Named>>) -> Solo<Named> {
        Solo {
            own: Named(OWN, None),
            shared: Arc::clone(shared),
        }
    }

    fn run(lane: &mut Solo<Named>) -> Result<Vec<f32>, RunError> {
        lane.run(&[], &|_| {})
    }

    #[test]
    fn a_lone_run_spreads_and_one_beside_it_does_not() {
        let shared = Arc::new(Shared::default());
        let (started, has_started) = mpsc::channel();
        let (go_on, goes_on) = mpsc::channel();
        *shared.spread() = Some(Named(SPREAD, Some((started, goes_on))));
        let mut first = lane(&shared);
        let first = std::thread::spawn(move || run(&mut first));
        has_started.recv_timeout(Duration::from_secs(20)).unwrap();

        let mut second = lane(&shared);
        assert_eq!(run(&mut second), Ok(vec![OWN]));
        go_on.send(()).unwrap();
        assert_eq!(first.join().unwrap(), Ok(vec![SPREAD]));

        go_on.send(()).unwrap();
        assert_eq!(run(&mut second), Ok(vec![SPREAD]), "alone again");
    }

    #[test]
    fn a_failed_run_takes_the_shared_one_with_it_and_no_more() {
        let shared = Arc::new(Shared::default());
        *shared.spread() = Some(Named(-1.0, None));
        let mut lane = lane(&shared);
        assert!(run(&mut lane).is_err());
        assert!(shared.spread().is_none());
        assert_eq!(run(&mut lane), Ok(vec![OWN]));
    }
}
