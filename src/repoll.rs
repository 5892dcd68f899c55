//! Polls a connection's task again at once when the task has woken itself, so that the task stays
//! on its thread.
//!
//! # Why it exists
//!
//! A connection of hyper wakes its own task twice for each request, from within the task's poll:
//! when the handler asks for the body, and when the body is there. The task has everything it needs
//! to go on. For tokio, though, a task that is woken while it is polled is one that *yields*: when
//! the poll ends, the task goes to the back of the worker thread's queue, and because there is a
//! task in the queue now, tokio wakes another worker thread to help. That thread finds the task and
//! steals it. Each request then costs the wake-up of a thread, and the connection's data follow the
//! task from core to core. With few connections and a small model this took more time than the rest
//! of the request; docs/performance.md has the figures.
//!
//! # What it does to a connection's task
//!
//! [`Repoll`] wraps the future that the task is spawned with. The inner future gets a waker of
//! `Repoll`'s own, so that `Repoll` can tell two kinds of wake-ups apart:
//!
//! * *During the poll*: nothing is passed on to tokio. When the inner poll returns `Pending`,
//!   `Repoll` polls again at once.
//! * *Between polls* (a socket became readable, a timer fired, a lane replied): the task is woken
//!   as usual.
//!
//! The waker is one atomic with three states:
//!
//! ```text
//!              poll begins               woken during the poll
//!   WAITING -----------------> POLLING -------------------------> WOKEN
//!      ^  |                     |  ^                               |
//!      |  | woken: wake the     |  |   poll again, at once: the    |
//!      |  | task, go to WOKEN   |  +-------------------------------+
//!      +--|---------------------+      poll begins
//!         |   poll ended
//!         +--> WOKEN: the task is scheduled, its next poll begins with POLLING
//! ```
//!
//! A task that wakes itself for ever must not keep its thread from other tasks. After [`MAX_POLLS`]
//! polls in a row the task yields to tokio as it would have done without `Repoll`.
//!
//! # Giving way on purpose
//!
//! There is one self-wake-up that must reach tokio: a caller that is about to run a batch first
//! lets other tasks submit their requests, so that there is a batch (see [`batching::GiveWay`]). It
//! calls [`yield_to_others`], which sets a flag for the `Repoll` on whose thread it runs. The flag
//! is a thread-local because a future that is polled has only a `Context`, through which it cannot
//! reach the `Repoll` around it.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;
use pin_project_lite::pin_project;

/// Polls in a row, before other tasks are polled.
const MAX_POLLS: usize = 8;

thread_local! {
    /// Whether the future that is being polled on this thread gives way to other tasks.
    static GIVES_WAY: Cell<bool> = const { Cell::new(false) };
}

/// Has the current task polled again after the other tasks that are ready, also inside a
/// [`Repoll`]. The caller returns `Pending` right afterwards.
pub fn yield_to_others(cx: &Context<'_>) {
    GIVES_WAY.set(true);
    cx.waker().wake_by_ref();
}

pin_project! {
    /// A future that is polled again at once when it was woken during its poll; see the
    /// [module](self).
    pub struct Repoll<F> {
        #[pin]
        inner: F,
        state: Arc<State>,
        // The waker of `state`, made once rather than for each poll.
        waker: Waker,
    }
}

impl<F> Repoll<F> {
    pub fn new(inner: F) -> Self {
        let state = Arc::new(State::default());
        Self {
            inner,
            waker: Waker::from(Arc::clone(&state)),
            state,
        }
    }
}

/// The task is not being polled and nothing has woken it.
const WAITING: u8 = 0;
/// The inner future is being polled and has not been woken since the poll began.
const POLLING: u8 = 1;
/// The inner future will be polled again.
const WOKEN: u8 = 2;

#[derive(Default)]
struct State {
    phase: AtomicU8,
    task: AtomicWaker,
}

impl Wake for State {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.phase.swap(WOKEN, Ordering::AcqRel) == WAITING {
            self.task.wake();
        }
    }
}

impl<F: Future> Future for Repoll<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let mut this = self.project();
        this.state.task.register(cx.waker());
        let mut inner_cx = Context::from_waker(this.waker);
        for _ in 0..MAX_POLLS {
            GIVES_WAY.set(false);
            // A swap and not a store, to acquire what was written before a wake-up that found the
            // state at WOKEN and so woke nothing: this poll is the one that must see it.
            this.state.phase.swap(POLLING, Ordering::AcqRel);
            if let Poll::Ready(output) = this.inner.as_mut().poll(&mut inner_cx) {
                return Poll::Ready(output);
            }
            if GIVES_WAY.get() {
                break;
            }
            let was_woken = this
                .state
                .phase
                .compare_exchange(POLLING, WAITING, Ordering::AcqRel, Ordering::Acquire)
                .is_err();
            if !was_woken {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Mutex;

    use tokio_test::task;

    use super::*;

    #[test]
    fn a_future_that_wakes_itself_is_polled_again_at_once_and_its_task_is_not_woken() {
        let mut polls = 0;
        let mut repoll = task::spawn(Repoll::new(poll_fn(|cx| {
            polls += 1;
            if polls == 3 {
                return Poll::Ready(polls);
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })));
        assert_eq!(repoll.poll(), Poll::Ready(3));
        assert!(!repoll.is_woken());
    }

    #[test]
    fn a_future_that_wakes_itself_without_end_lets_other_tasks_run() {
        let mut repoll = task::spawn(Repoll::new(poll_fn(|cx| {
            cx.waker().wake_by_ref();
            Poll::<()>::Pending
        })));
        for _ in 0..3 {
            assert!(repoll.poll().is_pending());
            assert!(repoll.is_woken(), "it is polled again after them");
        }
    }

    #[test]
    fn a_future_that_yields_is_polled_again_after_the_others() {
        let mut polls = 0;
        let mut repoll = task::spawn(Repoll::new(poll_fn(|cx| {
            polls += 1;
            if polls == 2 {
                return Poll::Ready(());
            }
            yield_to_others(cx);
            Poll::Pending
        })));
        assert!(repoll.poll().is_pending());
        assert!(repoll.is_woken());
        assert!(repoll.poll().is_ready());
    }

    #[test]
    fn whoever_wakes_it_between_two_polls_wakes_its_task() {
        let waker = Mutex::new(None);
        let mut repoll = task::spawn(Repoll::new(poll_fn(|cx| {
            let before = waker.lock().unwrap().replace(cx.waker().clone());
            before.map_or(Poll::Pending, |_| Poll::Ready(()))
        })));
        assert!(repoll.poll().is_pending());
        assert!(!repoll.is_woken());
        waker.lock().unwrap().as_ref().unwrap().wake_by_ref();
        assert!(repoll.is_woken());
        assert!(repoll.poll().is_ready());
    }

    #[test]
    fn a_wake_from_another_thread_is_never_lost() {
        let (to_waker, wakers) = std::sync::mpsc::channel::<Waker>();
        let other = std::thread::spawn(move || {
            for waker in wakers {
                waker.wake();
            }
        });
        let mut rounds = 0;
        let counted = Repoll::new(poll_fn(move |cx| {
            rounds += 1;
            if rounds == 20_000 {
                return Poll::Ready(rounds);
            }
            // Woken once for each poll, at any time during it or after it.
            to_waker.send(cx.waker().clone()).unwrap();
            Poll::Pending
        }));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let limit = std::time::Duration::from_mins(1);
        let done = runtime.block_on(async { tokio::time::timeout(limit, counted).await });
        assert_eq!(done, Ok(20_000), "it was not polled after a wake");
        other.join().unwrap();
    }
}
