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

/// What was measured, on one thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunTimes {
    /// Of a run with one row.
    pub single: Duration,
    /// Of each row in a run with a few.
    pub in_batch: Duration,
    /// Of each unit of weight in the heaviest batch. None if a run is long, or other inputs may take longer, see
    /// [`GraphFiles::outline`](classifier::bundle::GraphFiles::outline).
    pub of_a_unit: Option<Duration>,
}

/// What was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Sessions that run side by side.
    pub lanes: usize,
    /// Threads of each lane's session; without a number 1, and a lone run has one for each CPU, see [`super::wide`].
    pub threads: Option<usize>,
    /// Whether rows of several requests should run together.
    pub batches_pay: bool,
    /// Largest batch that a request runs on its own task while a lane has nothing to do; 0: lanes run everything.
    pub caller_weight: u32,
    /// Why.
    pub reason: String,
}

/// Long runs are batched if a row in a batch takes at most this part of a row alone. A batch that is not faster only makes its
/// first members wait for its last: ResNet-18 takes 36.0 ms alone and 35.9 ms in a batch.
const BATCH_PAYS: f64 = 0.85;

/// A run of one row that is longer than this gains more from a second thread than the threads cost to wake. ResNet-18 on two
/// cores, 35 ms on one thread: on both a lone run takes 18 ms. With work for all lanes a thread each is best: two lanes that
/// share a pool of two threads reach 0.96 of that, as does a single lane with two threads of its own.
const LONG_RUN: Duration = Duration::from_millis(2);

/// A task that runs a batch keeps one of the threads that serve HTTP for about so long, and others wait for it. Against
/// lanes alone, at 8 connections: 1.3 times the throughput for runs of 90 us, and 0.75 of the latency at one connection.
pub(super) const CALLER_RUN: Duration = Duration::from_millis(2);

/// The least with which the device need not wait for the next batch. Each further one costs the memory of the weights.
const GPU_LANES: usize = 2;

/// The few nodes of a graph that stay on the CPU are not worth more.
pub(super) const GPU_THREADS: usize = 1;

impl Plan {
    /// What was asked for.
    pub fn configured(lanes: usize, threads: usize) -> Self {
        Self {
            lanes,
            threads: Some(threads),
            batches_pay: true,
            caller_weight: 0,
            reason: "configured".to_owned(),
        }
    }

    /// On a GPU: two lanes, and nothing on callers' tasks, because a run waits for the device and not for the CPU.
    pub fn on_gpu(settings: LaneSettings) -> Self {
        let lanes = settings.lanes.unwrap_or(GPU_LANES);
        let reason = match settings.lanes {
            Some(_) => "configured; on a GPU batches pay",
            None => {
                "on a GPU batches pay, and of two lanes one lays out and copies its batch while that of the other runs"
            }
        };
        Self {
            lanes,
            threads: Some(settings.threads.unwrap_or(GPU_THREADS)),
            batches_pay: true,
            caller_weight: 0,
            reason: reason.to_owned(),
        }
    }

    /// Decides from what was asked for, what was measured, and the number of CPUs.
    pub fn new(settings: LaneSettings, times: RunTimes, cpus: usize) -> Self {
        let run_time = times.single;
        let threads = settings.threads.or((run_time < LONG_RUN).then_some(1));
        let lanes = settings.lanes.unwrap_or(match threads {
            Some(threads) => (cpus / threads).max(1),
            None => cpus,
        });
        let caller_weight = match times.of_a_unit {
            Some(unit) if threads == Some(1) && run_time <= CALLER_RUN / 2 => {
                (CALLER_RUN.as_nanos() / unit.as_nanos().max(1)) as u32
            }
            _ => 0,
        };
        let why = match threads {
            Some(_) if caller_weight > 0 => "so CPUs have a lane each, which requests use on their own tasks",
            Some(_) => "so CPUs have a lane each",
            None => "so CPUs have a lane each, and a lone run spreads over all of them",
        };
        let batches_pay = run_time < LONG_RUN || times.in_batch <= run_time.mul_f64(BATCH_PAYS);
        let batches = if batches_pay {
            ""
        } else {
            "; a batch is not faster"
        };
        Self {
            lanes,
            threads,
            batches_pay,
            caller_weight,
            reason: format!("a run takes {run_time:.0?} on one of {cpus} CPUs, {why}{batches}"),
        }
    }

