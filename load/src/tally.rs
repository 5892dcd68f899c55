//! What is counted while a load runs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::response::Response;

/// The time that is measured: after the warm-up, before the end.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// End of the warm-up.
    pub start: Instant,
    /// From here on nothing is sent.
    pub end: Instant,
}

impl Window {
    /// Whether `moment` is measured.
    pub fn contains(&self, moment: Instant) -> bool {
        (self.start..self.end).contains(&moment)
    }
}

/// Why a request got no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Failure {
    /// No connection.
    Connect,
    /// No complete answer in time.
    Timeout,
    /// The server closed the connection in place of a complete answer.
    Closed,
    /// The connection broke.
    Broken,
    /// What came is no HTTP/1.1.
    Malformed,
}

impl Failure {
    /// As it is shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::Closed => "closed",
            Self::Broken => "broken",
            Self::Malformed => "malformed",
        }
    }
}

/// Latencies in nanoseconds, three significant digits.
#[derive(Debug, Clone)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    #[expect(clippy::expect_used, reason = "the bounds are constants")]
    fn default() -> Self {
        let (lowest, highest) = (100, 1_000_000_000_000);
        Self(Histogram::new_with_bounds(lowest, highest, 3).expect("bounds are in order"))
    }
}

impl Latencies {
    /// Adds one.
    pub fn record(&mut self, latency: Duration) {
        let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.0.saturating_record(nanoseconds);
    }

    fn add(&mut self, other: &Self) {
        // Cannot fail: both have the same bounds.
        let _ = self.0.add(&other.0);
    }

    /// How many were recorded.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// Microseconds that `percent` of the requests did not exceed.
    pub fn percentile(&self, percent: f64) -> f64 {
        self.0.value_at_percentile(percent) as f64 / 1e3
    }

    /// Microseconds.
    pub fn mean(&self) -> f64 {
        self.0.mean() / 1e3
    }

    /// Microseconds.
    pub fn max(&self) -> f64 {
        self.0.max() as f64 / 1e3
    }

    /// How many took longer than `limit`, to three digits.
    pub fn longer_than(&self, limit: Duration) -> u64 {
        let limit = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        let bucket = self.0.highest_equivalent(limit);
        self.0
            .iter_recorded()
            .filter(|value| value.value_iterated_to() > bucket)
            .map(|value| value.count_since_last_iteration())
            .sum()
    }
}

/// The answers with one status.
#[derive(Debug, Clone, Default)]
pub struct Answers {
    /// From when the request was due to its answer. In a closed loop a request is due when it is sent.
    pub latency: Latencies,
    /// From when the request was sent to its answer. Kept in an open loop alone.
    pub service: Option<Latencies>,
}

/// All that was counted.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Requests due in the window, by the status of their answer.
    pub statuses: BTreeMap<u16, Answers>,
    /// Requests due in the window that got no answer.
    pub failures: BTreeMap<Failure, u64>,
    /// Requests due in the window that were never sent, for every connection was busy.
    pub unsent: u64,
    /// Answers of status 2xx that came within the window, whenever their request was due. Throughput comes from this.
    pub good_in_window: u64,
    /// Answers of any status that came within the window.
    pub answers_in_window: u64,
    /// Bytes sent for requests due in the window.
    pub bytes_sent: u64,
    /// Bytes of their answers.
    pub bytes_received: u64,
    /// Everything that ended, the warm-up included: for the progress line.
    pub ended: u64,
}

/// One request that ended.
#[derive(Debug)]
pub struct Ended {
    /// When it was to be sent.
    pub due: Instant,
    /// When it was sent.
    pub sent: Instant,
    /// When its answer, or its failure, was there.
    pub end: Instant,
    /// Its length.
    pub bytes: u64,
    /// How it ended.
    pub outcome: Result<Response, Failure>,
}

impl Tally {
    /// Counts one request.
    pub fn record(&mut self, ended: &Ended, window: &Window, open_loop: bool) {
        self.ended += 1;
        if let Ok(answer) = &ended.outcome
            && window.contains(ended.end)
        {
            self.answers_in_window += 1;
            self.good_in_window += u64::from((200..300).contains(&answer.status));
        }
        if !window.contains(ended.due) {
            return;
        }
        self.bytes_sent += ended.bytes;
        match &ended.outcome {
            Ok(answer) => {
                self.bytes_received += answer.bytes;
                let answers = self.statuses.entry(answer.status).or_default();
                answers.latency.record(ended.end - ended.due);
                if open_loop {
                    answers
                        .service
                        .get_or_insert_default()
                        .record(ended.end - ended.sent);
                }
            }
            Err(failure) => *self.failures.entry(*failure).or_default() += 1,
        }
    }

