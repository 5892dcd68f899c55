//! When the requests of an open loop are due. The times are fixed before the first request is sent,
//! so a slow server cannot slow down its own measurement.

use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

/// Time between two calls of [`Observer::tick`](crate::Observer::tick), and longest sleep of a
/// thread that may have to stop.
pub(crate) const TICK: Duration = Duration::from_millis(200);

/// Evenly spaced arrivals.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    start: Instant,
    /// Requests per second.
    rate: f64,
    count: u64,
}

impl Schedule {
    /// `rate` requests per second from `start` on, for `length`.
    pub(crate) fn new(start: Instant, rate: f64, length: Duration) -> Self {
        Self {
            start,
            rate,
            count: (rate * length.as_secs_f64()).ceil() as u64,
        }
    }

    /// When request `index` is due. Computed from the start, so that rounding errors do not add up.
    pub(crate) fn at(&self, index: u64) -> Option<Instant> {
        (index < self.count).then(|| self.start + Duration::from_secs_f64(index as f64 / self.rate))
    }
}

/// Hands out arrivals when they are due, to the threads in turn.
///
/// Runs on a thread of its own, because tokio's timers have a resolution of a millisecond.
pub(crate) fn pace(
    schedule: Schedule,
    feeds: &[mpsc::UnboundedSender<Instant>],
    stopped: &watch::Receiver<bool>,
) {
    let mut index = 0;
    while let Some(due) = schedule.at(index) {
        let now = Instant::now();
        if due > now {
            // Sleeps no longer than a tick, so that an interruption is noticed at a low rate as
            // well.
            thread::sleep((due - now).min(TICK));
            if *stopped.borrow() {
                return;
            }
            continue;
        }
        let feed = &feeds[index as usize % feeds.len()];
        if feed.send(due).is_err() {
            return;
        }
        index += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_are_evenly_spaced_and_end_with_the_window() {
        let start = Instant::now();
        let schedule = Schedule::new(start, 4.0, Duration::from_secs(2));
        let offsets: Vec<_> = (0..)
            .map_while(|index| schedule.at(index))
            .map(|due| (due - start).as_millis())
            .collect();
        assert_eq!(offsets, [0, 250, 500, 750, 1000, 1250, 1500, 1750]);
    }

    #[test]
    fn rounding_errors_do_not_add_up() {
        let start = Instant::now();
        let schedule = Schedule::new(start, 3333.0, Duration::from_hours(1));
        let hour = schedule.at(3333 * 3599).unwrap() - start;
        assert!(
            hour.abs_diff(Duration::from_secs(3599)) < Duration::from_micros(1),
            "{hour:?}"
        );
    }

    #[test]
    fn a_window_shorter_than_the_interval_still_has_one_request() {
        let schedule = Schedule::new(Instant::now(), 0.1, Duration::from_secs(1));
        assert!(schedule.at(0).is_some());
        assert!(schedule.at(1).is_none());
    }
}
