//! Lanes whose backend fails in chosen ways: who is hurt, and that the next request works.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use classifier::Row;
use classifier::golden::GoldenError;
use tower::Service;

use super::*;
use crate::metrics::Metrics;
use crate::telemetry::spans::SpanRef;
use batching::{Error, Submission};

/// One output a row: its first number. The first number also says what goes wrong. It has memory
/// for so many rows.
struct Faulty {
    generation: usize,
    memory: Arc<AtomicUsize>,
    runs: Arc<Mutex<Vec<usize>>>,
}

const PANIC: f32 = -1.0;
const FAIL: f32 = -2.0;
const INVALID: f32 = -3.0;
const HANG: f32 = -4.0;
const GENERATION: f32 = -5.0;
const OUT_OF_MEMORY: f32 = -6.0;

impl Backend for Faulty {
    fn run(&mut self, jobs: &[Job], watch: &dyn Fn(Interrupt)) -> Result<Vec<f32>, RunError> {
        let first = |row: &Row| match row {
            Row::Image(numbers) => numbers[0],
            Row::Text(_) => unreachable!("these tests know no texts"),
        };
        let firsts: Vec<f32> = jobs.iter().flat_map(|job| &job.rows).map(first).collect();
        assert!(!firsts.contains(&PANIC), "asked to panic");
        self.runs.lock().unwrap().push(firsts.len());
        if firsts.len() > self.memory.load(Ordering::SeqCst) || firsts.contains(&OUT_OF_MEMORY) {
            return Err(RunError::OutOfMemory("asked to need more".into()));
        }
        if firsts.contains(&FAIL) {
            return Err(RunError::Failed("asked to fail".into()));
        }
        if firsts.contains(&INVALID) {
            return Err(RunError::InvalidInput("asked to refuse".into()));
        }
        if firsts.contains(&HANG) {
            let (interrupt, interrupted) = mpsc::channel();
            watch(Box::new(move || {
                let _ = interrupt.send(());
            }));
            let end = interrupted.recv_timeout(Duration::from_secs(20));
            assert!(end.is_ok(), "a run that nobody waits for was never interrupted");
            return Err(RunError::Interrupted);
        }
        let value = |first: f32| {
            if first == GENERATION {
                self.generation as f32
            } else {
                first
            }
        };
        Ok(firsts.into_iter().map(value).collect())
    }
}

struct Fixture {
    engine: Engine,
    loads: Arc<AtomicUsize>,
    /// Rows for which there is memory.
    memory: Arc<AtomicUsize>,
    /// Rows of each run.
    runs: Arc<Mutex<Vec<usize>>>,
    metrics: ModelMetrics,
}

fn start(max_weight: u32) -> Fixture {
    let loads = Arc::new(AtomicUsize::new(0));
    let memory = Arc::new(AtomicUsize::new(usize::MAX));
    let runs = Arc::new(Mutex::new(Vec::new()));
    let (counter, its_memory, its_runs) = (Arc::clone(&loads), Arc::clone(&memory), Arc::clone(&runs));
    let load = move || {
        Ok(Faulty {
            generation: counter.fetch_add(1, Ordering::SeqCst) + 1,
            memory: Arc::clone(&its_memory),
            runs: Arc::clone(&its_runs),
        })
    };
    Fixture {
        loads,
        memory,
        runs,
        ..start_with(max_weight, load)
    }
}

/// The same with backends of one's own.
fn start_with(
    max_weight: u32,
    load: impl Fn() -> Result<Faulty, LoadError> + Clone + Send + 'static,
) -> Fixture {
    let metrics = Metrics::new().unwrap().model("faulty", &["only".to_owned()]);
    let limits = Limits::new(max_weight, 100);
    let warm = |_: &mut Faulty| Ok(());
    let engine = Engine::start_with(lane(limits, &metrics), load, warm).unwrap();
    Fixture {
        engine,
        loads: Arc::default(),
        memory: Arc::default(),
        runs: Arc::default(),
        metrics,
    }
}

fn lane(limits: Limits, metrics: &ModelMetrics) -> LaneStart<'_> {
    LaneStart {
        name: "faulty",
        labels: 1,
        plan: LanePlan::configured(1, 1),
        placement: Placement::cpu(),
        limits,
        metrics,
    }
}