    /// Adds what another thread counted.
    pub fn add(&mut self, other: &Self) {
        for (status, answers) in &other.statuses {
            let sum = self.statuses.entry(*status).or_default();
            sum.latency.add(&answers.latency);
            if let Some(service) = &answers.service {
                sum.service.get_or_insert_default().add(service);
            }
        }
        for (failure, count) in &other.failures {
            *self.failures.entry(*failure).or_default() += count;
        }
        self.unsent += other.unsent;
        self.good_in_window += other.good_in_window;
        self.answers_in_window += other.answers_in_window;
        self.bytes_sent += other.bytes_sent;
        self.bytes_received += other.bytes_received;
        self.ended += other.ended;
    }

    /// The answers of status 2xx.
    pub fn good(&self) -> Answers {
        let mut good = Answers::default();
        for answers in self.statuses.range(200..300).map(|(_, answers)| answers) {
            good.latency.add(&answers.latency);
            if let Some(service) = &answers.service {
                good.service.get_or_insert_default().add(service);
            }
        }
        good
    }

    /// Requests due in the window.
    pub fn requests(&self) -> u64 {
        let answered: u64 = self
            .statuses
            .values()
            .map(|answers| answers.latency.count())
            .sum();
        answered + self.failures.values().sum::<u64>() + self.unsent
    }

    /// Requests due in the window that ended otherwise than with status 2xx.
    pub fn errors(&self) -> u64 {
        self.requests() - self.good().latency.count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn answer(status: u16) -> Response {
        Response {
            status,
            bytes: 10,
            reusable: true,
            body: Bytes::new(),
        }
    }

    #[test]
    fn a_request_counts_where_it_was_due_and_an_answer_where_it_came() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let window = Window {
            start: at(100),
            end: at(200),
        };
        let mut tally = Tally::default();
        for (due, end, outcome) in [
            (90, 110, Ok(answer(200))),
            (110, 130, Ok(answer(200))),
            (150, 155, Ok(answer(503))),
            (190, 290, Ok(answer(200))),
            (199, 400, Err(Failure::Timeout)),
        ] {
            let (due, end) = (at(due), at(end));
            let sent = due + Duration::from_millis(1);
            tally.record(
                &Ended {
                    due,
                    sent,
                    end,
                    bytes: 100,
                    outcome,
                },
                &window,
                true,
            );
        }
        assert_eq!((tally.good_in_window, tally.answers_in_window), (2, 3));
        assert_eq!((tally.requests(), tally.errors()), (4, 2));
        let good = tally.good();
        assert!(
            (good.latency.max() - 100_000.0).abs() < 100.0,
            "{}",
            good.latency.max()
        );
        assert!((good.service.unwrap().max() - 99_000.0).abs() < 100.0);
        assert_eq!(good.latency.longer_than(Duration::from_millis(50)), 1);
        assert_eq!(good.latency.longer_than(Duration::from_millis(100)), 0);
        assert_eq!((tally.bytes_sent, tally.bytes_received), (400, 30));
    }

    #[test]
    fn percentiles_have_three_digits_from_microseconds_to_minutes() {
        for scale in [1_u64, 1_000, 1_000_000] {
            let mut latencies = Latencies::default();
            for step in 1..=100 {
                latencies.record(Duration::from_micros(step * scale));
            }
            for (percent, expected) in [(50.0, 50.0), (90.0, 90.0), (99.0, 99.0), (99.9, 100.0)] {
                let expected = expected * scale as f64;
                let found = latencies.percentile(percent);
                // The smallest unit is 64 ns.
                let tolerance = (expected * 0.001).max(0.064);
                assert!(
                    (found - expected).abs() <= tolerance,
                    "p{percent}: {found}, expected {expected}"
                );
            }
        }
    }

    #[test]
    fn adding_up_threads_loses_nothing() {
        let start = Instant::now();
        let window = Window {
            start,
            end: start + Duration::from_secs(1),
        };
        let mut one = Tally::default();
        one.record(
            &Ended {
                due: start,
                sent: start,
                end: start,
                bytes: 1,
                outcome: Ok(answer(204)),
            },
            &window,
            false,
        );
        let mut sum = one.clone();
        sum.add(&one);
        assert_eq!(
            (sum.requests(), sum.errors(), sum.ended, sum.good_in_window),
            (2, 0, 2, 2)
        );
        assert!(
            sum.good().service.is_none(),
            "a closed loop has no schedule to be late for"
        );
    }
}
