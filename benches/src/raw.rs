//! ONNX Runtime without a server: the cost of a run, and what the machine could do if HTTP were
//! free.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use classifier::{Bundle, ImageLimits, Row, Session, SessionOptions};
use serde::{Deserialize, Serialize};

pub const BATCHES: [usize; 2] = [1, 32];

/// The cost of a load without a server.
#[derive(Debug, Clone, Serialize)]
pub struct Raw {
    /// Time to decode and resize the input once, in microseconds.
    pub decode_us: f64,
    pub runs: Vec<Run>,
    /// Inputs per second if each core decodes and runs one input at a time, with a session of its
    /// own.
    pub all_cores: f64,
}

/// Runs with one number of threads and one batch size.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Run {
    pub threads: usize,
    pub batch: usize,
    /// Median of the microseconds per row.
    pub item_us: f64,
}

impl Raw {
    /// Microseconds of the fastest kind of run with one row.
    pub fn fastest(&self) -> f64 {
        let single = self.runs.iter().filter(|run| run.batch == 1);
        single.map(|run| run.item_us).fold(f64::INFINITY, f64::min)
    }
}

/// The label with the best score, which every server must give.
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

/// Repeats `work` for `time`, at least three times, and returns the median of its times in
/// microseconds.
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
    // Long enough for many runs of a slow model.
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