impl Fixture {
    /// So many requests that meet in one batch, numbered from 1.
    async fn ask_together(&self, count: usize) -> Vec<Result<Vec<f32>, Error<LaneError>>> {
        // The hanging run holds the lane until the others wait together.
        let hang = self.ask_for(HANG, Duration::from_millis(50));
        let others = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let numbers = 1..=count;
            futures_util::future::join_all(numbers.map(|number| self.ask(number as f32))).await
        };
        let (_, answers) = tokio::join!(hang, others);
        self.runs.lock().unwrap().remove(0);
        answers
    }

    async fn ask(&self, first: f32) -> Result<Vec<f32>, Error<LaneError>> {
        self.ask_for(first, Duration::from_secs(10)).await
    }

    async fn ask_for(&self, first: f32, timeout: Duration) -> Result<Vec<f32>, Error<LaneError>> {
        let job = Job {
            rows: vec![vec![first].into()],
            span: SpanRef::default(),
        };
        let submission = Submission::new(job).timeout(timeout);
        let answer = self.engine.service().call(submission).await?;
        Ok(answer.output.values)
    }
}

#[tokio::test]
async fn a_panic_hurts_its_batch_alone_and_the_lane_is_rebuilt() {
    let fixture = start(1);
    let error = fixture.ask(PANIC).await.unwrap_err();
    assert!(
        matches!(&error, Error::Inner(LaneError::Panicked(message)) if message.contains("asked to panic")),
        "{error}"
    );
    assert_eq!(fixture.ask(GENERATION).await.unwrap(), [2.0], "a new session");
    assert_eq!(fixture.metrics.inference_failures.get(), 1);
    fixture.engine.join();
}

