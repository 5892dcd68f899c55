//! How many lanes a model gets, and how many threads each session has.
//!
//! The plan is made once, when a model is loaded, from three things: what the configuration sets,
//! how long runs of the model take on one thread, and how many CPUs the process may use. In this
//! order:
//!
//! 1. **GPU**: two lanes ([`GPU_LANES`]). One prepares and copies its batch while the device runs
//!    the batch of the other. Batches are always filled, since a GPU runs a larger batch in little
//!    more time.
//! 2. **Lanes and threads are both configured**: they are used as they are, and nothing is
//!    measured.
//! 3. **Short runs** (below [`LONG_RUN`], 2 ms, for one row): one thread for each session and one
//!    lane for each CPU. Waking a second thread would cost more than it gains.
//! 4. **Long runs**: one lane for each CPU, each with a session of one thread, and a *wide session*
//!    with a thread for each CPU that all lanes share (see [`wide`](super::wide)). While several
//!    runs are active, each uses one CPU, which has the highest throughput. A lone run takes the
//!    wide session, which has the lowest latency.
//!
//! A configured number of lanes or of threads replaces the computed one; the other follows from it.
//!
//! Two more decisions follow from the measured times:
//!
//! * **Whether batching pays** ([`LanePlan::batches_pay`]). For long runs only if a row in a batch
//!   takes at most [`BATCH_PAYS`] of the time of a single row. Otherwise requests run one by one,
//!   because the first request of a batch would wait for the last one and gain nothing.
//! * **Whether callers run batches** ([`LanePlan::caller_weight`]). If one thread runs the model
//!   and a run certainly takes less than [`CALLER_RUN`], a request runs the batch on its own task
//!   while a lane is idle, which saves two thread switches. "Certainly" needs a graph whose cost
//!   depends only on the shape of its input, so that the heaviest batch can be measured in advance.

use std::time::Duration;

use batching::Limits;

/// Lanes and threads set in the configuration or the model directory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LaneSettings {
    pub lanes: Option<usize>,
    /// Threads of each session.
    pub threads: Option<usize>,
}

/// Times of runs that were measured on one thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunTimes {
    /// A run of one row.
    pub single: Duration,
    /// A row in a run of a few rows.
    pub in_batch: Duration,
    /// A unit of weight in the heaviest batch. `None` if runs are long, or if the time of a run
    /// depends on more than its shape, see
    /// [`GraphFiles::outline`](classifier::bundle::GraphFiles::outline).
    pub of_a_unit: Option<Duration>,
}

/// The lanes and threads of a model. The module explains how they are chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LanePlan {
    pub lanes: usize,
    /// Threads of each lane's session. `None`: one thread, and a wide session shared by the lanes.
    pub threads: Option<usize>,
    /// Rows of several requests should run together.
    pub batches_pay: bool,
    /// Heaviest batch that a request runs on its own task while a lane is idle. 0: only lanes run
    /// batches.
    pub caller_weight: u32,
    /// The reason in words, for the log and `GET /v1/models`.
    pub reason: String,
}

/// Long runs are batched if a row in a batch takes at most this part of the time of a single row.
/// ResNet-18 takes 36.0 ms alone and 35.9 ms in a batch, so it is not batched.
const BATCH_PAYS: f64 = 0.85;

/// Runs of one row that take longer gain more from a second thread than waking it costs.
///
/// Measured with ResNet-18 on two cores: 35 ms on one thread, 18 ms for a lone run on both. Under
/// full load a thread for each lane is best: two lanes that share a pool of two threads reach 0.96
/// of its throughput, as does one lane with two threads.
const LONG_RUN: Duration = Duration::from_millis(2);

/// Longest run of a batch on a request's task. It occupies one of the threads that serve HTTP, and
/// other requests wait for it. Against lanes alone, for runs of 90 us: 1.3 times the throughput at
/// 8 connections, and 0.75 of the latency at one connection.
pub(super) const CALLER_RUN: Duration = Duration::from_millis(2);