    /// Threads that a run uses when nothing else runs.
    pub fn threads_of_a_lone_run(&self, cpus: usize) -> usize {
        self.threads.unwrap_or(cpus)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(
        lanes: Option<usize>,
        threads: Option<usize>,
        micros: u64,
        cpus: usize,
    ) -> (usize, Option<usize>) {
        let single = Duration::from_micros(micros);
        let times = RunTimes {
            single,
            in_batch: single,
            of_a_unit: None,
        };
        let plan = Plan::new(LaneSettings { lanes, threads }, times, cpus);
        (plan.lanes, plan.threads)
    }

    #[test]
    fn requests_run_on_their_own_tasks_what_is_short_for_certain() {
        let caller_weight = |single, of_a_unit: Option<u64>, threads| {
            let times = RunTimes {
                single: Duration::from_micros(single),
                in_batch: Duration::from_micros(single),
                of_a_unit: of_a_unit.map(Duration::from_micros),
            };
            let settings = LaneSettings { lanes: None, threads };
            Plan::new(settings, times, 2).caller_weight
        };
        assert_eq!(caller_weight(90, Some(80), None), 25, "2 ms");
        assert_eq!(caller_weight(90, None, None), 0, "another input may take longer");
        assert_eq!(
            caller_weight(90, Some(2100), None),
            0,
            "the heaviest take too long"
        );
        assert_eq!(caller_weight(1500, Some(1500), None), 0);
        assert_eq!(caller_weight(90, Some(80), Some(2)), 0);
    }

    #[test]
    fn a_short_run_gets_a_lane_for_each_cpu() {
        assert_eq!(plan(None, None, 9, 16), (16, Some(1)));
        assert_eq!(plan(None, None, 90, 2), (2, Some(1)));
        assert_eq!(plan(None, Some(4), 90, 16), (4, Some(4)));
        assert_eq!(plan(None, Some(4), 90, 2), (1, Some(4)), "at least one");
    }

    #[test]
    fn long_runs_share_their_threads() {
        assert_eq!(plan(None, None, 17_000, 2), (2, None));
        assert_eq!(plan(Some(1), None, 17_000, 2), (1, None));
    }

    #[test]
    fn long_runs_are_batched_only_if_that_is_faster() {
        let pays = |single, in_batch| {
            let times = RunTimes {
                single: Duration::from_micros(single),
                in_batch: Duration::from_micros(in_batch),
                of_a_unit: None,
            };
            Plan::new(LaneSettings::default(), times, 2).batches_pay
        };
        assert!(!pays(36_000, 35_900));
        assert!(pays(36_000, 20_000));
        assert!(
            pays(90, 90),
            "a batch saves wake-ups, which count beside a short run"
        );
    }

    #[test]
    fn a_gpu_gets_two_lanes_and_whole_batches() {
        let plan = Plan::on_gpu(LaneSettings::default());
        assert_eq!((plan.lanes, plan.threads), (2, Some(1)));
        assert_eq!((plan.batches_pay, plan.caller_weight), (true, 0));
        let settings = LaneSettings {
            lanes: Some(1),
            threads: Some(4),
        };
        let plan = Plan::on_gpu(settings);
        assert_eq!((plan.lanes, plan.threads), (1, Some(4)));
    }

    #[test]
    fn what_is_configured_is_done() {
        assert_eq!(plan(Some(3), None, 9, 2), (3, Some(1)));
        assert_eq!(plan(None, Some(2), 17_000, 8), (4, Some(2)));
    }
}