#[tokio::test]
async fn a_failed_run_gets_a_new_session() {
    let fixture = start(1);
    let error = fixture.ask(FAIL).await.unwrap_err();
    assert_eq!(
        error,
        Error::Inner(LaneError::Run(RunError::Failed("asked to fail".into())))
    );
    assert_eq!(fixture.ask(7.0).await.unwrap(), [7.0]);
    assert_eq!(fixture.loads.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn an_input_at_fault_fails_alone_in_its_batch() {
    let fixture = start(8);
    // The hanging run holds the lane until the others wait together.
    let hang = fixture.ask_for(HANG, Duration::from_millis(50));
    let others = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        tokio::join!(fixture.ask(1.0), fixture.ask(INVALID), fixture.ask(3.0))
    };
    let (_, (first, invalid, third)) = tokio::join!(hang, others);
    assert_eq!(first.unwrap(), [1.0]);
    assert_eq!(third.unwrap(), [3.0]);
    let refused = RunError::InvalidInput("asked to refuse".into());
    assert_eq!(invalid.unwrap_err(), Error::Inner(LaneError::Run(refused)));
    assert_eq!(
        fixture.loads.load(Ordering::SeqCst),
        1,
        "the session was not at fault"
    );
}

#[tokio::test]
async fn a_hanging_run_is_answered_at_its_deadline_and_interrupted() {
    let fixture = start(1);
    let started = Instant::now();
    let error = fixture
        .ask_for(HANG, Duration::from_millis(100))
        .await
        .unwrap_err();
    assert_eq!(error, Error::Expired);
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(fixture.ask(7.0).await.unwrap(), [7.0], "the lane is free again");
}

#[tokio::test]
async fn jobs_of_several_rows_get_their_own_outputs() {
    let fixture = start(8);
    let job = Job {
        rows: [1.0, 2.0, 3.0].map(|first| vec![first].into()).into(),
        span: SpanRef::default(),
    };
    let submission = Submission::new(job).weight(3);
    let answer = fixture.engine.service().call(submission).await.unwrap();
    assert_eq!(answer.output.values, [1.0, 2.0, 3.0]);
    assert_eq!(answer.output.batch_rows, 3);
    assert_eq!(answer.batch_weight, 3);
}

#[tokio::test]
async fn a_session_that_is_made_again_and_does_not_prove_itself_takes_no_requests() {
    let proves = Arc::new(AtomicBool::new(true));
    let its_proof = Arc::clone(&proves);
    let load = move || {
        if !its_proof.load(Ordering::SeqCst) {
            let wrong = GoldenError {
                file: "golden/0.png".into(),
                label: "only".into(),
                expected: 1.0,
                origin: "its trainer saw it",
                found: 0.0,
                tolerance: 0.001,
            };
            return Err(LoadError::from(wrong));
        }
        Ok(Faulty {
            generation: 1,
            memory: Arc::new(AtomicUsize::new(usize::MAX)),
            runs: Arc::default(),
        })
    };
    let fixture = start_with(1, load);
    assert_eq!(fixture.ask(7.0).await.unwrap(), [7.0]);
    proves.store(false, Ordering::SeqCst);
    fixture.ask(FAIL).await.unwrap_err();
    let error = crate::http::error::Error::from(fixture.ask(7.0).await.unwrap_err());
    assert_eq!(error.code, crate::http::error::Code::ModelUnavailable, "{error}");
    assert!(fixture.engine.queue().workers() == 0);
    // It is tried again after a second.
    proves.store(true, Ordering::SeqCst);
    let started = Instant::now();
    while fixture.engine.queue().workers() == 0 {
        assert!(started.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(fixture.ask(7.0).await.unwrap(), [7.0]);
}

#[tokio::test]
async fn a_lane_that_cannot_load_is_an_error_of_the_start() {
    let metrics = Metrics::new().unwrap().model("faulty", &["only".to_owned()]);
    let limits = Limits::new(1, 1);
    let load = || -> Result<Faulty, LoadError> { Err(thread_failed("faulty", "no such file".into()).into()) };
    let warm = |_: &mut Faulty| Ok(());
    let error = Engine::start_with(lane(limits, &metrics), load, warm).unwrap_err();
    assert!(error.to_string().ends_with("found no such file"), "{error}");
}

#[tokio::test]
async fn a_batch_that_does_not_fit_into_memory_is_run_in_halves() {
    let fixture = start(8);
    fixture.memory.store(2, Ordering::SeqCst);
    let answers = fixture.ask_together(8).await;
    for (number, answer) in (1..).zip(answers) {
        assert_eq!(answer.unwrap(), [number as f32], "no request is hurt");
    }
    assert_eq!(*fixture.runs.lock().unwrap(), [8, 4, 2, 2, 2, 2]);
    assert_eq!(
        fixture.loads.load(Ordering::SeqCst),
        3,
        "a new session after each that failed"
    );
    assert!(!fixture.engine.is_degraded(), "a run succeeded");
}

#[tokio::test]
async fn what_did_not_fit_is_not_tried_again_soon_but_later() {
    let fixture = start(4);
    fixture.memory.store(2, Ordering::SeqCst);
    fixture.ask_together(4).await;
    fixture.runs.lock().unwrap().clear();
    fixture.memory.store(usize::MAX, Ordering::SeqCst);
    fixture.ask_together(4).await;
    assert_eq!(*fixture.runs.lock().unwrap(), [2, 2]);
    for _ in 0..100 {
        fixture.ask(1.0).await.unwrap();
    }
    fixture.runs.lock().unwrap().clear();
    fixture.ask_together(4).await;
    assert_eq!(*fixture.runs.lock().unwrap(), [4]);
}

#[tokio::test]
async fn a_request_that_alone_does_not_fit_is_refused_and_the_others_are_not() {
    let fixture = start(4);
    let hang = fixture.ask_for(HANG, Duration::from_millis(50));
    let others = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        tokio::join!(fixture.ask(1.0), fixture.ask(OUT_OF_MEMORY), fixture.ask(3.0))
    };
    let (_, (first, too_large, third)) = tokio::join!(hang, others);
    assert_eq!((first.unwrap(), third.unwrap()), (vec![1.0], vec![3.0]));
    let error = too_large.unwrap_err();
    assert!(
        matches!(&error, Error::Inner(LaneError::Run(RunError::OutOfMemory(_)))),
        "{error}"
    );
    let error = crate::http::error::Error::from(error);
    assert_eq!(error.code, crate::http::error::Code::ModelUnavailable);
    assert!(error.detail.contains("send fewer inputs"), "{error}");
}

#[tokio::test]
async fn a_model_is_degraded_after_several_failed_runs_until_one_succeeds() {
    let fixture = start(1);
    for failures in 1..=health::DEGRADED_AFTER {
        assert!(!fixture.engine.is_degraded(), "after {failures}");
        let failing = if failures == 1 { OUT_OF_MEMORY } else { FAIL };
        fixture.ask(failing).await.unwrap_err();
        // The input's own fault says nothing of the model.
        fixture.ask(INVALID).await.unwrap_err();
    }
    assert!(fixture.engine.is_degraded());
    fixture.ask(7.0).await.unwrap();
    assert!(!fixture.engine.is_degraded());
    fixture.ask(FAIL).await.unwrap_err();
    assert!(!fixture.engine.is_degraded(), "counted anew");
}
