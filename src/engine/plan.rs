//! How many lanes a model gets, and how many threads each.

use std::time::Duration;

/// What the configuration or the model directory asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LaneSettings {
    /// Sessions that run side by side.
    pub lanes: Option<usize>,
    /// Threads of each session.
    pub threads: Option<usize>,
}

/// What was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Sessions that run side by side.
    pub lanes: usize,
    /// Threads of each session.
    pub threads: usize,
    /// Why.
    pub reason: String,
}

/// A run of one row that is shorter than this costs less than what HTTP costs for it: one lane keeps up with all that the
/// other CPUs can receive, and makes larger batches than two would.
const SHORT_RUN: Duration = Duration::from_micros(20);

impl Plan {
    /// Decides from what was asked for, the measured time of a run with one row, and the number of CPUs.
    pub fn new(settings: LaneSettings, run_time: Duration, cpus: usize) -> Self {
        let threads = settings.threads.unwrap_or(1);
        let micros = run_time.as_micros();
        let (lanes, reason) = match settings.lanes {
            Some(lanes) => (lanes, "configured".to_owned()),
            None if run_time < SHORT_RUN => {
                (1, format!("a run takes {micros} us, less than a request's HTTP"))
            }
            None => (
                (cpus / threads).max(1),
                format!("a run takes {micros} us; one lane for each {threads} of {cpus} CPUs"),
            ),
        };
        Self {
            lanes,
            threads,
            reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(lanes: Option<usize>, threads: Option<usize>, micros: u64, cpus: usize) -> (usize, usize) {
        let plan = Plan::new(
            LaneSettings { lanes, threads },
            Duration::from_micros(micros),
            cpus,
        );
        (plan.lanes, plan.threads)
    }

    #[test]
    fn a_short_run_gets_one_lane() {
        assert_eq!(plan(None, None, 9, 16), (1, 1));
    }

    #[test]
    fn a_long_run_gets_a_lane_for_each_cpu() {
        assert_eq!(plan(None, None, 17_000, 2), (2, 1));
        assert_eq!(plan(None, Some(4), 17_000, 16), (4, 4));
        assert_eq!(plan(None, Some(4), 17_000, 2), (1, 4), "at least one");
    }

    #[test]
    fn what_is_configured_is_done() {
        assert_eq!(plan(Some(3), None, 9, 2), (3, 1));
    }
}
