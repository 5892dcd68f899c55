//! The training loop, with validation, early stopping and checkpoints.
//!
//! All random numbers come from generators that are seeded for each step. A run that is stopped and
//! resumed, even in the middle of an epoch, therefore ends with the same weights as a run without
//! interruption.

mod config;
mod run;
mod schedule;
mod source;

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng as _};
use rand_distr::{Beta, Distribution as _};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::{
    network::{Layer, Mode, Network, Precision},
    optimizer::Optimizer,
    progress::Bar,
};
pub use config::{Config, ConfigOptions};
use run::{Run, State};
pub use schedule::Schedule;
use schedule::learning_rate;
pub use source::{Batch, Change, Ink, Jitter, Part, Pixels, Source, order};

/// The number of training samples from which [`Network::fit`] computes weights.
const FIT_SAMPLES: usize = 2000;
/// A run with a loss above this has diverged.
const LOSS_LIMIT: f64 = 1e4;

#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("training diverged: the loss is {loss}; try a --learning-rate below {learning_rate}")]
pub struct Diverged {
    pub loss: f64,
    /// The learning rate of the last step.
    pub learning_rate: f64,
}

/// The figures of one epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// Counted from 1.
    pub epoch: u32,
    /// The mean loss during training, on changed samples and with changing weights.
    pub training_loss: f64,
    /// The part of the samples that were classified correctly during training.
    pub training_accuracy: f64,
    pub validation_loss: f64,
    pub validation_accuracy: f64,
}

#[derive(Debug)]
pub enum Outcome {
    /// All epochs are done, or training stopped early.
    Finished {
        /// The weights with the best validation accuracy.
        network: Network,
        /// The epoch of these weights, counted from 1.
        best: u32,
        history: Vec<Epoch>,
    },
    /// Training was asked to stop and left a checkpoint.
    Interrupted,
}

/// The inputs of [`train`].
pub struct Job<'a> {
    pub layers: &'a [Layer],
    pub config: &'a Config,
    pub training: &'a dyn Source,
    /// The samples that decide which epoch is best.
    pub validation: &'a dyn Source,
    pub device: Device,
}

/// What to do with a run directory that has a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Return an error.
    Fresh,
    /// Continue from the checkpoint.
    Resume,
    /// Delete the checkpoint.
    Restart,
}

/// Trains a network and returns its best weights. Writes a checkpoint to `directory` after each
/// epoch, and when `stop` becomes true.
pub fn train(job: &Job<'_>, directory: &Path, start: Start, stop: &AtomicBool) -> Result<Outcome> {
    let config = job.config;
    let mut trainer = Trainer::begin(job, directory, start)?;
    while trainer.state.epoch < config.epochs && !trainer.state.out_of_patience(config.patience) {
        let (started, seen_before) = (Instant::now(), trainer.state.seen);
        if !trainer.steps(stop)? {
            return Ok(Outcome::Interrupted);
        }
        let seen = trainer.state.seen - seen_before;
        trainer.finish_epoch(seen as f64 / started.elapsed().as_secs_f64().max(1e-9))?;
    }
    trainer.finish()
}

/// The state of a training run in memory.
struct Trainer<'a> {
    job: &'a Job<'a>,
    run: Run,
    state: State,
    network: Network,
    /// The running average of the network's weights.
    average: Network,
    optimizer: Optimizer,
    /// The number of steps in an epoch.
    epoch_steps: usize,
    bar: Bar,
    started: Instant,
}

impl<'a> Trainer<'a> {
    /// Initialises the network, or loads the checkpoint in `directory`.
    fn begin(job: &'a Job<'a>, directory: &Path, start: Start) -> Result<Self> {
        let config = job.config;
        let count = job.training.len();
        if job.training.is_empty() || job.validation.is_empty() {
            bail!(
                "expected training and validation samples, found {count} and {}",
                job.validation.len()
            );
        }
        let mut network = Network::new(job.layers, config.seed, job.device)?;
        network.set_precision(config.precision);
        network.set_dropout(config.dropout);
        if network.needs_fit() {
            let picked = (0..count.min(FIT_SAMPLES) as i64).collect();
            let part = Part { picked, change: None };
            network.fit(&job.training.batch(&part)?.inputs)?;
        }
        let mut average = network.frozen();
        let mut optimizer = Optimizer::new(config.hyperparameters());
        let run = Run::new(directory);
        let state = match run.begin(config, start)? {
            Some(checkpoint) => {
                network.load(&checkpoint.network)?;
                average.load(&checkpoint.average)?;
                optimizer.restore(checkpoint.state.steps, &checkpoint.moments, job.device)?;
                checkpoint.state
            }
            None => State::default(),
        };
        let batch_size = config.batch_size as usize;
        let total = u64::from(config.epochs) * count as u64;
        let seen = u64::from(state.epoch) * count as u64 + state.seen as u64;
        Ok(Self {
            job,
            run,
            state,
            network,
            average,
            optimizer,
            epoch_steps: job.training.epoch(config.seed, 0, batch_size).len(),
            bar: Bar::samples("train", total, seen.min(total)),
            started: Instant::now(),
        })
    }

