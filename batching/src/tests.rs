//! The layer with mocked inner services and paused time: what callers see, and what the inner service sees.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, advance};
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};
use tower::{Layer, Service};
use tower_test::mock;

use super::*;

type Output = Vec<Result<u32, String>>;
type Mock = mock::Mock<Batch<u32>, Output>;
type Handle = mock::Handle<Batch<u32>, Output>;

/// tower-test's mock fails with a boxed error; the layer wants one that it can give to every member.
#[derive(Debug)]
struct Inner(Mock);

impl Service<Batch<u32>> for Inner {
    type Response = Output;
    type Error = String;
    type Future =
        futures_util::future::MapErr<<Mock as Service<Batch<u32>>>::Future, fn(tower::BoxError) -> String>;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), String>> {
        self.0.poll_ready(cx).map_err(|error| error.to_string())
    }

    fn call(&mut self, batch: Batch<u32>) -> Self::Future {
        use futures_util::TryFutureExt;
        self.0
            .call(batch)
            .map_err(|error: tower::BoxError| error.to_string())
    }
}

const LIMITS: Limits = Limits {
    max_weight: 4,
    fill_weight: 4,
    capacity: 8,
    max_wait: Duration::ZERO,
    caller_weight: 0,
};

struct Bench {
    queue: Queue<u32, u32, String>,
    worker: task::Spawn<Worker<Inner, u32, u32, String>>,
    handle: Handle,
}

/// A queue with one worker that is driven by hand, and an inner service that is not ready yet.
fn bench(limits: Limits) -> Bench {
    let (mock, mut handle) = mock::pair();
    handle.allow(0);
    let queue = Queue::new(limits);
    let worker = task::spawn(queue.worker(Inner(mock)));
    Bench {
        queue,
        worker,
        handle,
    }
}

fn submit(queue: &Queue<u32, u32, String>, input: u32) -> task::Spawn<ResponseFuture<u32, u32, String>> {
    submit_with(queue, input, 1, Duration::from_secs(10))
}

fn submit_with(
    queue: &Queue<u32, u32, String>,
    input: u32,
    weight: u32,
    timeout: Duration,
) -> task::Spawn<ResponseFuture<u32, u32, String>> {
    let deadline = Instant::now() + timeout;
    task::spawn(queue.service().call(Submission {
        input,
        weight,
        bucket: 0,
        priority: Priority::Normal,
        flow: Flow::default(),
        deadline,
    }))
}

impl Bench {
    /// The batch that the inner service was given, with the means to answer it.
    fn take_batch(&mut self) -> (Batch<u32>, mock::SendResponse<Output>) {
        assert_pending!(self.worker.poll());
        let mut request = task::spawn(self.handle.next_request());
        assert_ready!(request.poll()).expect("the worker is alive")
    }

    fn nothing_was_run(&mut self) {
        assert_pending!(self.worker.poll());
        let mut request = task::spawn(self.handle.next_request());
        assert_pending!(request.poll());
    }
}

