//! The loop: batches, schedule, validation, early stopping, checkpoints.
//!
//! All randomness comes from generators that are seeded for each step, so a run that was stopped and resumed, in the
//! middle of an epoch or not, ends with the same weights as one that was left alone.

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
/// A loss above this is a run that will not come back.
const LOSS_LIMIT: f64 = 1e4;

/// A run whose loss left all bounds.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("training diverged: the loss is {loss}; try a --learning-rate below {learning_rate}")]
pub struct Diverged {
    /// The last one.
    pub loss: f64,
    /// Of the last step.
    pub learning_rate: f64,
}

/// How one epoch went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// Counted from 1.
    pub epoch: u32,
    /// Mean over the epoch's batches, as they were trained on.
    pub training_loss: f64,
    /// Part of the epoch's samples labelled right while they were trained on.
    pub training_accuracy: f64,
    /// On the samples that are not trained on.
    pub validation_loss: f64,
    /// On the samples that are not trained on.
    pub validation_accuracy: f64,
}

/// How training ended.
#[derive(Debug)]
pub enum Outcome {
    /// After the last epoch, or early.
    Finished {
        /// The weights with the best validation accuracy.
        network: Network,
        /// The epoch they are from, counted from 1.
        best: u32,
        /// In order.
        history: Vec<Epoch>,
    },
    /// It was told to stop and left a checkpoint.
    Interrupted,
}

/// What is known before the first step.
pub struct Job<'a> {
    /// The network's layers.
    pub layers: &'a [Layer],
    /// How to train.
    pub config: &'a Config,
    /// What to learn from.
    pub training: &'a dyn Source,
    /// What tells which epoch was best.
    pub validation: &'a dyn Source,
    /// Where to compute.
    pub device: Device,
}

/// What to do about a run directory that is already in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Refuse.
    Fresh,
    /// Go on from its checkpoint.
    Resume,
    /// Delete what is there.
    Restart,
}

/// Trains. Leaves a checkpoint in `directory` after each epoch, and when `stop` becomes true.
pub fn train(job: &Job<'_>, directory: &Path, start: Start, stop: &AtomicBool) -> Result<Outcome> {
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
    let mut state = match run.begin(config, start)? {
        Some(checkpoint) => {
            network.load(&checkpoint.network)?;
            average.load(&checkpoint.average)?;
            optimizer.restore(checkpoint.state.steps, &checkpoint.moments, job.device)?;
            checkpoint.state
        }
        None => State::default(),
    };

    let size = config.batch_size as usize;
    let steps = job.training.epoch(config.seed, 0, size).len();
    let total = u64::from(config.epochs) * count as u64;
    let seen = u64::from(state.epoch) * count as u64 + state.seen as u64;
    let bar = Bar::samples("train", total, seen.min(total));
    let begun = Instant::now();
    while state.epoch < config.epochs && !state.out_of_patience(config.patience) {
        let plan = plan(job, &state, steps);
        let (epoch_begun, seen_before) = (Instant::now(), state.seen);
        for batch in job.training.batches(plan) {
            let batch = batch?;
            let rate = state.plateau.factor * learning_rate(config, steps, optimizer.steps() as usize);
            let trained = batch.labels.numel();
            let (loss, right) = step(job, &mut network, &mut optimizer, batch, rate)?;
            let decay = average_decay(config.average_decay, optimizer.steps());
            average.follow(&network, decay);
            state.step += 1;
            state.steps = optimizer.steps();
            state.seen += trained;
            state.loss += loss * trained as f64;
            state.right += right;
            let so_far = state.seen as f64;
            bar.advance_with(trained as u64, || {
                format!(
                    "epoch {}/{} loss {:.4} accuracy {:.2} %",
                    state.epoch + 1,
                    config.epochs,
                    state.loss / so_far,
                    100.0 * state.right as f64 / so_far
                )
            });
            if stop.load(Ordering::Relaxed) {
                run.save(&state, &network, &average, &optimizer)?;
                bar.finish();
                return Ok(Outcome::Interrupted);
            }
        }
        let rate = (state.seen - seen_before) as f64 / epoch_begun.elapsed().as_secs_f64().max(1e-9);
        let (validation_loss, validation_accuracy) = look(&average, job.validation)?;
        state.plateau.look(config.schedule, validation_loss);
        let epoch = Epoch {
            epoch: state.epoch + 1,
            training_loss: state.loss / count as f64,
            training_accuracy: state.right as f64 / count as f64,
            validation_loss,
            validation_accuracy,
        };
        bar.note(&format!(
            "epoch {}/{}: loss {:.4}, accuracy {:.2} %, validation loss {:.4}, accuracy {:.2} %, {:.0} samples/s, {:.0} s",
            epoch.epoch,
            config.epochs,
            epoch.training_loss,
            100.0 * epoch.training_accuracy,
            epoch.validation_loss,
            100.0 * epoch.validation_accuracy,
            rate,
            begun.elapsed().as_secs_f64(),
        ));
        if state.finish_epoch(epoch) {
            run.save_best(&state, &average)?;
        }
        run.save(&state, &network, &average, &optimizer)?;
    }
    bar.finish();
    if state.epoch < config.epochs {
        eprintln!(
            "stopped early: no better validation accuracy in {} epochs",
            config.patience
        );
    }
    let best = run.best(&state)?;
    average.load(&best)?;
    average.set_precision(Precision::F32);
    Ok(Outcome::Finished {
        network: average,
        best: state.best.as_ref().map_or(0, |best| best.epoch),
        history: state.history,
    })
}

/// How the epochs of the run in `directory` went so far, and which of them was best, counted from 1.
pub fn history(directory: &Path) -> Result<(Vec<Epoch>, Option<u32>)> {
    let state = Run::new(directory).state()?;
    Ok((state.history, state.best.map(|best| best.epoch)))
}

/// Whether `directory` holds a run.
pub fn is_run(directory: &Path) -> bool {
    Run::new(directory).is_used()
}

/// What is left of the epoch that is under way.
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

/// One step. Gives the batch's mean loss and how many of its samples were labelled right.
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
        // Libtorch's own generator decides what is dropped.
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

/// How much of each sample stays when it is mixed with another one: at least half.
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

/// Mean loss and accuracy of a network that is not being trained.
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

/// The softmax of the network's logits for every sample, `[count, classes]`.
pub fn probabilities(network: &Network, samples: &dyn Source) -> Result<Tensor> {
    let parts = batches(network, samples).map(|batch| Ok(batch?.0.softmax(-1, Kind::Float)));
    Ok(Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0))
}

/// Logits and labels of all samples in order.
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
    i64::try_from(&right).context("cannot read the number of right answers")
}

/// Early on, when the weights still change fast, the average is a short one.
fn average_decay(decay: f64, steps: i64) -> f64 {
    decay.min((1 + steps) as f64 / (10 + steps) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_average_of_nothing_follows_at_once() {
        assert!(average_decay(0.0, 1).abs() < 1e-12);
        assert!(average_decay(0.998, 1) < 0.2);
        assert!((average_decay(0.998, 100_000) - 0.998).abs() < 1e-12);
    }

    #[test]
    fn mixing_keeps_at_least_half_and_repeats() {
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
