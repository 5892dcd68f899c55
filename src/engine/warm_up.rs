//! Warming up sessions and measuring how long a model's runs take.

use std::time::{Duration, Instant};

use classifier::runtime::session::OUTLIER_BYTES;
use classifier::{Bundle, BundleError, LoadError, Preprocessor, Row, RunError, Session, SessionOptions};

use super::plan::{CALLER_RUN, RunTimes};
use super::weights::Weights;

/// A batch of equal blank rows.
#[derive(Clone)]
pub(super) struct Blank {
    pub(super) row: Row,
    pub(super) rows: usize,
}

impl Blank {
    fn run(&self, session: &mut Session) -> Result<(), RunError> {
        let rows = std::iter::repeat_n(&self.row, self.rows);
        session.run(rows, |_| {}).map(|_| ())
    }
}

/// Batches of blank rows that a session runs before its first request, so that its memory is
/// allocated.
#[derive(Clone)]
pub(super) struct WarmUp {
    /// The first batch is the heaviest.
    pub(super) batches: Vec<Blank>,
    heaviest: u32,
    /// A few rows of typical length, for measuring.
    typical: Blank,
}

impl WarmUp {
    /// The largest batch, and a single row of every length.
    ///
    /// On the CPU the largest batch has no more rows than a session keeps memory for. On a GPU it
    /// is a full batch, to prove that one fits.
    pub(super) fn new(bundle: &Bundle, weights: Weights, on_gpu: bool) -> Self {
        match &bundle.preprocessor {
            Preprocessor::Image(preprocessor) => {
                let length: usize = preprocessor.shape().iter().product();
                let full = weights.max_weight() as usize;
                let kept = OUTLIER_BYTES / (size_of::<f32>() * length).max(1);
                let largest = if on_gpu { full } else { kept.clamp(1, full) };
                let row = Row::Image(vec![0.0; length]);
                let batch = |rows| Blank {
                    row: row.clone(),
                    rows,
                };
                Self {
                    heaviest: largest as u32,
                    typical: batch(largest.min(MEASURED_BATCH)),
                    batches: vec![batch(largest), batch(1)],
                }
            }
            Preprocessor::Text(tokenizer) => {
                let batch = |length, rows| Blank {
                    row: Row::Text(tokenizer.blank(length)),
                    rows,
                };
                let fitting = |length| weights.most_rows(length) as usize;
                let buckets = tokenizer.buckets();
                let longest = tokenizer.max_length();
                let mut batches = vec![batch(longest, fitting(longest))];
                batches.extend(buckets.iter().map(|&length| batch(length, 1)));
                let middle = buckets[buckets.len() / 2];
                Self {
                    heaviest: batches[0].rows as u32 * weights.of(longest),
                    typical: batch(middle, fitting(middle).min(MEASURED_BATCH)),
                    batches,
                }
            }
        }
    }

    pub(super) fn run(&self, session: &mut Session) -> Result<(), RunError> {
        let sizes = session.batch_sizes();
        if sizes.is_empty() {
            return self.batches.iter().try_for_each(|batch| batch.run(session));
        }
        let row = self.typical.row.clone();
        let mut batch = Blank { row, rows: 0 };
        sizes.into_iter().try_for_each(|rows| {
            batch.rows = rows;
            batch.run(session)
        })
    }
}

/// Most rows of the batch that is timed.
const MEASURED_BATCH: usize = 4;
/// Timing ends after this many runs or this much time, so that starting a model does not take
/// seconds.
const MEASURED_RUNS: usize = 5;
const MEASURED_FOR: Duration = Duration::from_millis(60);

/// Measures runs on one thread.
pub(super) fn measure(bundle: &Bundle, warm_up: &WarmUp) -> Result<RunTimes, LoadError> {
    let mut session = Session::load(bundle, &SessionOptions::default())?;
    let mut median = |batch: &Blank| {
        // The first run allocates memory and is not timed.
        batch.run(&mut session).map_err(graph_failed)?;
        let begin = Instant::now();
        let mut times = Vec::new();
        while times.is_empty() || times.len() < MEASURED_RUNS && begin.elapsed() < MEASURED_FOR {
            let started = Instant::now();
            batch.run(&mut session).map_err(graph_failed)?;
            times.push(started.elapsed());
        }
        times.sort();
        Ok::<_, BundleError>(times[times.len() / 2])
    };
    let typical = &warm_up.typical;
    let alone = Blank {
        row: typical.row.clone(),
        rows: 1,
    };
    let mut times = RunTimes {
        single: median(&alone)?,
        in_batch: median(typical)? / typical.rows as u32,
        of_a_unit: None,
    };
    if times.single <= CALLER_RUN && bundle.graph.outline.cost_follows_shape {
        times.of_a_unit = Some(median(&warm_up.batches[0])? / warm_up.heaviest);
    }
    Ok(times)
}

/// The error of a graph that loads, but fails on blank rows.
pub(super) fn graph_failed(error: RunError) -> BundleError {
    BundleError {
        file: classifier::bundle::MODEL.into(),
        key: None,
        expected: match error {
            RunError::OutOfMemory(_) => {
                "a graph whose largest batch fits into memory, or a smaller max_batch"
            }
            _ => "a graph that runs",
        }
        .into(),
        found: error.to_string(),
    }
}
