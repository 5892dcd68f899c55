//! Keeps a task that wakes itself on its thread.
//!
//! A connection of hyper wakes itself twice for each request: when the handler asks for the body, and when it gets it. To tokio
//! that is a task that yields, for which it wakes another thread to look for work. That one takes the task, and its data have to
//! follow from core to core. With few connections this took more time than the rest of a request, see docs/performance.md.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;
use pin_project_lite::pin_project;

/// Polls in a row, before other tasks have their turn.
const MAX_POLLS: usize = 8;

thread_local! {
    /// Whether what is being polled here wants others to have their turn.
    static YIELDS: Cell<bool> = const { Cell::new(false) };
}

/// Has the task polled again after the others that are ready, in a [`Repoll`] as well. The caller returns `Pending`.
pub fn yield_to_others(cx: &Context<'_>) {
    YIELDS.set(true);
    cx.waker().wake_by_ref();
}

pin_project! {
    /// A future that is polled again at once when it was woken during its poll.
    pub struct Repoll<F> {
        #[pin]
        inner: F,
        state: Arc<State>,
        waker: Waker,
    }
}

impl<F> Repoll<F> {
    /// Wraps what a task is spawned with.
    pub fn new(inner: F) -> Self {
        let state = Arc::new(State::default());
        Self {
            inner,
            waker: Waker::from(Arc::clone(&state)),
            state,
        }
    }
}

/// Nobody polls, and nobody has woken.
const WAITING: u8 = 0;
/// It is being polled, and was not woken since.
const POLLING: u8 = 1;
/// It will be polled.
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
            YIELDS.set(false);
            // Not a mere store: it must see what those did who found it woken already.
            this.state.phase.swap(POLLING, Ordering::AcqRel);
            if let Poll::Ready(output) = this.inner.as_mut().poll(&mut inner_cx) {
                return Poll::Ready(output);
            }
            if YIELDS.get() {
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
    fn a_future_that_wakes_itself_without_end_lets_others_have_their_turn() {
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
