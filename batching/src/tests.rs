//! The layer with mocked inner services and paused time: what callers see, and what the inner
//! service sees.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, advance};
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};
use tower::{Layer, Service};
use tower_test::mock;

use super::*;

pub(crate) type Output = Vec<Result<u32, String>>;
type Mock = mock::Mock<Batch<u32>, Output>;
type Handle = mock::Handle<Batch<u32>, Output>;

/// tower-test's mock fails with a boxed error; the layer wants one that it can give to every
/// member.
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

pub(crate) const LIMITS: Limits = Limits::new(4, 8);

struct Bench {
    queue: Queue<u32, u32, String>,
    worker: task::Spawn<Worker<Inner, u32>>,
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

pub(crate) fn submit(
    queue: &Queue<u32, u32, String>,
    input: u32,
) -> task::Spawn<ResponseFuture<u32, u32, String>> {
    submit_with(queue, input, 1, Duration::from_secs(10))
}

pub(crate) fn submit_with(
    queue: &Queue<u32, u32, String>,
    input: u32,
    weight: u32,
    timeout: Duration,
) -> task::Spawn<ResponseFuture<u32, u32, String>> {
    let submission = Submission::new(input).weight(weight).timeout(timeout);
    task::spawn(queue.service().call(submission))
}

impl Bench {
    /// The batch that the inner service was given, with the means to respond to it.
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
    let (batch, respond) = bench.take_batch();
    assert_eq!((batch.inputs, batch.weight), (vec![7], 1));
    respond.send_response(ok(&[70]));
    assert_pending!(bench.worker.poll());
    let got = assert_ready_ok!(response.poll());
    assert_eq!(
        (got.output, got.batch_weight, got.queued),
        (70, 1, Duration::ZERO)
    );
}

#[tokio::test(start_paused = true)]
async fn requests_that_come_during_a_run_are_the_next_batch() {
    let mut bench = bench(LIMITS);
    let mut responses: Vec<_> = (0..6).map(|input| submit(&bench.queue, input)).collect();
    bench.nothing_was_run();
    advance(Duration::from_millis(3)).await;

    bench.handle.allow(1);
    let (batch, respond) = bench.take_batch();
    assert_eq!(batch.inputs, [0, 1, 2, 3], "as many as fit, in their order");
    assert_eq!(bench.queue.depth(), 2);
    advance(Duration::from_millis(5)).await;
    respond.send_response(ok(&[0, 10, 20, 30]));
    bench.handle.allow(1);
    let (batch, respond) = bench.take_batch();
    assert_eq!(batch.inputs, [4, 5]);
    respond.send_response(ok(&[40, 50]));
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
    let (_, respond_first) = bench.take_batch();
    let mut second = submit(&bench.queue, 2);
    let (_, respond_second) = bench.take_batch();
    respond_second.send_response(ok(&[20]));
    assert_pending!(bench.worker.poll());
    assert_eq!(
        assert_ready_ok!(second.poll()).output,
        20,
        "it need not wait for the first"
    );
    assert_pending!(first.poll());
    respond_first.send_response(ok(&[10]));
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
    assert!(
        second.worker.is_woken(),
        "the worker whose inner service is ready"
    );
    assert!(!first.worker.is_woken());
    let (_, respond) = second.take_batch();
    respond.send_response(ok(&[10]));
    assert_pending!(second.worker.poll());
    assert_eq!(assert_ready_ok!(response.poll()).output, 10);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_at_once_and_takes_requests_again_when_there_is_room() {
    let mut bench = bench(LIMITS);
    let mut waiting: Vec<_> = (0..8).map(|input| submit(&bench.queue, input)).collect();
    let refused = assert_ready_err!(submit(&bench.queue, 8).poll());
    assert_eq!(refused, Error::Refused(Refusal::Full { capacity: 8 }));
    for response in &mut waiting {
        assert_pending!(response.poll(), "those that were taken are not touched");
    }
    bench.handle.allow(1);
    let (_, respond) = bench.take_batch();
    let mut taken = submit(&bench.queue, 9);
    assert_pending!(taken.poll());
    respond.send_response(ok(&[0, 1, 2, 3]));
}

#[tokio::test(start_paused = true)]
async fn a_reservation_keeps_its_room_until_it_is_dropped() {
    let bench = bench(LIMITS);
    let admit = |weight, priority| {
        let deadline = Instant::now() + Duration::from_secs(10);
        bench.queue.reserve(weight, Flow::default(), priority, deadline)
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
    let submit = |input, priority| {
        let submission = Submission::new(input).weight(4).priority(priority);
        task::spawn(bench.queue.service().call(submission))
    };
    let mut low = submit(1, Priority::Low);
    let normal = submit(2, Priority::Normal);
    assert_pending!(low.poll());
    let high = submit(3, Priority::High);
    assert!(low.is_woken());
    assert_eq!(
        assert_ready_err!(low.poll()),
        Error::Refused(Refusal::Full { capacity: 8 })
    );
    bench.handle.allow(1);
    let (batch, _respond) = bench.take_batch();
    assert_eq!(batch.inputs, [3], "before the normal one");
    drop((normal, high));
}

#[tokio::test(start_paused = true)]
async fn a_request_too_heavy_for_any_batch_is_refused() {
    let bench = bench(LIMITS);
    let refused = assert_ready_err!(submit_with(&bench.queue, 1, 5, Duration::from_secs(1)).poll());
    let expected = Refusal::TooLarge {
        weight: 5,
        max_weight: 4,
    };
    assert_eq!(refused, Error::Refused(expected));
}

#[tokio::test(start_paused = true)]
async fn an_expired_request_fails_while_the_inner_service_is_busy_and_never_runs() {
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
    let (batch, respond) = bench.take_batch();
    assert_eq!(batch.inputs, [2]);
    respond.send_response(ok(&[20]));
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
    let (batch, _respond) = bench.take_batch();
    assert_eq!(batch.inputs, [1, 2, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn a_run_is_interrupted_when_its_last_caller_has_gone() {
    let mut bench = bench(LIMITS);
    let first = submit(&bench.queue, 1);
    let second = submit(&bench.queue, 2);
    bench.handle.allow(1);
    let (batch, _respond) = bench.take_batch();
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
async fn an_interrupt_that_is_set_after_the_last_caller_has_gone_is_called_at_once() {
    let mut bench = bench(LIMITS);
    let response = submit(&bench.queue, 1);
    bench.handle.allow(1);
    let (batch, _respond) = bench.take_batch();
    drop(response);
    let interrupts = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&interrupts);
    batch.on_abandoned(move || {
        counter.fetch_add(1, Ordering::Relaxed);
    });
    assert_eq!(interrupts.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_was_replied_to_is_not_interrupted() {
    let mut bench = bench(LIMITS);
    let mut response = submit(&bench.queue, 1);
    bench.handle.allow(1);
    let (batch, respond) = bench.take_batch();
    let interrupts = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&interrupts);
    batch.on_abandoned(move || {
        counter.fetch_add(1, Ordering::Relaxed);
    });
    respond.send_response(ok(&[10]));
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
    let (_, respond) = bench.take_batch();
    respond.send_response(vec![Ok(10), Err("not finite".into())]);
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
    let (_, respond) = bench.take_batch();
    respond.send_error("boom");
    bench.handle.allow(1);
    let (batch, respond) = bench.take_batch();
    assert_eq!(batch.inputs, [4]);
    respond.send_response(ok(&[40]));
    assert_pending!(bench.worker.poll());
    for response in &mut failed {
        assert_eq!(assert_ready_err!(response.poll()), Error::Inner("boom".into()));
    }
    assert_eq!(assert_ready_ok!(next.poll()).output, 40);
}

#[tokio::test(start_paused = true)]
async fn a_request_without_an_output_never_gets_that_of_another() {
    let mut bench = bench(LIMITS);
    let mut first = submit(&bench.queue, 1);
    let mut second = submit(&bench.queue, 2);
    bench.handle.allow(1);
    let (_, respond) = bench.take_batch();
    respond.send_response(ok(&[10]));
    assert_pending!(bench.worker.poll());
    assert_eq!(assert_ready_ok!(first.poll()).output, 10);
    assert_eq!(
        assert_ready_err!(second.poll()),
        Error::Refused(Refusal::Unavailable)
    );
}

#[tokio::test(start_paused = true)]
async fn a_closed_queue_runs_the_requests_that_wait_and_refuses_new_ones() {
    let mut bench = bench(LIMITS);
    let mut queued = submit(&bench.queue, 1);
    bench.queue.close();
    assert_eq!(
        assert_ready_err!(submit(&bench.queue, 2).poll()),
        Error::Refused(Refusal::Closed)
    );
    bench.handle.allow(1);
    let (_, respond) = bench.take_batch();
    respond.send_response(ok(&[10]));
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
async fn an_aborted_queue_refuses_waiting_requests_and_interrupts_running_batches() {
    let mut bench = bench(LIMITS);
    let mut running = submit(&bench.queue, 1);
    bench.handle.allow(1);
    let (batch, respond) = bench.take_batch();
    let mut waiting = submit(&bench.queue, 2);
    let interrupts = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&interrupts);
    batch.on_abandoned(move || {
        counter.fetch_add(1, Ordering::Relaxed);
    });
    bench.queue.abort();
    assert_eq!(interrupts.load(Ordering::Relaxed), 1);
    assert_eq!(assert_ready_err!(waiting.poll()), Error::Refused(Refusal::Closed));
    respond.send_error("interrupted");
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
    let (_, _respond) = bench.take_batch();
    drop(bench.worker);
    assert_eq!(
        assert_ready_err!(response.poll()),
        Error::Refused(Refusal::Unavailable)
    );
}

#[tokio::test(start_paused = true)]
async fn max_wait_fills_a_batch() {
    let limits = LIMITS.max_wait(Duration::from_millis(5));
    let mut bench = bench(limits);
    bench.handle.allow(2);
    let first = submit(&bench.queue, 1);
    bench.nothing_was_run();
    advance(Duration::from_millis(4)).await;
    let second = submit(&bench.queue, 2);
    bench.nothing_was_run();
    advance(Duration::from_millis(2)).await;
    assert!(bench.worker.is_woken());
    let (batch, _respond) = bench.take_batch();
    assert_eq!(batch.inputs, [1, 2], "5 ms after the first");
    let full: Vec<_> = (3..7).map(|input| submit(&bench.queue, input)).collect();
    let (batch, _other) = bench.take_batch();
    assert_eq!(batch.inputs, [3, 4, 5, 6], "a full batch does not wait");
    drop((first, second, full));
}

#[tokio::test]
async fn as_a_layer_it_replies_to_each_of_many_callers() {
    let service =
        BatchLayer::new(Limits::new(4, 1000)).layer(tower::service_fn(|batch: Batch<u32>| async move {
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
            let response = service.call(Submission::new(input).timeout(Duration::from_secs(10)));
            assert_eq!(response.await.unwrap().output, input * 10);
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
}

pub(crate) fn submit_of(
    queue: &Queue<u32, u32, String>,
    flow: u64,
    input: u32,
) -> task::Spawn<ResponseFuture<u32, u32, String>> {
    task::spawn(queue.service().call(Submission::new(input).flow(Flow(flow))))
}

#[tokio::test(start_paused = true)]
async fn one_request_beside_a_full_queue_of_another_flow_is_in_the_next_batch() {
    let mut bench = bench(LIMITS);
    let mut many: Vec<_> = (0..8).map(|input| submit_of(&bench.queue, 1, input)).collect();
    let deadline = Instant::now() + Duration::from_secs(10);
    let admit = |flow| bench.queue.reserve(1, Flow(flow), Priority::Normal, deadline);
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
    let (batch, respond) = bench.take_batch();
    assert_eq!(batch.inputs, [0, 100, 1, 2]);
    respond.send_response(ok(&[0, 1000, 10, 20]));
    assert_pending!(bench.worker.poll());
    assert_eq!(assert_ready_ok!(one.poll()).output, 1000);
}

#[tokio::test(start_paused = true)]
async fn a_flow_reserves_no_more_than_its_share_beside_a_full_queue() {
    let bench = bench(LIMITS);
    let _many: Vec<_> = (0..8).map(|input| submit_of(&bench.queue, 1, input)).collect();
    let deadline = Instant::now() + Duration::from_secs(10);
    let admit = |flow| bench.queue.reserve(1, Flow(flow), Priority::Normal, deadline);
    let permits: Vec<_> = (0..4).map(|_| admit(2).unwrap()).collect();
    assert!(admit(2).is_err(), "half of the queue");
    drop(permits);
    assert!(admit(2).is_ok());
}
