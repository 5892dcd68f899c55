//! The loop: batches, schedule, validation, early stopping, checkpoints.
//!
//! All randomness comes from generators that are seeded for each step, so a run that was stopped and resumed, in the
//! middle of an epoch or not, ends with the same weights as one that was left alone.

mod run;

use std::{
    f64::consts::PI,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use rand::seq::SliceRandom as _;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng as _};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::{
    augment::augment,
    network::{Layer, Mode, Network},
    optimizer::{Optimizer, Rule},
    progress::Bar,
};
use run::{Run, State};

/// Batch of the passes that only look.
const EVALUATION_BATCH: i64 = 500;
/// A loss above this is a run that will not come back.
const LOSS_LIMIT: f64 = 1e4;

/// All that decides how a training run goes. Saved beside the weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Name of the network.
    pub network: String,
    /// Passes over the training pictures.
    pub epochs: u32,
    /// Pictures in a step.
    pub batch_size: u32,
    /// The highest learning rate.
    pub learning_rate: f64,
    /// Begins with a warm-up of one epoch and falls along half a cosine; otherwise the learning rate is constant.
    pub cosine: bool,
    /// The rule for a step.
    pub optimizer: Rule,
    /// Shrinks kernels and matrices by this part of the learning rate in each step.
    pub weight_decay: f64,
    /// Training pictures are changed each time.
    pub augment: bool,
    /// Each step moves the weights that are kept by 1 minus this towards the trained ones; 0 keeps the trained ones.
    pub average_decay: f64,
    /// Stop after this many epochs without a better validation accuracy.
    pub patience: u32,
    /// All randomness follows from it.
    pub seed: u64,
}

/// Pictures as they are trained on, before augmentation and normalisation.
#[derive(Debug)]
pub struct Samples {
    /// `[count, channels, height, width]`, values between 0 and 1.
    pub pictures: Tensor,
    /// `[count]`, class numbers.
    pub labels: Tensor,
    /// Subtracted from the values before the network sees them.
    pub mean: f64,
    /// The values are divided by it after that.
    pub deviation: f64,
}

impl Samples {
    fn len(&self) -> usize {
        self.labels.numel()
    }

    fn normalised(&self, pictures: &Tensor) -> Tensor {
        (pictures - self.mean) / self.deviation
    }
}