    /// Does the remaining steps of the current epoch. Returns false after a checkpoint if `stop`
    /// became true.
    fn steps(&mut self, stop: &AtomicBool) -> Result<bool> {
        let (job, config) = (self.job, self.job.config);
        for batch in job.training.batches(plan(job, &self.state, self.epoch_steps)) {
            let batch = batch?;
            let done = self.optimizer.steps() as usize;
            let rate = self.state.plateau.factor * learning_rate(config, self.epoch_steps, done);
            let trained = batch.labels.numel();
            let (loss, right) = step(job, &mut self.network, &mut self.optimizer, batch, rate)?;
            let decay = average_decay(config.average_decay, self.optimizer.steps());
            self.average.follow(&self.network, decay);
            let state = &mut self.state;
            state.step += 1;
            state.steps = self.optimizer.steps();
            state.seen += trained;
            state.loss += loss * trained as f64;
            state.right += right;
            let seen = state.seen as f64;
            self.bar.advance_with(trained as u64, || {
                format!(
                    "epoch {}/{} loss {:.4} accuracy {:.2} %",
                    state.epoch + 1,
                    config.epochs,
                    state.loss / seen,
                    100.0 * state.right as f64 / seen
                )
            });
            if stop.load(Ordering::Relaxed) {
                self.save()?;
                self.bar.finish();
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Validates after the last step of an epoch, logs the epoch and writes a checkpoint. `rate` is
    /// in samples per second.
    fn finish_epoch(&mut self, rate: f64) -> Result<()> {
        let (config, state) = (self.job.config, &mut self.state);
        let (validation_loss, validation_accuracy) = look(&self.average, self.job.validation)?;
        state.plateau.look(config.schedule, validation_loss);
        let count = self.job.training.len() as f64;
        let epoch = Epoch {
            epoch: state.epoch + 1,
            training_loss: state.loss / count,
            training_accuracy: state.right as f64 / count,
            validation_loss,
            validation_accuracy,
        };
        self.bar.note(&format!(
            "epoch {}/{}: loss {:.4}, accuracy {:.2} %, validation loss {:.4}, accuracy {:.2} %, {:.0} samples/s, {:.0} s",
            epoch.epoch,
            config.epochs,
            epoch.training_loss,
            100.0 * epoch.training_accuracy,
            epoch.validation_loss,
            100.0 * epoch.validation_accuracy,
            rate,
            self.started.elapsed().as_secs_f64(),
        ));
        if state.finish_epoch(epoch) {
            self.run.save_best(state, &self.average)?;
        }
        self.save()
    }

    fn save(&self) -> Result<()> {
        self.run
            .save(&self.state, &self.network, &self.average, &self.optimizer)
    }

    /// Loads the weights of the best epoch.
    fn finish(self) -> Result<Outcome> {
        self.bar.finish();
        let config = self.job.config;
        if self.state.epoch < config.epochs {
            eprintln!(
                "stopped early: no better validation accuracy in {} epochs",
                config.patience
            );
        }
        let mut network = self.average;
        network.load(&self.run.best(&self.state)?)?;
        network.set_precision(Precision::F32);
        Ok(Outcome::Finished {
            network,
            best: self.state.best.as_ref().map_or(0, |best| best.epoch),
            history: self.state.history,
        })
    }
}

/// Returns the completed epochs of the run in `directory` and the number of the best one.
pub fn history(directory: &Path) -> Result<(Vec<Epoch>, Option<u32>)> {
    let state = Run::new(directory).state()?;
    Ok((state.history, state.best.map(|best| best.epoch)))
}

/// Whether `directory` has a checkpoint.
pub fn is_run(directory: &Path) -> bool {
    Run::new(directory).is_used()
}

/// Returns the remaining batches of the current epoch.
fn plan(job: &Job<'_>, state: &State, steps: usize) -> Vec<Part> {
    let config = job.config;
    let epoch = job
        .training
        .epoch(config.seed, state.epoch, config.batch_size as usize);
    let parts = epoch.into_iter().enumerate().skip(state.step);
    let first = u64::from(state.epoch) * steps as u64;
    parts
        .map(|(at, picked)| Part {
            picked,
            change: config.augment.then_some(Change {
                seed: config.seed,
                epoch: state.epoch,
                step: first + at as u64,
            }),
        })
        .collect()
}

/// Trains on one batch. Returns its mean loss and the number of correctly classified samples.
fn step(
    job: &Job<'_>,
    network: &mut Network,
    optimizer: &mut Optimizer,
    batch: Batch,
    learning_rate: f64,
) -> Result<(f64, i64)> {
    let config = job.config;
    let inputs = batch.inputs.to_device(job.device);
    let labels = batch.labels.to_device(job.device);
    if config.dropout > 0.0 {
        // Dropout draws from libtorch's global generator.
        tch::manual_seed((config.seed ^ 0x6472_6f70_0000_0000).wrapping_add(optimizer.steps() as u64) as i64);
    }
    let cross_entropy = |logits: &Tensor, labels: &Tensor| {
        let mean = tch::Reduction::Mean;
        logits.cross_entropy_loss::<Tensor>(labels, None, mean, -100, config.label_smoothing)
    };
    let (logits, loss) = if let Some(part) = mixed_part(config, optimizer.steps())? {
        let others = labels.flip([0]);
        let mixed = &inputs * part + inputs.flip([0]) * (1.0 - part);
        let logits = network.forward(&mixed, Mode::Training);
        let loss = cross_entropy(&logits, &labels) * part + cross_entropy(&logits, &others) * (1.0 - part);
        (logits, loss)
    } else {
        let logits = network.forward(&inputs, Mode::Training);
        let loss = cross_entropy(&logits, &labels);
        (logits, loss)
    };
    loss.backward();
    optimizer.step(network, learning_rate);
    let loss = f64::try_from(&loss).context("cannot read the loss")?;
    if !loss.is_finite() || loss > LOSS_LIMIT {
        return Err(Diverged { loss, learning_rate }.into());
    }
    Ok((loss, right(&logits, &labels)?))
}

/// Draws the part of each sample that mixup keeps, at least half.
fn mixed_part(config: &Config, steps: i64) -> Result<Option<f64>> {
    if config.mixup <= 0.0 {
        return Ok(None);
    }
    let beta = Beta::new(config.mixup, config.mixup).context("mixup: expected a number above 0")?;
    let mut rng = ChaCha8Rng::seed_from_u64(config.seed ^ 0x6d69_7875_7000_0000);
    rng.set_stream(steps as u64);
    let part: f64 = beta.sample(&mut rng);
    Ok(Some(part.max(1.0 - part)))
}

/// Computes the mean loss and the accuracy on validation samples.
fn look(network: &Network, samples: &dyn Source) -> Result<(f64, f64)> {
    let (mut loss, mut correct) = (0.0, 0);
    for batch in batches(network, samples) {
        let (logits, labels) = batch?;
        let sum = logits.cross_entropy_loss::<Tensor>(&labels, None, tch::Reduction::Sum, -100, 0.0);
        loss += f64::try_from(&sum).context("cannot read the loss")?;
        correct += right(&logits, &labels)?;
    }
    let count = samples.len() as f64;
    Ok((loss / count, correct as f64 / count))
}

/// Computes the probabilities of all samples, `[count, classes]`.
pub fn probabilities(network: &Network, samples: &dyn Source) -> Result<Tensor> {
    let parts = batches(network, samples).map(|batch| Ok(batch?.0.softmax(-1, Kind::Float)));
    Ok(Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0))
}

/// Computes the logits of all samples and returns them with the labels, batch by batch.
fn batches<'a>(
    network: &'a Network,
    samples: &'a dyn Source,
) -> impl Iterator<Item = Result<(Tensor, Tensor)>> + 'a {
    let places: Vec<i64> = (0..samples.len() as i64).collect();
    let parts = places.chunks(samples.looking_batch()).map(|picked| Part {
        picked: picked.to_vec(),
        change: None,
    });
    let device = network.device();
    samples.batches(parts.collect()).map(move |batch| {
        let Batch { inputs, labels } = batch?;
        let logits = tch::no_grad(|| network.forward(&inputs.to_device(device), Mode::Inference));
        Ok((logits, labels.to_device(device)))
    })
}

