//! Callers that run batches, one step at a time and under load. `loom_tests.rs` tries all orders.

use std::time::Duration;

use tokio::time::advance;
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok, task};
use tower::Service;

use crate::tests::{LIMITS, Output, submit, submit_of, submit_with};
use crate::{Batch, CallerRunsWorker, Error, Limits, Queue, Submission};

/// Runs batches where it is called: multiplies by ten, fails on 13.
#[derive(Debug)]
struct Blocking {
    batches: std::sync::mpsc::Sender<Vec<u32>>,
}

impl Service<Batch<u32>> for Blocking {
    type Response = Output;
    type Error = String;
    type Future = std::future::Ready<Result<Output, String>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), String>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, batch: Batch<u32>) -> Self::Future {
        let outputs = batch.inputs.iter().map(|input| Ok(input * 10)).collect();
        let failed = batch.inputs.contains(&13);
        // A test that does not look has dropped its end.
        let _ = self.batches.send(batch.inputs);
        std::future::ready(if failed {
            Err("unlucky".into())
        } else {
            Ok(outputs)
        })
    }
}

struct CallerRunsBench {
    queue: Queue<u32, u32, String>,
    worker: task::Spawn<CallerRunsWorker<Blocking, u32>>,
    batches: std::sync::mpsc::Receiver<Vec<u32>>,
}

/// A queue with one idle worker that callers may run, for batches of a weight of up to 2.
fn caller_runs_bench() -> CallerRunsBench {
    let (sender, batches) = std::sync::mpsc::channel();
    let limits = LIMITS.caller_weight(2);
    let queue = Queue::<u32, u32, String>::builder(limits)
        .give_way_with(|cx| cx.waker().wake_by_ref())
        .build();
    let mut worker = task::spawn(queue.caller_runs_worker(Blocking { batches: sender }));
    assert_pending!(worker.poll());
    CallerRunsBench {
        queue,
        worker,
        batches,
    }
}

