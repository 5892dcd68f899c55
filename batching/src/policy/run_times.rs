use std::time::Duration;

/// How long the inner service takes, learnt from its runs.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RunTimes {
    averages: Option<Averages>,
}

/// Moving averages, in seconds.
#[derive(Debug, Clone, Copy)]
struct Averages {
    /// Time of a run divided by its weight.
    unit: f64,
    /// Time of a whole run.
    run: f64,
}

/// Weight of the latest run in the moving averages.
const LATEST: f64 = 0.1;

/// Expected times are this much longer than the averages say. A request that is run and expires all
/// the same is work for nothing, while one that is refused early can go to another server.
const CAUTION: f64 = 1.25;

impl RunTimes {
    pub(crate) fn add(&mut self, ran: Duration, weight: u32) {
        let run = ran.as_secs_f64();
        let unit = run / f64::from(weight.max(1));
        let old = self.averages.unwrap_or(Averages { unit, run });
        let moved = |old: f64, latest: f64| old + LATEST * (latest - old);
        self.averages = Some(Averages {
            unit: moved(old.unit, unit),
            run: moved(old.run, run),
        });
    }

    /// How long a run of this weight takes.
    pub(super) fn of_run(&self, weight: u32) -> Option<Duration> {
        let unit = self.averages?.unit;
        Duration::try_from_secs_f64(unit * f64::from(weight) * CAUTION).ok()
    }

    /// How long it takes from now until a request has run that has `weight_ahead` ahead of it, its
    /// own weight included, if `workers` share the work.
    pub(super) fn until_run(&self, weight_ahead: u32, workers: usize) -> Option<Duration> {
        let Averages { unit, run } = self.averages?;
        let seconds = unit * f64::from(weight_ahead) / workers.max(1) as f64 + run;
        Duration::try_from_secs_f64(seconds * CAUTION).ok()
    }
}
