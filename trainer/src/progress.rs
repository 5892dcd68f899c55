//! Shows progress on standard error: a bar on a terminal, a line now and then elsewhere.

use std::{
    fmt::Write as _,
    io::{IsTerminal as _, stderr},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressStyle};

/// The time between two lines where standard error is not a terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// The progress of one task. Several threads may report to it.
#[derive(Debug)]
pub struct Bar {
    title: String,
    unit: Unit,
    terminal: Option<ProgressBar>,
    total: Option<u64>,
    begun_at: u64,
    done: AtomicU64,
    begun: Instant,
    last_line: Mutex<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Bytes,
    Samples,
}

impl Bar {
    /// Shows a download of `total` bytes, of which `done` were there before.
    pub fn bytes(title: &str, total: Option<u64>, done: u64) -> Self {
        Self::new(title, Unit::Bytes, total, done)
    }

    /// Shows work on `total` samples, of which `done` were done before.
    pub fn samples(title: &str, total: u64, done: u64) -> Self {
        Self::new(title, Unit::Samples, Some(total), done)
    }

    fn new(title: &str, unit: Unit, total: Option<u64>, done: u64) -> Self {
        let template = match unit {
            Unit::Bytes => "{prefix} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta} left",
            Unit::Samples => "{prefix} {bar:30} {pos}/{len} {eta} left {msg}",
        };
        let terminal = stderr().is_terminal().then(|| {
            let bar = total.map_or_else(ProgressBar::no_length, ProgressBar::new);
            // The template is a constant that is known to parse.
            let style =
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            bar.set_style(style);
            bar.set_prefix(title.to_owned());
            bar.set_position(done);
            bar.reset_eta();
            bar
        });
        let now = Instant::now();
        Self {
            title: title.to_owned(),
            unit,
            terminal,
            total,
            begun_at: done,
            done: AtomicU64::new(done),
            begun: now,
            last_line: Mutex::new(now),
        }
    }

    /// Reports that `amount` more is done.
    pub fn advance(&self, amount: u64) {
        self.advance_with(amount, String::new);
    }

    /// Like [`Self::advance`], with a message to show beside the numbers.
    pub fn advance_with(&self, amount: u64, message: impl FnOnce() -> String) {
        self.done.fetch_add(amount, Ordering::Relaxed);
        if let Some(bar) = &self.terminal {
            // The rate that indicatif formats has four decimals.
            let rate = match self.unit {
                Unit::Bytes => String::new(),
                Unit::Samples => format!("{:.0} samples/s ", self.rate()),
            };
            bar.set_message(rate + &message());
            bar.inc(amount);
            return;
        }
        let mut last_line = self.last_line.lock().unwrap_or_else(PoisonError::into_inner);
        if last_line.elapsed() >= LINE_INTERVAL {
            *last_line = Instant::now();
            eprintln!("{}", self.line(&message()));
        }
    }

    /// The mean rate, per second.
    pub fn rate(&self) -> f64 {
        (self.done.load(Ordering::Relaxed) - self.begun_at) as f64
            / self.begun.elapsed().as_secs_f64().max(1e-9)
    }

    fn line(&self, message: &str) -> String {
        let amount = |amount: u64| match self.unit {
            Unit::Bytes => HumanBytes(amount).to_string(),
            Unit::Samples => format!("{amount} samples"),
        };
        let done = self.done.load(Ordering::Relaxed);
        let rate = self.rate();
        let mut line = format!("{}: {}", self.title, amount(done));
        if let Some(total) = self.total {
            let left = Duration::from_secs_f64(total.saturating_sub(done) as f64 / rate.max(1e-3));
            let (total, rate, left) = (amount(total), amount(rate as u64), HumanDuration(left));
            // Writing to a string cannot fail.
            let _ = write!(line, " of {total}, {rate}/s, {left} left");
        }
        if !message.is_empty() {
            let _ = write!(line, ", {message}");
        }
        line
    }

    /// Prints a line without disturbing the bar.
    pub fn note(&self, line: &str) {
        match &self.terminal {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    /// Removes the bar from the terminal.
    pub fn finish(&self) {
        if let Some(bar) = &self.terminal {
            bar.finish_and_clear();
        }
    }
}