/// How one epoch went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// Counted from 1.
    pub epoch: u32,
    /// Mean over the epoch's batches, as they were trained on.
    pub training_loss: f64,
    /// Part of the epoch's pictures labelled right while they were trained on.
    pub training_accuracy: f64,
    /// On the pictures that are not trained on.
    pub validation_loss: f64,
    /// On the pictures that are not trained on.
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
#[derive(Debug)]
pub struct Task<'a> {
    /// The network's layers.
    pub layers: &'a [Layer],
    /// How to train.
    pub config: &'a Config,
    /// What to learn from.
    pub training: &'a Samples,
    /// What tells which epoch was best.
    pub validation: &'a Samples,
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
pub fn train(task: &Task<'_>, directory: &Path, start: Start, stop: &AtomicBool) -> Result<Outcome> {
    let config = task.config;
    let count = task.training.len();
    if count == 0 || task.validation.len() == 0 {
        bail!(
            "expected training and validation pictures, found {count} and {}",
            task.validation.len()
        );
    }
    let mut network = Network::new(task.layers, config.seed, task.device)?;
    let mut average = network.frozen();
    let mut optimizer = Optimizer::new(config.optimizer, config.weight_decay);
    let run = Run::new(directory);
    let mut state = match run.begin(config, start)? {
        Some(checkpoint) => {
            network.load(&checkpoint.network)?;
            average.load(&checkpoint.average)?;
            optimizer.restore(checkpoint.state.steps, &checkpoint.moments, task.device)?;
            checkpoint.state
        }
        None => State::default(),
    };

    let steps = count.div_ceil(config.batch_size as usize);
    let total = u64::from(config.epochs) * count as u64;
    let seen = u64::from(state.epoch) * count as u64 + (state.step * config.batch_size as usize) as u64;
    let bar = Bar::samples("train", total, seen.min(total));
    let begun = Instant::now();
    while state.epoch < config.epochs && !state.out_of_patience(config.patience) {
        let order = order(config.seed, state.epoch, count);
        while state.step < steps {
            let first = state.step * config.batch_size as usize;
            let picked = &order[first..count.min(first + config.batch_size as usize)];
            let learning_rate = learning_rate(config, steps, optimizer.steps() as usize);
            let (loss, right) = step(task, &mut network, &mut optimizer, picked, learning_rate)?;
            let decay = average_decay(config.average_decay, optimizer.steps());
            average.follow(&network, decay);
            state.step += 1;
            state.steps = optimizer.steps();
            state.loss += loss * picked.len() as f64;
            state.right += right;
            let so_far = (first + picked.len()) as f64;
            bar.advance_with(picked.len() as u64, || {
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
        let (validation_loss, validation_accuracy) = look(&average, task.validation)?;
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
            bar.rate(),
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
    Ok(Outcome::Finished {
        network: average,
        best: state.best.as_ref().map_or(0, |best| best.epoch),
        history: state.history,
    })
}

/// One step. Gives the batch's mean loss and how many of its pictures were labelled right.
fn step(
    task: &Task<'_>,
    network: &mut Network,
    optimizer: &mut Optimizer,
    picked: &[i64],
    learning_rate: f64,
) -> Result<(f64, i64)> {
    let picked = Tensor::from_slice(picked).to_device(task.device);
    let mut pictures = task.training.pictures.index_select(0, &picked);
    let labels = task.training.labels.index_select(0, &picked);
    if task.config.augment {
        // Numbered by the step, so that it does not matter where a run was resumed.
        let mut rng = ChaCha8Rng::seed_from_u64(task.config.seed);
        rng.set_stream(optimizer.steps() as u64);
        pictures = augment(&pictures, &mut rng);
    }
    let logits = network.forward(&task.training.normalised(&pictures), Mode::Training);
    let loss = logits.cross_entropy_for_logits(&labels);
    loss.backward();
    optimizer.step(network, learning_rate);
    let loss = f64::try_from(&loss).context("cannot read the loss")?;
    if !loss.is_finite() || loss > LOSS_LIMIT {
        bail!("training diverged: the loss is {loss}; try a --learning-rate below {learning_rate}");
    }
    Ok((loss, right(&logits, &labels)?))
}

/// Mean loss and accuracy of a network that is not being trained.
fn look(network: &Network, samples: &Samples) -> Result<(f64, f64)> {
    let (mut loss, mut correct) = (0.0, 0);
    for (logits, labels) in batches(network, samples) {
        let sum = logits.cross_entropy_loss::<Tensor>(&labels, None, tch::Reduction::Sum, -100, 0.0);
        loss += f64::try_from(&sum).context("cannot read the loss")?;
        correct += right(&logits, &labels)?;
    }
    let count = samples.len() as f64;
    Ok((loss / count, correct as f64 / count))
}

/// The softmax of the network's logits for every sample, `[count, classes]`.
pub fn probabilities(network: &Network, samples: &Samples) -> Tensor {
    let parts: Vec<Tensor> = batches(network, samples)
        .map(|(logits, _)| logits.softmax(-1, Kind::Float))
        .collect();
    Tensor::cat(&parts, 0)
}

fn batches<'a>(network: &'a Network, samples: &'a Samples) -> impl Iterator<Item = (Tensor, Tensor)> + 'a {
    let count = samples.len() as i64;
    (0..count).step_by(EVALUATION_BATCH as usize).map(move |first| {
        let length = EVALUATION_BATCH.min(count - first);
        let pictures = samples.pictures.narrow(0, first, length);
        let logits = tch::no_grad(|| network.forward(&samples.normalised(&pictures), Mode::Inference));
        (logits, samples.labels.narrow(0, first, length))
    })
}

fn right(logits: &Tensor, labels: &Tensor) -> Result<i64> {
    let right = logits.argmax(-1, false).eq_tensor(labels).sum(Kind::Int64);
    i64::try_from(&right).context("cannot read the number of right answers")
}

/// The order in which an epoch visits the pictures.
fn order(seed: u64, epoch: u32, count: usize) -> Vec<i64> {
    // Another key than that of the steps' generators, which share the seed.
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x6f72_6465_7200_0000);
    rng.set_stream(u64::from(epoch));
    let mut order: Vec<i64> = (0..count as i64).collect();
    order.shuffle(&mut rng);
    order
}

/// Of the step that follows `done` others.
fn learning_rate(config: &Config, steps_an_epoch: usize, done: usize) -> f64 {
    if !config.cosine {
        return config.learning_rate;
    }
    let total = steps_an_epoch * config.epochs as usize;
    let warm_up = steps_an_epoch.min(total / 5);
    if done < warm_up {
        return config.learning_rate * (done + 1) as f64 / warm_up as f64;
    }
    let part = (done - warm_up) as f64 / (total - warm_up).max(1) as f64;
    config.learning_rate * 0.5 * (1.0 + (PI * part).cos())
}

/// Early on, when the weights still change fast, the average is a short one.
fn average_decay(decay: f64, steps: i64) -> f64 {
    decay.min((1 + steps) as f64 / (10 + steps) as f64)
}