impl CallerRunsBench {
    fn batches(&self) -> Vec<Vec<u32>> {
        self.batches.try_iter().collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_runs_its_request_in_an_idle_worker() {
    let mut bench = caller_runs_bench();
    for input in [1, 2] {
        let mut response = submit(&bench.queue, input);
        assert_pending!(response.poll());
        assert!(response.is_woken(), "it goes on after those that are ready now");
        let answer = assert_ready_ok!(response.poll());
        assert_eq!((answer.output, answer.batch_weight), (input * 10, 1));
    }
    assert!(!bench.worker.is_woken());
    bench.queue.close();
    assert!(bench.worker.is_woken());
    assert_ready_ok!(bench.worker.poll());
}

#[tokio::test(start_paused = true)]
async fn callers_that_stay_alone_give_way_only_now_and_then() {
    let bench = caller_runs_bench();
    let yields = |count: u32| -> Vec<u32> {
        let yields = |_: &u32| {
            let mut response = submit(&bench.queue, 1);
            let yields = response.poll().is_pending();
            if yields {
                assert_ready_ok!(response.poll());
            }
            yields
        };
        (0..count).filter(yields).collect()
    };
    assert_eq!(yields(34), [0, 1, 2, 3, 16, 32]);

    // A caller that gave way and found company changes that: giving way is worthwhile again.
    assert!(yields(14).is_empty());
    let mut both = [0, 1].map(|input| submit(&bench.queue, input));
    for response in &mut both {
        assert_pending!(response.poll());
    }
    for response in &mut both {
        assert_eq!(assert_ready_ok!(response.poll()).batch_weight, 2);
    }
    assert_eq!(yields(5), [0, 1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_caller_also_runs_requests_ahead_of_its_own() {
    let bench = caller_runs_bench();
    let mut responses: Vec<_> = (0..3).map(|input| submit(&bench.queue, input)).collect();
    for response in &mut responses {
        assert_pending!(response.poll());
    }
    // The last one to be polled first: it runs those before it, and then itself.
    assert_pending!(responses[2].poll());
    assert!(responses[2].is_woken());
    assert_eq!(assert_ready_ok!(responses[2].poll()).output, 20);
    assert_eq!(assert_ready_ok!(responses[0].poll()).output, 0);
    assert_eq!(assert_ready_ok!(responses[1].poll()).output, 10);
    assert_eq!(bench.batches(), [vec![0, 1], vec![2]]);
    assert!(!bench.worker.is_woken());
}

#[tokio::test(start_paused = true)]
async fn a_request_too_heavy_for_callers_is_run_by_the_worker_and_not_overtaken() {
    let mut bench = caller_runs_bench();
    let mut heavy = submit_with(&bench.queue, 5, 3, Duration::from_secs(1));
    assert!(bench.worker.is_woken());
    let mut light = submit(&bench.queue, 6);
    assert_pending!(heavy.poll());
    assert_pending!(light.poll());
    assert_pending!(light.poll());
    assert_pending!(bench.worker.poll());
    assert_eq!(assert_ready_ok!(heavy.poll()).batch_weight, 4);
    assert_eq!(assert_ready_ok!(light.poll()).output, 60);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_fails_at_a_caller_fails_its_requests_and_wakes_the_worker() {
    let mut bench = caller_runs_bench();
    let mut bad = submit(&bench.queue, 13);
    assert_pending!(bad.poll());
    let error = assert_ready_err!(bad.poll());
    assert!(matches!(error, Error::Inner(message) if message == "unlucky"));
    assert!(
        bench.worker.is_woken(),
        "the worker must see to its inner service"
    );

    let mut next = submit(&bench.queue, 1);
    assert_pending!(next.poll());
    assert_pending!(next.poll());
    assert!(
        bench.batches.try_iter().eq([vec![13]]),
        "until then no other caller uses it"
    );
    assert_pending!(bench.worker.poll());
    assert_eq!(assert_ready_ok!(next.poll()).output, 10);
}

#[tokio::test(start_paused = true)]
async fn an_expired_request_is_not_run_by_a_caller() {
    let bench = caller_runs_bench();
    let mut late = submit_with(&bench.queue, 1, 1, Duration::from_millis(5));
    assert_pending!(late.poll());
    advance(Duration::from_millis(6)).await;
    let error = assert_ready_err!(late.poll());
    assert!(matches!(error, Error::Expired));
    assert!(bench.batches().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn with_workers_on_threads_of_their_own_each_of_many_callers_gets_its_reply() {
    let queue = Queue::new(Limits::new(4, 64).caller_weight(2));
    let runtime = tokio::runtime::Handle::current();
    let threads = [(); 2].map(|()| {
        let (batches, _) = std::sync::mpsc::channel();
        let worker = queue.caller_runs_worker(Blocking { batches });
        let runtime = runtime.clone();
        std::thread::spawn(move || runtime.block_on(worker))
    });
    let callers = (0..16_u32).map(|caller| {
        let queue = queue.clone();
        tokio::spawn(async move {
            for round in 0..300_u32 {
                let input = 1000 * caller + 100 + round;
                // Some are only for the workers, and some callers go away.
                let weight = 1 + u32::from(round % 7 == 0) * 2;
                let submission = Submission::new(input)
                    .weight(weight)
                    .timeout(Duration::from_mins(1));
                let response = queue.service().call(submission);
                if round % 11 == 0 {
                    let _ = tokio::time::timeout(Duration::ZERO, response).await;
                } else {
                    assert_eq!(response.await.unwrap().output, input * 10);
                }
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        tokio::time::timeout(Duration::from_secs(50), caller)
            .await
            .expect("no request is forgotten")
            .unwrap();
    }
    queue.close();
    for thread in threads {
        thread.join().unwrap().unwrap();
    }
}

#[tokio::test]
async fn callers_run_the_batches_that_are_fair() {
    let limits = LIMITS.caller_weight(2);
    let queue = Queue::<u32, u32, String>::new(limits);
    let (seen, batches) = std::sync::mpsc::channel();
    let inner = tower::service_fn(move |batch: Batch<u32>| {
        let outputs = batch.inputs.iter().copied().map(Ok).collect();
        let _ = seen.send(batch.inputs);
        std::future::ready(Ok::<Output, String>(outputs))
    });
    let _worker = {
        let mut worker = task::spawn(queue.caller_runs_worker(inner));
        assert_pending!(worker.poll());
        worker
    };
    let mut many: Vec<_> = (0..4).map(|input| submit_of(&queue, 1, input)).collect();
    let one = submit_of(&queue, 2, 100);
    // The first gives way once, and then runs what is first in the queue.
    assert_pending!(many[0].poll());
    assert_ready_ok!(many[0].poll());
    assert_eq!(batches.try_iter().collect::<Vec<_>>(), [vec![0, 100]]);
    drop(one);
}