/// The least number of lanes that keeps the device busy. Each further lane costs the memory of the
/// weights again.
const GPU_LANES: usize = 2;

/// For the few nodes of a graph that stay on the CPU.
pub(super) const GPU_THREADS: usize = 1;

impl LanePlan {
    /// Lanes and threads are both configured.
    pub fn configured(lanes: usize, threads: usize) -> Self {
        Self {
            lanes,
            threads: Some(threads),
            batches_pay: true,
            caller_weight: 0,
            reason: "configured".to_owned(),
        }
    }

    /// On a GPU callers never run batches: a run waits for the device, not for a CPU.
    pub fn on_gpu(settings: LaneSettings) -> Self {
        let reason = match settings.lanes {
            Some(_) => "configured; batching is faster on a GPU",
            None => {
                "batching is faster on a GPU; with two lanes, one prepares and copies its batch while the other runs"
            }
        };
        Self {
            lanes: settings.lanes.unwrap_or(GPU_LANES),
            threads: Some(settings.threads.unwrap_or(GPU_THREADS)),
            batches_pay: true,
            caller_weight: 0,
            reason: reason.to_owned(),
        }
    }

    /// On CPUs, from measured times.
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
            Some(_) if caller_weight > 0 => {
                "so each CPU has a lane, and requests run batches on their own tasks"
            }
            Some(_) => "so each CPU has a lane",
            None => "so each CPU has a lane, and a lone run uses all CPUs",
        };
        let batches_pay = run_time < LONG_RUN || times.in_batch <= run_time.mul_f64(BATCH_PAYS);
        let batches = if batches_pay {
            ""
        } else {
            "; batching is not faster"
        };
        Self {
            lanes,
            threads,
            batches_pay,
            caller_weight,
            reason: format!("a run takes {run_time:.0?} on one of {cpus} CPUs, {why}{batches}"),
        }
    }

    /// The queue's limits under this plan. A configured `max_wait` turns off caller runs: a caller
    /// that finds an idle lane would never wait for a batch to fill.
    pub(super) fn limits(&self, configured: Limits) -> Limits {
        let fill_weight = if self.batches_pay {
            configured.max_weight
        } else {
            1
        };
        let callers_run = configured.max_wait.is_zero();
        configured
            .fill_weight(fill_weight)
            .caller_weight(if callers_run { self.caller_weight } else { 0 })
    }

    /// Threads that a run uses while no other run is active.
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
        let plan = LanePlan::new(LaneSettings { lanes, threads }, times, cpus);
        (plan.lanes, plan.threads)
    }

    #[test]
    fn requests_run_batches_on_their_own_tasks_only_if_every_run_is_short() {
        let caller_weight = |single, of_a_unit: Option<u64>, threads| {
            let times = RunTimes {
                single: Duration::from_micros(single),
                in_batch: Duration::from_micros(single),
                of_a_unit: of_a_unit.map(Duration::from_micros),
            };
            let settings = LaneSettings { lanes: None, threads };
            LanePlan::new(settings, times, 2).caller_weight
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
    fn long_runs_share_a_wide_session() {
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
            LanePlan::new(LaneSettings::default(), times, 2).batches_pay
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
        let plan = LanePlan::on_gpu(LaneSettings::default());
        assert_eq!((plan.lanes, plan.threads), (2, Some(1)));
        assert_eq!((plan.batches_pay, plan.caller_weight), (true, 0));
        let settings = LaneSettings {
            lanes: Some(1),
            threads: Some(4),
        };
        let plan = LanePlan::on_gpu(settings);
        assert_eq!((plan.lanes, plan.threads), (1, Some(4)));
    }

    #[test]
    fn configured_lanes_and_threads_are_used() {
        assert_eq!(plan(Some(3), None, 9, 2), (3, Some(1)));
        assert_eq!(plan(None, Some(2), 17_000, 8), (4, Some(2)));
    }
}
