//! Runs the queue under loom; see the documentation of [`caller_runs`](super).
//!
//! loom runs each closure once for every order in which the operations on the locks and counters of
//! [`crate::sync`] can happen, with every value that the memory model lets an atomic read. A thread
//! that waits for ever is a deadlock, which fails the test. So does a request with another result
//! than its own.
//!
//! The requests have no deadlines and the queue no `max_wait`, so no timer can rescue a request
//! that was forgotten.

use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
// Not loom's: the tests' own flags are not part of what is checked.
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use loom::future::block_on;
use loom::thread::{self, JoinHandle};
use tower::Service;

use crate::{Batch, Error, Limits, Queue, Submission};

/// Multiplies by ten where it is called. Fails the batches that hold this number.
struct Inner {
    fails_on: u32,
}

impl Service<Batch<u32>> for Inner {
    type Response = Vec<Result<u32, &'static str>>;
    type Error = &'static str;
    type Future = Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, batch: Batch<u32>) -> Self::Future {
        ready(if batch.inputs.contains(&self.fails_on) {
            Err("failed")
        } else {
            Ok(batch.inputs.iter().map(|input| Ok(input * 10)).collect())
        })
    }
}

type TestQueue = Queue<u32, u32, &'static str>;

/// Batches of up to 2, and callers that run batches of 1.
fn queue() -> TestQueue {
    let limits = Limits::new(2, 8).caller_weight(1);
    Queue::builder(limits)
        .give_way_with(|cx| cx.waker().wake_by_ref())
        .build()
}

fn worker(queue: &TestQueue, fails_on: u32) -> JoinHandle<Result<(), &'static str>> {
    let worker = queue.caller_runs_worker(Inner { fails_on });
    thread::spawn(move || block_on(worker))
}

fn run(queue: &TestQueue, input: u32, weight: u32) -> Result<u32, Error<&'static str>> {
    let response = queue.service().call(Submission::new(input).weight(weight));
    block_on(response).map(|reply| reply.output)
}

fn caller(queue: &TestQueue, input: u32, weight: u32) -> JoinHandle<Result<u32, Error<&'static str>>> {
    let queue = queue.clone();
    thread::spawn(move || run(&queue, input, weight))
}

fn end(queue: &TestQueue, workers: impl IntoIterator<Item = JoinHandle<Result<(), &'static str>>>) {
    queue.close();
    for worker in workers {
        assert_eq!(worker.join().unwrap(), Ok(()));
    }
}

/// Tries all orders with up to this many preemptions, that is, switches away from a thread that
/// could go on. Errors of this kind need few; `LOOM_MAX_PREEMPTIONS=3` tries more, which takes
/// minutes.
fn check(preemptions: usize, test: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = model.preemption_bound.or(Some(preemptions));
    model.check(test);
}

#[test]
fn two_callers_beside_one_worker_get_their_replies() {
    check(2, || {
        let queue = queue();
        let worker = worker(&queue, 0);
        let other = caller(&queue, 1, 1);
        assert_eq!(run(&queue, 2, 1), Ok(20));
        assert_eq!(other.join().unwrap(), Ok(10));
        end(&queue, [worker]);
    });
}

#[test]
fn a_heavy_request_beside_one_that_its_caller_runs_is_not_forgotten() {
    check(2, || {
        let queue = queue();
        let worker = worker(&queue, 0);
        let heavy = caller(&queue, 1, 2);
        assert_eq!(run(&queue, 2, 1), Ok(20));
        assert_eq!(heavy.join().unwrap(), Ok(10));
        end(&queue, [worker]);
    });
}

#[test]
fn a_caller_that_goes_leaves_no_request_behind() {
    check(2, || {
        let queue = queue();
        let worker = worker(&queue, 0);
        let gone = {
            let queue = queue.clone();
            thread::spawn(move || drop(queue.service().call(Submission::new(1))))
        };
        assert_eq!(run(&queue, 2, 1), Ok(20));
        gone.join().unwrap();
        end(&queue, [worker]);
    });
}

#[test]
fn a_run_that_fails_at_a_caller_leaves_a_worker_for_the_other() {
    check(2, || {
        let queue = queue();
        let worker = worker(&queue, 1);
        let failing = caller(&queue, 1, 1);
        let other = run(&queue, 2, 1);
        assert_eq!(failing.join().unwrap(), Err(Error::Inner("failed")));
        // The worker may have run both in one batch.
        assert!(matches!(other, Ok(20) | Err(Error::Inner("failed"))), "{other:?}");
        end(&queue, [worker]);
    });
}

/// Remembers that it was woken.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Woken {
    /// Polls the future until it waits for somebody else.
    fn poll<F: Future + Unpin>(self: &Arc<Self>, future: &mut F) -> Poll<F::Output> {
        let waker = Waker::from(Arc::clone(self));
        loop {
            let polled = Pin::new(&mut *future).poll(&mut Context::from_waker(&waker));
            if polled.is_ready() || !self.0.swap(false, Ordering::SeqCst) {
                return polled;
            }
        }
    }
}

/// The order of the steps and the memory order of [`Queue::caller_has_come`] matter where two
/// callers depend on a third one: the last that was to come has done nothing else that would let it
/// see what the others left. The worker is no thread here, so that all orders can be tried: it must
/// have been woken if a request is left to it.
#[test]
fn of_three_callers_one_goes_and_the_others_get_their_replies() {
    check(3, || {
        let queue = queue();
        let worker_woken = Arc::new(Woken::default());
        let mut worker = queue.caller_runs_worker(Inner { fails_on: 0 });
        assert!(worker_woken.poll(&mut worker).is_pending());
        let callers = [1, 2].map(|input| {
            let queue = queue.clone();
            thread::spawn(move || {
                let mut response = Box::pin(queue.service().call(Submission::new(input)));
                let reply = Arc::new(Woken::default()).poll(&mut response);
                reply.is_pending().then_some(response)
            })
        });
        drop(queue.service().call(Submission::new(3)));
        let left: Vec<_> = callers
            .into_iter()
            .filter_map(|caller| caller.join().unwrap())
            .collect();
        for mut response in left {
            let woken = Arc::new(Woken::default());
            // Another caller may have run it in the meantime.
            if woken.poll(&mut response).is_pending() {
                assert!(worker_woken.0.load(Ordering::SeqCst), "nobody runs the request");
                assert!(worker_woken.poll(&mut worker).is_pending());
                assert!(woken.poll(&mut response).is_ready());
            }
        }
    });
}

#[test]
fn two_callers_beside_two_workers_get_their_replies() {
    check(0, || {
        let queue = queue();
        let workers = [(); 2].map(|()| worker(&queue, 0));
        let other = caller(&queue, 1, 1);
        assert_eq!(run(&queue, 2, 1), Ok(20));
        assert_eq!(other.join().unwrap(), Ok(10));
        end(&queue, workers);
    });
}

#[test]
fn what_is_queued_when_the_queue_closes_is_run_or_refused() {
    check(2, || {
        let queue = queue();
        let worker = worker(&queue, 0);
        let other = caller(&queue, 1, 1);
        queue.close();
        let reply = other.join().unwrap();
        assert!(matches!(reply, Ok(10) | Err(Error::Refused(_))), "{reply:?}");
        assert_eq!(worker.join().unwrap(), Ok(()));
    });
}
