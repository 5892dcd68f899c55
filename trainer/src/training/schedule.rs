//! Learning rate schedules.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use super::Config;

/// The parts of a run after which [`Schedule::Step`] lowers the learning rate.
const STEPS: [f64; 2] = [0.5, 0.75];
/// The factor of each step of [`Schedule::Step`].
const STEP_FACTOR: f64 = 0.1;
/// The part of a run during which [`Schedule::OneCycle`] rises.
const RISE: f64 = 0.23;
/// The factor at which [`Schedule::OneCycle`] starts.
const FIRST: f64 = 0.2;
/// The factor of each reduction of [`Schedule::Plateau`].
const PLATEAU_FACTOR: f64 = 0.5;
/// The number of epochs without a smaller validation loss after which [`Schedule::Plateau`] reduces
/// the learning rate.
const PLATEAU_EPOCHS: u32 = 3;

/// How the learning rate changes over a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// The same learning rate throughout.
    Constant,
    /// A linear warm-up over one epoch, then a cosine decay to 0.
    Cosine,
    /// A tenth after half of the epochs, a hundredth after three quarters of them.
    Step,
    /// Rises linearly from a fifth for 23 % of the steps, then falls linearly to 0.
    OneCycle,
    /// Halved after every 3 epochs without a smaller validation loss.
    Plateau,
}

impl Schedule {
    /// Describes the schedule for model cards.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Constant => "constant",
            Self::Cosine => "one epoch of warm-up, then a cosine",
            Self::Step => "a tenth of it after half of the epochs, a hundredth after three quarters",
            Self::OneCycle => "one cycle: up for 23 % of the steps, then down to nothing",
            Self::Plateau => "halved after 3 epochs without a smaller validation loss",
        }
    }
}

/// Computes the learning rate of step number `done`, counted from 0, without [`Plateau::factor`].
pub(super) fn learning_rate(config: &Config, steps_an_epoch: usize, done: usize) -> f64 {
    let total = steps_an_epoch * config.epochs as usize;
    let part = done as f64 / total.max(1) as f64;
    let factor = match config.schedule {
        Schedule::Constant | Schedule::Plateau => 1.0,
        Schedule::Cosine => {
            let warm_up = steps_an_epoch.min(total / 5);
            if done < warm_up {
                (done + 1) as f64 / warm_up as f64
            } else {
                let part = (done - warm_up) as f64 / (total - warm_up).max(1) as f64;
                0.5 * (1.0 + (PI * part).cos())
            }
        }
        Schedule::Step => {
            let passed = STEPS.iter().filter(|&&at| part >= at).count();
            STEP_FACTOR.powi(passed as i32)
        }
        Schedule::OneCycle if part < RISE => FIRST + (1.0 - FIRST) * part / RISE,
        Schedule::OneCycle => (1.0 - part) / (1.0 - RISE),
    };
    config.learning_rate * factor
}

/// The state of [`Schedule::Plateau`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Plateau {
    /// Multiplies the learning rate.
    pub(super) factor: f64,
    pub(super) smallest: Option<f64>,
    /// Epochs since the smallest loss or the last reduction.
    pub(super) waited: u32,
}

impl Default for Plateau {
    fn default() -> Self {
        Self {
            factor: 1.0,
            smallest: None,
            waited: 0,
        }
    }
}

impl Plateau {
    /// Updates the factor from the validation loss of a completed epoch.
    pub(super) fn look(&mut self, schedule: Schedule, loss: f64) {
        if schedule != Schedule::Plateau {
            return;
        }
        if self.smallest.is_none_or(|smallest| loss < smallest) {
            self.smallest = Some(loss);
            self.waited = 0;
            return;
        }
        self.waited += 1;
        if self.waited >= PLATEAU_EPOCHS {
            self.factor *= PLATEAU_FACTOR;
            self.waited = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(schedule: Schedule, done: usize) -> f64 {
        let config = Config {
            epochs: 10,
            learning_rate: 0.5,
            schedule,
            ..Config::default()
        };
        learning_rate(&config, 100, done)
    }

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-12, "{found}, expected {expected}");
    }

    #[test]
    fn a_cosine_rises_for_an_epoch_and_falls_to_zero() {
        let rate = |done| rate(Schedule::Cosine, done);
        assert!(rate(0) > 0.0 && rate(0) < 0.01);
        close(rate(99), 0.5);
        close(rate(100), 0.5);
        close(rate(550), 0.25);
        assert!(rate(999) > 0.0 && rate(999) < 1e-5);
        assert!((0..900).all(|done| rate(done + 100) < rate(done + 99) || done == 0));
    }

    #[test]
    fn one_cycle_rises_from_a_fifth_and_falls_to_zero() {
        let rate = |done| rate(Schedule::OneCycle, done);
        close(rate(0), 0.1);
        close(rate(115), 0.3);
        close(rate(230), 0.5);
        close(rate(615), 0.25);
        assert!(rate(999) > 0.0 && rate(999) < 1e-3);
    }

    #[test]
    fn the_step_schedule_has_two_steps() {
        let rate = |done| rate(Schedule::Step, done);
        for (done, expected) in [
            (0, 0.5),
            (499, 0.5),
            (500, 0.05),
            (749, 0.05),
            (750, 0.005),
            (999, 0.005),
        ] {
            close(rate(done), expected);
        }
        close(super::tests::rate(Schedule::Constant, 999), 0.5);
    }

    #[test]
    fn a_plateau_halves_the_rate_after_three_epochs_without_improvement() {
        let mut plateau = Plateau::default();
        let mut factors = Vec::new();
        for loss in [1.0, 0.9, 0.95, 0.9, 0.91, 0.8, 0.8, 0.8, 0.8] {
            plateau.look(Schedule::Plateau, loss);
            factors.push(plateau.factor);
        }
        assert_eq!(factors, [1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.25]);
        let mut other = Plateau::default();
        for _ in 0..9 {
            other.look(Schedule::Constant, 1.0);
        }
        assert_eq!(other, Plateau::default());
    }
}