fn ok(values: &[u32]) -> Output {
    values.iter().map(|value| Ok(*value)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_lone_request_runs_at_once() {
    let mut bench = bench(LIMITS);
    bench.handle.allow(1);
    let mut response = submit(&bench.queue, 7);
    assert_pending!(response.poll());
    let (batch, answer) = bench.take_batch();
    assert_eq!((batch.inputs, batch.weight), (vec![7], 1));
    answer.send_response(ok(&[70]));
    assert_pending!(bench.worker.poll());
    let got = assert_ready_ok!(response.poll());
    assert_eq!(
        (got.output, got.batch_weight, got.queued),
        (70, 1, Duration::ZERO)
    );
}

#[tokio::test(start_paused = true)]
async fn what_comes_while_the_lane_is_busy_runs_together_when_it_is_free() {
    let mut bench = bench(LIMITS);
    let mut responses: Vec<_> = (0..6).map(|input| submit(&bench.queue, input)).collect();
    bench.nothing_was_run();
    advance(Duration::from_millis(3)).await;

    bench.handle.allow(1);
    let (batch, answer) = bench.take_batch();
    assert_eq!(batch.inputs, [0, 1, 2, 3], "as many as fit, in their order");
    assert_eq!(bench.queue.depth(), 2);
    advance(Duration::from_millis(5)).await;
    answer.send_response(ok(&[0, 10, 20, 30]));
    bench.handle.allow(1);
    let (batch, answer) = bench.take_batch();
    assert_eq!(batch.inputs, [4, 5]);
    answer.send_response(ok(&[40, 50]));
    assert_pending!(bench.worker.poll());

    for (input, response) in responses.iter_mut().enumerate() {
        let got = assert_ready_ok!(response.poll());
        assert_eq!(got.output, input as u32 * 10, "everyone gets their own answer");
        let queued = if input < 4 { 3 } else { 8 };
        assert_eq!(got.queued, Duration::from_millis(queued));
        let ran = if input < 4 { 5 } else { 0 };
        assert_eq!(got.ran, Duration::from_millis(ran));
    }
    assert_eq!(bench.queue.depth(), 0);
}

#[tokio::test(start_paused = true)]
async fn several_batches_run_if_the_inner_service_is_ready_for_them() {
    let mut bench = bench(LIMITS);
    bench.handle.allow(2);
    let mut first = submit(&bench.queue, 1);
    let (_, answer_first) = bench.take_batch();
    let mut second = submit(&bench.queue, 2);
    let (_, answer_second) = bench.take_batch();
    answer_second.send_response(ok(&[20]));
    assert_pending!(bench.worker.poll());
    assert_eq!(
        assert_ready_ok!(second.poll()).output,
        20,
        "it need not wait for the first"
    );
    assert_pending!(first.poll());
    answer_first.send_response(ok(&[10]));
    assert_pending!(bench.worker.poll());
    assert_eq!(assert_ready_ok!(first.poll()).output, 10);
}

#[tokio::test(start_paused = true)]
async fn two_workers_share_one_queue() {
    let mut first = bench(LIMITS);
    let (mock, handle) = mock::pair();
    let mut second = Bench {
        queue: first.queue.clone(),
        worker: task::spawn(first.queue.worker(Inner(mock))),
        handle,
    };
    assert_pending!(first.worker.poll());
    second.handle.allow(1);
    assert_pending!(second.worker.poll());
    let mut response = submit(&first.queue, 1);
    assert!(second.worker.is_woken(), "the worker whose lane is free");
    assert!(!first.worker.is_woken());
    let (_, answer) = second.take_batch();
    answer.send_response(ok(&[10]));
    assert_pending!(second.worker.poll());
    assert_eq!(assert_ready_ok!(response.poll()).output, 10);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_at_once_and_takes_again_when_there_is_room() {
    let mut bench = bench(LIMITS);
    let mut waiting: Vec<_> = (0..8).map(|input| submit(&bench.queue, input)).collect();
    let refused = assert_ready_err!(submit(&bench.queue, 8).poll());
    assert_eq!(refused, Error::Refused(Refusal::Full { capacity: 8 }));
    for response in &mut waiting {
        assert_pending!(response.poll(), "those that were taken are not touched");
    }
    bench.handle.allow(1);
    let (_, answer) = bench.take_batch();
    let mut taken = submit(&bench.queue, 9);
    assert_pending!(taken.poll());
    answer.send_response(ok(&[0, 1, 2, 3]));
}

#[tokio::test(start_paused = true)]
async fn what_is_admitted_keeps_its_place_while_it_is_prepared() {
    let bench = bench(LIMITS);
    let admit = |weight, priority| {
        let deadline = Instant::now() + Duration::from_secs(10);
        bench.queue.admit(weight, Flow::default(), priority, deadline)
    };
    let full = Refusal::Full { capacity: 8 };
    let mut queued: Vec<_> = (0..5).map(|input| submit(&bench.queue, input)).collect();
    let permits = [
        admit(1, Priority::Normal).unwrap(),
        admit(2, Priority::Normal).unwrap(),
    ];
    assert_eq!(admit(1, Priority::Normal).err(), Some(full));
    assert_eq!(admit(1, Priority::Low).err(), Some(full));
    assert!(admit(1, Priority::High).is_ok(), "it would go before them");
    let [first, second] = permits;
    drop(first);
    queued.push(submit(&bench.queue, 5));
    assert!(admit(1, Priority::Normal).is_err());
    drop(second);
    assert!(admit(2, Priority::Normal).is_ok());
    for response in &mut queued {
        assert_pending!(response.poll());
    }
}

#[tokio::test(start_paused = true)]
async fn in_a_full_queue_a_low_request_is_refused_for_a_high_one() {
    let mut bench = bench(LIMITS);
    let ask = |input, priority| {
        task::spawn(bench.queue.service().call(Submission {
            input,
            weight: 4,
            bucket: 0,
            priority,
            flow: Flow::default(),
            deadline: Instant::now() + Duration::from_secs(10),
        }))
    };
    let mut low = ask(1, Priority::Low);
    let normal = ask(2, Priority::Normal);
    assert_pending!(low.poll());
    let high = ask(3, Priority::High);
    assert!(low.is_woken());
    assert_eq!(
        assert_ready_err!(low.poll()),
        Error::Refused(Refusal::Full { capacity: 8 })
    );
    bench.handle.allow(1);
    let (batch, _answer) = bench.take_batch();
    assert_eq!(batch.inputs, [3], "before the normal one");
    drop((normal, high));
}

#[tokio::test(start_paused = true)]
async fn what_fits_no_batch_is_refused() {
    let bench = bench(LIMITS);
    let refused = assert_ready_err!(submit_with(&bench.queue, 1, 5, Duration::from_secs(1)).poll());
    let expected = Refusal::TooLarge {
        weight: 5,
        max_weight: 4,
    };
    assert_eq!(refused, Error::Refused(expected));
}

#[tokio::test(start_paused = true)]
async fn an_expired_request_is_answered_while_the_lane_is_busy_and_never_run() {
    let mut bench = bench(LIMITS);
    let mut late = submit_with(&bench.queue, 1, 1, Duration::from_millis(10));
    let mut patient = submit(&bench.queue, 2);
    advance(Duration::from_millis(9)).await;
    assert_pending!(late.poll());
    advance(Duration::from_millis(2)).await;
    assert!(late.is_woken());
    assert_eq!(assert_ready_err!(late.poll()), Error::Expired);
    drop(late);
    bench.handle.allow(1);
    let (batch, answer) = bench.take_batch();
    assert_eq!(batch.inputs, [2]);
    answer.send_response(ok(&[20]));
    assert_pending!(bench.worker.poll());
    assert_ready_ok!(patient.poll());
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_caller_has_gone_is_never_run_and_gives_its_room_back() {
    let mut bench = bench(LIMITS);
    let mut waiting: Vec<_> = (0..8).map(|input| submit(&bench.queue, input)).collect();
    drop(waiting.remove(0));
    assert_eq!(bench.queue.depth(), 7);
    let mut taken = submit(&bench.queue, 8);
    assert_pending!(taken.poll());
    bench.handle.allow(1);
    let (batch, _answer) = bench.take_batch();
    assert_eq!(batch.inputs, [1, 2, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn a_run_is_interrupted_when_its_last_caller_has_gone() {
    let mut bench = bench(LIMITS);
    let first = submit(&bench.queue, 1);
    let second = submit(&bench.queue, 2);
    bench.handle.allow(1);
    let (batch, _answer) = bench.take_batch();
    let interrupts = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&interrupts);
    batch.on_abandoned(move || {
        counter.fetch_add(1, Ordering::Relaxed);
    });
    drop(first);
    assert_eq!(interrupts.load(Ordering::Relaxed), 0, "one still waits");
    drop(second);
    assert_eq!(interrupts.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_nobody_waits_for_any_more_is_interrupted_as_soon_as_it_can_be() {
    let mut bench = bench(LIMITS);
    let response = submit(&bench.queue, 1);
    bench.handle.allow(1);
    let (batch, _answer) = bench.take_batch();
    drop(response);
    let interrupts = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&interrupts);
    batch.on_abandoned(move || {
        counter.fetch_add(1, Ordering::Relaxed);
    });
    assert_eq!(interrupts.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answered_batch_is_not_interrupted() {
    let mut bench = bench(LIMITS);
    let mut response = submit(&bench.queue, 1);
    bench.handle.allow(1);
    let (batch, answer) = bench.take_batch();
    let interrupts = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&interrupts);
    batch.on_abandoned(move || {
        counter.fetch_add(1, Ordering::Relaxed);
    });
    answer.send_response(ok(&[10]));
    assert_pending!(bench.worker.poll());
    // Answered, but the caller has not looked yet when it goes.
    drop(response);
    assert_eq!(interrupts.load(Ordering::Relaxed), 0);
    response = submit(&bench.queue, 2);
    assert_pending!(response.poll());
}

#[tokio::test(start_paused = true)]
async fn a_bad_member_fails_alone() {
    let mut bench = bench(LIMITS);
    let mut good = submit(&bench.queue, 1);
    let mut bad = submit(&bench.queue, 2);
    bench.handle.allow(1);
    let (_, answer) = bench.take_batch();
    answer.send_response(vec![Ok(10), Err("not finite".into())]);
    assert_pending!(bench.worker.poll());
    assert_eq!(assert_ready_ok!(good.poll()).output, 10);
    assert_eq!(assert_ready_err!(bad.poll()), Error::Inner("not finite".into()));
}

#[tokio::test(start_paused = true)]
async fn a_failed_run_fails_its_own_members_only() {
    let mut bench = bench(LIMITS);
    let mut failed: Vec<_> = (0..4).map(|input| submit(&bench.queue, input)).collect();
    let mut next = submit(&bench.queue, 4);
    bench.handle.allow(1);
    let (_, answer) = bench.take_batch();
    answer.send_error("boom");
    bench.handle.allow(1);
    let (batch, answer) = bench.take_batch();
    assert_eq!(batch.inputs, [4]);
    answer.send_response(ok(&[40]));
    assert_pending!(bench.worker.poll());
    for response in &mut failed {
        assert_eq!(assert_ready_err!(response.poll()), Error::Inner("boom".into()));
    }
    assert_eq!(assert_ready_ok!(next.poll()).output, 40);
}

#[tokio::test(start_paused = true)]
async fn too_few_outputs_never_give_somebody_elses() {
    let mut bench = bench(LIMITS);
    let mut first = submit(&bench.queue, 1);
    let mut second = submit(&bench.queue, 2);
    bench.handle.allow(1);
    let (_, answer) = bench.take_batch();
    answer.send_response(ok(&[10]));
    assert_pending!(bench.worker.poll());
    assert_eq!(assert_ready_ok!(first.poll()).output, 10);
    assert_eq!(
        assert_ready_err!(second.poll()),
        Error::Refused(Refusal::Unavailable)
    );
}

#[tokio::test(start_paused = true)]
async fn a_closed_queue_finishes_what_it_has_and_refuses_what_comes() {
    let mut bench = bench(LIMITS);
    let mut queued = submit(&bench.queue, 1);
    bench.queue.close();
    assert_eq!(
        assert_ready_err!(submit(&bench.queue, 2).poll()),
        Error::Refused(Refusal::Closed)
    );
    bench.handle.allow(1);
    let (_, answer) = bench.take_batch();
    answer.send_response(ok(&[10]));
    bench.handle.allow(1);
    assert_ready_ok!(bench.worker.poll(), "all is answered");
    assert_eq!(assert_ready_ok!(queued.poll()).output, 10);
}

#[tokio::test(start_paused = true)]
async fn closing_wakes_an_idle_worker() {
    let mut bench = bench(LIMITS);
    bench.handle.allow(1);
    assert_pending!(bench.worker.poll());
    bench.queue.close();
    assert!(bench.worker.is_woken());
    assert_ready_ok!(bench.worker.poll());
}

#[tokio::test(start_paused = true)]
async fn an_aborted_queue_refuses_what_waits_and_interrupts_what_runs() {
    let mut bench = bench(LIMITS);
    let mut running = submit(&bench.queue, 1);
    bench.handle.allow(1);
    let (batch, answer) = bench.take_batch();
    let mut waiting = submit(&bench.queue, 2);
    let interrupts = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&interrupts);
    batch.on_abandoned(move || {
        counter.fetch_add(1, Ordering::Relaxed);
    });
    bench.queue.abort();
    assert_eq!(interrupts.load(Ordering::Relaxed), 1);
    assert_eq!(assert_ready_err!(waiting.poll()), Error::Refused(Refusal::Closed));
    answer.send_error("interrupted");
    bench.handle.allow(1);
    assert_ready_ok!(bench.worker.poll());
    assert_eq!(
        assert_ready_err!(running.poll()),
        Error::Inner("interrupted".into())
    );
}

#[tokio::test(start_paused = true)]
async fn without_a_worker_requests_are_refused() {
    let mut bench = bench(LIMITS);
    let mut waiting = submit(&bench.queue, 1);
    bench.handle.send_error("the device is lost");
    assert_eq!(assert_ready_err!(bench.worker.poll()), "the device is lost");
    drop(bench.worker);
    let unavailable = Error::Refused(Refusal::Unavailable);
    assert_eq!(assert_ready_err!(waiting.poll()), unavailable);
    assert_eq!(assert_ready_err!(submit(&bench.queue, 2).poll()), unavailable);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_is_dropped_in_the_middle_of_a_batch_fails_its_callers() {
    let mut bench = bench(LIMITS);
    let mut response = submit(&bench.queue, 1);
    bench.handle.allow(1);
    let (_, _answer) = bench.take_batch();
    drop(bench.worker);
    assert_eq!(
        assert_ready_err!(response.poll()),
        Error::Refused(Refusal::Unavailable)
    );
}

#[tokio::test(start_paused = true)]
async fn max_wait_fills_a_batch() {
    let limits = Limits {
        max_wait: Duration::from_millis(5),
        ..LIMITS
    };
    let mut bench = bench(limits);
    bench.handle.allow(2);
    let first = submit(&bench.queue, 1);
    bench.nothing_was_run();
    advance(Duration::from_millis(4)).await;
    let second = submit(&bench.queue, 2);
    bench.nothing_was_run();
    advance(Duration::from_millis(2)).await;
    assert!(bench.worker.is_woken());
    let (batch, _answer) = bench.take_batch();
    assert_eq!(batch.inputs, [1, 2], "5 ms after the first");
    let full: Vec<_> = (3..7).map(|input| submit(&bench.queue, input)).collect();
    let (batch, _other) = bench.take_batch();
    assert_eq!(batch.inputs, [3, 4, 5, 6], "a full batch does not wait");
    drop((first, second, full));
}

#[tokio::test]
async fn as_a_layer_it_answers_every_one_of_many_callers() {
    let service = BatchLayer::new(Limits {
        capacity: 1000,
        ..LIMITS
    })
    .layer(tower::service_fn(|batch: Batch<u32>| async move {
        assert!(!batch.inputs.is_empty() && batch.inputs.len() <= 4);
        tokio::task::yield_now().await;
        Ok::<_, String>(
            batch
                .inputs
                .iter()
                .map(|input| Ok(input * 10))
                .collect::<Vec<_>>(),
        )
    }));
    let callers = (0..1000).map(|input| {
        let mut service = service.clone();
        tokio::spawn(async move {
            let deadline = Instant::now() + Duration::from_secs(10);
            let answer = service.call(Submission {
                input,
                weight: 1,
                bucket: 0,
                priority: Priority::Normal,
                flow: Flow::default(),
                deadline,
            });
            assert_eq!(answer.await.unwrap().output, input * 10);
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
}

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

struct LentBench {
    queue: Queue<u32, u32, String>,
    worker: task::Spawn<LentWorker<Blocking, u32, u32, String>>,
    batches: std::sync::mpsc::Receiver<Vec<u32>>,
}

/// A queue whose one worker is idle, and lent for batches of up to 2.
fn lent_bench() -> LentBench {
    let (sender, batches) = std::sync::mpsc::channel();
    let limits = Limits {
        caller_weight: 2,
        ..LIMITS
    };
    let queue = Queue::<u32, u32, String>::builder(limits)
        .give_way_with(|cx| cx.waker().wake_by_ref())
        .build();
    let mut worker = task::spawn(queue.lent_worker(Blocking { batches: sender }));
    assert_pending!(worker.poll());
    LentBench {
        queue,
        worker,
        batches,
    }
}

impl LentBench {
    fn batches(&self) -> Vec<Vec<u32>> {
        self.batches.try_iter().collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_runs_its_request_in_an_idle_worker() {
    let mut bench = lent_bench();
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
async fn a_caller_that_finds_itself_alone_again_and_again_lets_nobody_come_first_but_now_and_then() {
    let bench = lent_bench();
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

    // One that is let come first changes that: there are others again.
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
async fn a_caller_runs_what_others_have_queued_as_well() {
    let bench = lent_bench();
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
async fn what_is_too_heavy_for_a_caller_is_left_to_the_worker_and_not_overtaken() {
    let mut bench = lent_bench();
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
    let mut bench = lent_bench();
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
        "until then nobody else uses it"
    );
    assert_pending!(bench.worker.poll());
    assert_eq!(assert_ready_ok!(next.poll()).output, 10);
}

#[tokio::test(start_paused = true)]
async fn an_expired_request_is_not_run_by_a_caller() {
    let bench = lent_bench();
    let mut late = submit_with(&bench.queue, 1, 1, Duration::from_millis(5));
    assert_pending!(late.poll());
    advance(Duration::from_millis(6)).await;
    let error = assert_ready_err!(late.poll());
    assert!(matches!(error, Error::Expired));
    assert!(bench.batches().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn with_lent_workers_on_threads_of_their_own_every_one_of_many_callers_is_answered() {
    let queue = Queue::new(Limits {
        caller_weight: 2,
        capacity: 64,
        ..LIMITS
    });
    let runtime = tokio::runtime::Handle::current();
    let threads = [(); 2].map(|()| {
        let (batches, _) = std::sync::mpsc::channel();
        let worker = queue.lent_worker(Blocking { batches });
        let runtime = runtime.clone();
        std::thread::spawn(move || runtime.block_on(worker))
    });
    let callers = (0..16_u32).map(|caller| {
        let queue = queue.clone();
        tokio::spawn(async move {
            for round in 0..300_u32 {
                let input = 1000 * caller + 100 + round;
                let response = queue.service().call(Submission {
                    input,
                    // Some only for the workers, and some that go away.
                    weight: 1 + u32::from(round % 7 == 0) * 2,
                    bucket: 0,
                    priority: Priority::Normal,
                    flow: Flow::default(),
                    deadline: Instant::now() + Duration::from_mins(1),
                });
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

fn submit_of(
    queue: &Queue<u32, u32, String>,
    flow: u64,
    input: u32,
) -> task::Spawn<ResponseFuture<u32, u32, String>> {
    task::spawn(queue.service().call(Submission {
        input,
        weight: 1,
        bucket: 0,
        priority: Priority::Normal,
        flow: Flow(flow),
        deadline: Instant::now() + Duration::from_secs(10),
    }))
}

#[tokio::test(start_paused = true)]
async fn one_request_beside_a_full_queue_of_another_flow_is_in_the_next_batch() {
    let mut bench = bench(LIMITS);
    let mut many: Vec<_> = (0..8).map(|input| submit_of(&bench.queue, 1, input)).collect();
    let deadline = Instant::now() + Duration::from_secs(10);
    let admit = |flow| bench.queue.admit(1, Flow(flow), Priority::Normal, deadline);
    let full = Refusal::Full { capacity: 8 };
    assert_eq!(admit(1).err(), Some(full));
    drop(admit(2).unwrap());
    let mut one = submit_of(&bench.queue, 2, 100);
    assert_pending!(one.poll());
    let error = assert_ready_err!(many[7].poll());
    assert!(
        matches!(&error, Error::Refused(refusal) if *refusal == full),
        "the newest of the other flow: {error}"
    );
    let refused = assert_ready_err!(submit_of(&bench.queue, 1, 9).poll());
    assert!(
        matches!(refused, Error::Refused(Refusal::Full { .. })),
        "{refused}"
    );
    bench.handle.allow(1);
    let (batch, answer) = bench.take_batch();
    assert_eq!(batch.inputs, [0, 100, 1, 2]);
    answer.send_response(ok(&[0, 1000, 10, 20]));
    assert_pending!(bench.worker.poll());
    assert_eq!(assert_ready_ok!(one.poll()).output, 1000);
}

#[tokio::test(start_paused = true)]
async fn a_flow_has_no_more_than_its_share_of_what_is_prepared_beside_a_full_queue() {
    let bench = bench(LIMITS);
    let _many: Vec<_> = (0..8).map(|input| submit_of(&bench.queue, 1, input)).collect();
    let deadline = Instant::now() + Duration::from_secs(10);
    let admit = |flow| bench.queue.admit(1, Flow(flow), Priority::Normal, deadline);
    let permits: Vec<_> = (0..4).map(|_| admit(2).unwrap()).collect();
    assert!(admit(2).is_err(), "half of the queue");
    drop(permits);
    assert!(admit(2).is_ok());
}

#[tokio::test]
async fn callers_run_the_batches_that_are_fair() {
    let limits = Limits {
        caller_weight: 2,
        ..LIMITS
    };
    let queue = Queue::<u32, u32, String>::new(limits);
    let (seen, batches) = std::sync::mpsc::channel();
    let inner = tower::service_fn(move |batch: Batch<u32>| {
        let outputs = batch.inputs.iter().copied().map(Ok).collect();
        let _ = seen.send(batch.inputs);
        std::future::ready(Ok::<Output, String>(outputs))
    });
    let _worker = {
        let mut worker = task::spawn(queue.lent_worker(inner));
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
