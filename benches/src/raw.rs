//! ONNX Runtime without a server: what a run costs, and what the machine could do if HTTP were free.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use classifier::{Bundle, ImageLimits, Row, Session, SessionOptions};
use serde::{Deserialize, Serialize};

/// Batch sizes that are measured.
pub const BATCHES: [usize; 2] = [1, 32];

/// What one load costs without a server.
#[derive(Debug, Clone, Serialize)]
pub struct Raw {
    /// Decoding and resizing the input once, in microseconds.
    pub decode_us: f64,
    /// Runs of the graph.
    pub runs: Vec<Run>,
    /// Inputs per second, when each core decodes and runs on its own, one input at a time.
    pub all_cores: f64,
}

/// One kind of run.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Run {
    /// Threads of the session.
    pub threads: usize,
    /// Rows in a run.
    pub batch: usize,
    /// Microseconds per row: the median of all runs.
    pub item_us: f64,
}

impl Raw {
    /// Microseconds of the fastest run of one row.
    pub fn fastest(&self) -> f64 {
        let single = self.runs.iter().filter(|run| run.batch == 1);
        single.map(|run| run.item_us).fold(f64::INFINITY, f64::min)
    }
}

/// The label of the best score for an input: what every server must answer.
pub fn label(model: &Path, input: &[u8]) -> Result<String> {
    let mut classifier = classifier::open(model)?;
    Ok(classifier.classify_image(input)?.best().label.clone())
}

/// Measures each kind of run for `time`.
pub fn measure(model: &Path, input: &[u8], cores: usize, time: Duration) -> Result<Raw> {
    classifier::runtime::library::load(None)?;
    let bundle = Bundle::open(model)?;
    let limits = ImageLimits::default();
    let row = decode(&bundle, input, &limits)?;
    let decode_us = median_us(time, || decode(&bundle, input, &limits).map(|_| ()))?;
    let mut runs = Vec::new();
    let mut thread_counts = vec![1, cores];
    thread_counts.dedup();
    for threads in thread_counts {
        let mut session = Session::load(&bundle, &SessionOptions::default().with_threads(threads))?;
        for batch in BATCHES {
            let whole = median_us(time, || {
                session.run(std::iter::repeat_n(&row, batch), |_| {})?;
                Ok(())
            })?;
            runs.push(Run {
                threads,
                batch,
                item_us: whole / batch as f64,
            });
        }
    }
    Ok(Raw {
        decode_us,
        runs,
        all_cores: all_cores(&bundle, input, cores, time)?,
    })
}

fn decode(bundle: &Bundle, input: &[u8], limits: &ImageLimits) -> Result<Row> {
    Ok(bundle.preprocessor.prepare(input, limits)?.row)
}

/// The median of the times that `work` takes, repeated for `time` and at least three times, in microseconds.
pub fn median_us(time: Duration, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    // The first calls fill caches and arenas.
    for _ in 0..3 {
        work()?;
    }
    let end = Instant::now() + time;
    let mut durations = Vec::new();
    while Instant::now() < end || durations.len() < 3 {
        let begin = Instant::now();
        work()?;
        durations.push(begin.elapsed().as_secs_f64() * 1e6);
    }
    crate::median(durations).context("nothing was measured")
}

fn all_cores(bundle: &Bundle, input: &[u8], cores: usize, time: Duration) -> Result<f64> {
    let limits = ImageLimits::default();
    let mut sessions = (0..cores)
        .map(|_| Session::load(bundle, &SessionOptions::default()))
        .collect::<Result<Vec<_>, _>>()?;
    // Long enough for many runs of a slow model as well.
    let time = time * 2;
    let counts: Vec<Result<f64>> = thread::scope(|scope| {
        let threads: Vec<_> = sessions
            .iter_mut()
            .map(|session| {
                scope.spawn(|| {
                    let begin = Instant::now();
                    let mut count = 0.0;
                    while begin.elapsed() < time {
                        let row = decode(bundle, input, &limits)?;
                        session.run(std::iter::once(&row), |_| {})?;
                        count += 1.0;
                    }
                    Ok(count / begin.elapsed().as_secs_f64())
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
            .collect()
    });
    counts.into_iter().sum()
}