fn right(logits: &Tensor, labels: &Tensor) -> Result<i64> {
    let right = logits.argmax(-1, false).eq_tensor(labels).sum(Kind::Int64);
    i64::try_from(&right).context("cannot read the number of correct samples")
}

/// Limits the decay in the first steps, while the weights still change fast.
fn average_decay(decay: f64, steps: i64) -> f64 {
    decay.min((1 + steps) as f64 / (10 + steps) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_average_follows_fast_in_the_first_steps() {
        assert!(average_decay(0.0, 1).abs() < 1e-12);
        assert!(average_decay(0.998, 1) < 0.2);
        assert!((average_decay(0.998, 100_000) - 0.998).abs() < 1e-12);
    }

    #[test]
    fn mixup_keeps_at_least_half_and_is_reproducible() {
        let config = Config {
            mixup: 0.4,
            ..Config::default()
        };
        let parts: Vec<f64> = (0..100)
            .map(|step| mixed_part(&config, step).unwrap().unwrap())
            .collect();
        assert!(parts.iter().all(|part| (0.5..=1.0).contains(part)));
        assert_ne!(parts[0], parts[1]);
        assert_eq!(mixed_part(&config, 7).unwrap(), Some(parts[7]));
        assert_eq!(mixed_part(&Config::default(), 7).unwrap(), None);
    }
}
