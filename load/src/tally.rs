//! Counts and latencies of a load.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::response::Response;

/// The time that is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    /// End of the warm-up.
    pub(crate) start: Instant,
    /// From here on nothing more is sent.
    pub(crate) end: Instant,
}

impl Window {
    /// Whether `moment` is in the window. Its end is not.
    pub(crate) fn contains(&self, moment: Instant) -> bool {
        (self.start..self.end).contains(&moment)
    }
}

/// Why a request got no response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Failure {
    /// The server accepted no connection.
    Connect,
    /// The response was not complete within [`LoadSpec::timeout`](crate::LoadSpec::timeout).
    Timeout,
    /// The server closed the connection before the response was complete.
    Closed,
    /// Reading from the connection failed, for example because it was reset.
    Broken,
    /// The server sent something other than one HTTP/1.1 response.
    Malformed,
}

impl Failure {
    /// The name in reports: `connect`, `timeout`, `closed`, `broken` or `malformed`.
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

/// A histogram of latencies with three significant digits, from 100 ns to 1,000 s.
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
    /// Adds a latency. One outside of the range counts as the nearest end of it.
    pub fn record(&mut self, latency: Duration) {
        let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.0.saturating_record(nanoseconds);
    }

    fn add(&mut self, other: &Self) {
        // Fails only if the bounds differ, and all histograms have the same.
        let _ = self.0.add(&other.0);
    }

    /// Number of latencies.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency in microseconds that `percent` (0 to 100) of the requests did not exceed.
    pub fn percentile(&self, percent: f64) -> f64 {
        self.0.value_at_percentile(percent) as f64 / 1e3
    }

    /// The mean in microseconds.
    pub fn mean(&self) -> f64 {
        self.0.mean() / 1e3
    }

    /// The longest latency in microseconds.
    pub fn max(&self) -> f64 {
        self.0.max() as f64 / 1e3
    }

    /// Number of latencies longer than `limit`, which is rounded to three significant digits.
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

/// Latencies of the responses with one status.
#[derive(Debug, Clone, Default)]
pub struct StatusTally {
    /// From the time the request was due to its response. In a closed loop a request is due when it
    /// is sent.
    pub latency: Latencies,
    /// From the time the request was sent to its response. Only kept in an open loop.
    pub service: Option<Latencies>,
}

/// Counts and latencies of a load.
///
/// A request counts if it was *due* in the window, whenever it ended: that is what latencies and
/// errors are about. Throughput counts the responses that *came* in the window.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Requests due in the window, by the HTTP status of the response.
    pub statuses: BTreeMap<u16, StatusTally>,
    /// Requests due in the window that got no response.
    pub failures: BTreeMap<Failure, u64>,
    /// Requests due in the window that were never sent, because every connection was busy.
    pub unsent: u64,
    /// Responses with status 2xx that came within the window, whenever the request was due.
    pub good_in_window: u64,
    /// Responses with any status that came within the window.
    pub responses_in_window: u64,
    /// Bytes sent for requests due in the window.
    pub bytes_sent: u64,
    /// Bytes of their responses.
    pub bytes_received: u64,
    /// Requests that have ended, those of the warm-up included.
    pub ended: u64,
}

/// One request that ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) due: Instant,
    pub(crate) sent: Instant,
    pub(crate) end: Instant,
    /// Length of the request.
    pub(crate) bytes: u64,
    pub(crate) outcome: Result<Response, Failure>,
}

impl Tally {
    pub(crate) fn record(&mut self, ended: &Ended, window: &Window, open_loop: bool) {
        self.ended += 1;
        if let Ok(response) = &ended.outcome
            && window.contains(ended.end)
        {
            self.responses_in_window += 1;
            self.good_in_window += u64::from((200..300).contains(&response.status));
        }
        if !window.contains(ended.due) {
            return;
        }
        self.bytes_sent += ended.bytes;
        match &ended.outcome {
            Ok(response) => {
                self.bytes_received += response.bytes;
                let responses = self.statuses.entry(response.status).or_default();
                responses.latency.record(ended.end - ended.due);
                if open_loop {
                    responses
                        .service
                        .get_or_insert_default()
                        .record(ended.end - ended.sent);
                }
            }
            Err(failure) => *self.failures.entry(*failure).or_default() += 1,
        }
    }

    /// Adds the counts of another load, or of another thread.
    pub fn add(&mut self, other: &Self) {
        for (status, responses) in &other.statuses {
            let sum = self.statuses.entry(*status).or_default();
            sum.latency.add(&responses.latency);
            if let Some(service) = &responses.service {
                sum.service.get_or_insert_default().add(service);
            }
        }
        for (failure, count) in &other.failures {
            *self.failures.entry(*failure).or_default() += count;
        }
        self.unsent += other.unsent;
        self.good_in_window += other.good_in_window;
        self.responses_in_window += other.responses_in_window;
        self.bytes_sent += other.bytes_sent;
        self.bytes_received += other.bytes_received;
        self.ended += other.ended;
    }

    /// The latencies of the responses with status 2xx.
    pub fn good(&self) -> StatusTally {
        let mut good = StatusTally::default();
        for responses in self.statuses.range(200..300).map(|(_, responses)| responses) {
            good.latency.add(&responses.latency);
            if let Some(service) = &responses.service {
                good.service.get_or_insert_default().add(service);
            }
        }
        good
    }

    /// Number of requests due in the window.
    pub fn requests(&self) -> u64 {
        let answered: u64 = self
            .statuses
            .values()
            .map(|responses| responses.latency.count())
            .sum();
        answered + self.failures.values().sum::<u64>() + self.unsent
    }

    /// Number of requests due in the window that did not get a response with status 2xx.
    pub fn errors(&self) -> u64 {
        self.requests() - self.good().latency.count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn response(status: u16) -> Response {
        Response {
            status,
            bytes: 10,
            reusable: true,
            body: Bytes::new(),
        }
    }

    #[test]
    fn a_request_counts_when_it_was_due_and_throughput_when_the_response_came() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let window = Window {
            start: at(100),
            end: at(200),
        };
        let mut tally = Tally::default();
        for (due, end, outcome) in [
            (90, 110, Ok(response(200))),
            (110, 130, Ok(response(200))),
            (150, 155, Ok(response(503))),
            (190, 290, Ok(response(200))),
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
        assert_eq!((tally.good_in_window, tally.responses_in_window), (2, 3));
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
    fn percentiles_have_three_significant_digits_from_microseconds_to_minutes() {
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
    fn the_tallies_of_threads_add_up() {
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
                outcome: Ok(response(204)),
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
        assert!(sum.good().service.is_none(), "only an open loop can send late");
    }
}
