//! Models with long runs: several runs use one CPU each, a lone run uses all CPUs.
//!
//! Each lane has a session of one thread. All lanes of the model share the *wide session*, which
//! has a thread for each CPU. A run that finds no other run of the model takes the wide session.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use classifier::RunError;

use super::{Backend, Interrupt, Job};

/// A lane's own session, and the wide session that it shares with the other lanes.
#[derive(Debug)]
pub(super) struct LaneSessions<B> {
    pub(super) own: B,
    pub(super) wide: Arc<WideSession<B>>,
}

#[derive(Debug)]
pub(super) struct WideSession<B> {
    /// `None` while a run uses the session, and after a failed run, whose effect on it is unknown.
    session: Mutex<Option<B>>,
    /// Number of lanes that are in a run.
    running: AtomicUsize,
}

impl<B> Default for WideSession<B> {
    fn default() -> Self {
        Self {
            session: Mutex::new(None),
            running: AtomicUsize::new(0),
        }
    }
}

impl<B> WideSession<B> {
    pub(super) fn lock(&self) -> MutexGuard<'_, Option<B>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the count of a run when dropped, so that a run that panics is not counted forever.
struct Running<'a>(&'a AtomicUsize);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<B: Backend> Backend for LaneSessions<B> {
    fn run(&mut self, jobs: &[Job], watch: &dyn Fn(Interrupt)) -> Result<Vec<f32>, RunError> {
        let others = self.wide.running.fetch_add(1, Ordering::Relaxed);
        let _running = Running(&self.wide.running);
        // The session is taken out, so that it is gone if the run panics.
        let wide = (others == 0).then(|| self.wide.lock().take()).flatten();
        let Some(mut wide) = wide else {
            return self.own.run(jobs, watch);
        };
        let result = wide.run(jobs, watch);
        if matches!(result, Ok(_) | Err(RunError::Interrupted)) {
            *self.wide.lock() = Some(wide);
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// Outputs its number. With a channel, it runs until it is told to go on.
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
    const WIDE: f32 = 2.0;

    fn lane(wide: &Arc<WideSession<Named>>) -> LaneSessions<Named> {
        LaneSessions {
            own: Named(OWN, None),
            wide: Arc::clone(wide),
        }
    }

    fn run(lane: &mut LaneSessions<Named>) -> Result<Vec<f32>, RunError> {
        lane.run(&[], &|_| {})
    }

    #[test]
    fn a_lone_run_uses_the_wide_session_and_a_concurrent_run_does_not() {
        let wide = Arc::new(WideSession::default());
        let (started, has_started) = mpsc::channel();
        let (go_on, goes_on) = mpsc::channel();
        *wide.lock() = Some(Named(WIDE, Some((started, goes_on))));
        let mut first = lane(&wide);
        let first = std::thread::spawn(move || run(&mut first));
        has_started.recv_timeout(Duration::from_secs(20)).unwrap();

        let mut second = lane(&wide);
        assert_eq!(run(&mut second), Ok(vec![OWN]));
        go_on.send(()).unwrap();
        assert_eq!(first.join().unwrap(), Ok(vec![WIDE]));

        go_on.send(()).unwrap();
        assert_eq!(run(&mut second), Ok(vec![WIDE]), "alone again");
    }

    #[test]
    fn a_failed_run_drops_only_the_wide_session() {
        let wide = Arc::new(WideSession::default());
        *wide.lock() = Some(Named(-1.0, None));
        let mut lane = lane(&wide);
        assert!(run(&mut lane).is_err());
        assert!(wide.lock().is_none());
        assert_eq!(run(&mut lane), Ok(vec![OWN]));
    }
}
