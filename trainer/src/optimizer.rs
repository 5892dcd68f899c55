//! Optimisers, written in tensors so that their state can be saved and a resumed run goes on as it was.

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::{
    network::{Network, Weights, copies},
    training::Config,
};

/// Decay of Adam's mean of gradients.
const MEAN_DECAY: f64 = 0.9;
/// Decay of Adam's mean of squared gradients.
const SQUARE_DECAY: f64 = 0.999;
/// Keeps Adam from dividing by zero.
const ADAM_EPSILON: f64 = 1e-8;

/// The rule that turns gradients into steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Stochastic gradient descent with momentum; weight decay is part of the gradient.
    Sgd,
    /// Adam (0.9, 0.999); weight decay is part of the gradient.
    Adam,
    /// Adam (0.9, 0.999) with decoupled weight decay.
    Adamw,
}

/// A rule with its memory of earlier gradients.
#[derive(Debug)]
pub struct Optimizer {
    rule: Rule,
    momentum: f64,
    nesterov: bool,
    shift_rate: f64,
    weight_decay: f64,
    clip: f64,
    steps: i64,
    moments: Weights,
}

impl Optimizer {
    /// An optimiser without memory, as the config asks. Weight decay applies to kernels and matrices, and to the shifts of
    /// normalisations where those learn faster; other biases and scales are spared.
    pub fn new(config: &Config) -> Self {
        Self {
            rule: config.optimizer,
            momentum: config.momentum,
            nesterov: config.nesterov,
            shift_rate: config.shift_rate,
            weight_decay: config.weight_decay,
            clip: config.clip,
            steps: 0,
            moments: Weights::new(),
        }
    }

    /// Steps taken so far.
    pub fn steps(&self) -> i64 {
        self.steps
    }

    /// A copy of the memory, for a checkpoint.
    pub fn state(&self) -> Weights {
        copies(&self.moments)
    }

    /// Goes on from a checkpoint.
    pub fn restore(&mut self, steps: i64, moments: &Weights, device: Device) -> Result<()> {
        if steps < 0 || (steps > 0 && moments.is_empty()) {
            bail!("expected the moments of {steps} steps, found {}", moments.len());
        }
        self.steps = steps;
        self.moments = moments
            .iter()
            .map(|(name, tensor)| (name.clone(), tensor.to_device(device)))
            .collect();
        Ok(())
    }

    /// Takes one step along the gradients of `network` and clears them.
    pub fn step(&mut self, network: &mut Network, learning_rate: f64) {
        self.steps += 1;
        let scale = if self.clip > 0.0 {
            clipping(network, self.clip)
        } else {
            None
        };
        tch::no_grad(|| {
            for (name, weight) in network.trainable() {
                let mut gradient = weight.grad();
                if !gradient.defined() {
                    continue;
                }
                if let Some(scale) = &scale {
                    let _ = gradient.g_mul_(scale);
                }
                let (rate, decay) = if self.shift_rate != 1.0 && name.rsplit('.').next() == Some("shift") {
                    (
                        learning_rate * self.shift_rate,
                        self.weight_decay / self.shift_rate,
                    )
                } else if weight.dim() > 1 {
                    (learning_rate, self.weight_decay)
                } else {
                    (learning_rate, 0.0)
                };
                let step = match self.rule {
                    Rule::Sgd => {
                        let total = &gradient + &*weight * decay;
                        let velocity = moment(&mut self.moments, name, "velocity", weight);
                        let _ = velocity.g_mul_scalar_(self.momentum).g_add_(&total);
                        if self.nesterov {
                            total + &*velocity * self.momentum
                        } else {
                            velocity.shallow_clone()
                        }
                    }
                    Rule::Adam | Rule::Adamw => {
                        let coupled = self.rule == Rule::Adam && decay > 0.0;
                        let total = if coupled {
                            &gradient + &*weight * decay
                        } else {
                            gradient.shallow_clone()
                        };
                        let mean = moment(&mut self.moments, name, "mean", weight);
                        let _ = mean.lerp_(&total, 1.0 - MEAN_DECAY);
                        // Both means begin at zero, which these factors make up for.
                        let mean = &*mean / (1.0 - MEAN_DECAY.powf(self.steps as f64));
                        let square = moment(&mut self.moments, name, "square", weight);
                        let _ = square.lerp_(&total.square(), 1.0 - SQUARE_DECAY);
                        let square = &*square / (1.0 - SQUARE_DECAY.powf(self.steps as f64));
                        let step = mean / (square.sqrt() + ADAM_EPSILON);
                        if coupled { step } else { step + &*weight * decay }
                    }
                };
                let _ = weight.g_sub_(&(step * rate));
                let _ = gradient.zero_();
            }
        });
    }
}

/// What to multiply all gradients by, so that the norm of all of them is at most `limit`. `None` if there are none.
fn clipping(network: &mut Network, limit: f64) -> Option<Tensor> {
    tch::no_grad(|| {
        let gradients = network.trainable().map(|(_, weight)| weight.grad());
        let squares = gradients
            .filter(Tensor::defined)
            .map(|gradient| gradient.square().sum(Kind::Float));
        let norm = squares.reduce(|sum, square| sum + square)?.sqrt();
        Some((limit / (norm + 1e-12)).clamp_max(1.0))
    })
}

fn moment<'a>(moments: &'a mut Weights, weight: &str, kind: &str, like: &Tensor) -> &'a mut Tensor {
    moments
        .entry(format!("{weight}.{kind}"))
        .or_insert_with(|| like.zeros_like().set_requires_grad(false))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        layers,
        network::{Dense, Mode, values},
    };

    /// One weight of 2 and a bias of 0, whose output for the input 1 is the loss: both gradients are 1.
    fn network() -> Network {
        let layers = layers![Dense::new(1, 1)];
        let mut network = Network::new(&layers, 0, Device::Cpu).unwrap();
        let weight = Tensor::from_slice(&[2f32]).view([1, 1]);
        let bias = Tensor::from_slice(&[0f32]);
        let weights = Weights::from([("0.weight".to_owned(), weight), ("0.bias".to_owned(), bias)]);
        network.load(&weights).unwrap();
        network
    }

    fn steps(optimizer: Rule, weight_decay: f64, count: usize) -> [f32; 2] {
        let config = Config {
            optimizer,
            weight_decay,
            ..Config::default()
        };
        steps_with(&config, count)
    }

    fn steps_with(config: &Config, count: usize) -> [f32; 2] {
        let mut network = network();
        let mut optimizer = Optimizer::new(config);
        let input = Tensor::ones([1, 1], (Kind::Float, Device::Cpu));
        for _ in 0..count {
            network
                .forward(&input, Mode::Training)
                .sum(Kind::Float)
                .backward();
            optimizer.step(&mut network, 0.1);
        }
        ["0.weight", "0.bias"].map(|name| values(&network.weights()[name]).unwrap()[0])
    }

    fn close(found: [f32; 2], expected: [f32; 2]) {
        let near = found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5);
        assert!(near, "{found:?}, expected {expected:?}");
    }

    #[test]
    fn sgd_gains_momentum() {
        // Velocities 1, 1.9, 2.71; steps 1 + 0.9 * velocity.
        close(steps(Rule::Sgd, 0.0, 1), [2.0 - 0.19, -0.19]);
        close(steps(Rule::Sgd, 0.0, 3), [2.0 - 0.19 - 0.271 - 0.3439, -0.8049]);
    }

    #[test]
    fn sgd_without_nesterov_steps_by_its_velocity() {
        let config = Config {
            optimizer: Rule::Sgd,
            nesterov: false,
            momentum: 0.5,
            ..Config::default()
        };
        // Velocities 1, 1.5, 1.75.
        close(steps_with(&config, 3), [2.0 - 0.425, -0.425]);
    }

    #[test]
    fn gradients_are_clipped_together() {
        let config = Config {
            optimizer: Rule::Sgd,
            momentum: 0.0,
            clip: 0.5,
            ..Config::default()
        };
        // Two gradients of 1 have the norm of the square root of 2.
        let each = 0.1 * 0.5 / 2f32.sqrt();
        close(steps_with(&config, 1), [2.0 - each, -each]);
        let config = Config { clip: 2.0, ..config };
        close(steps_with(&config, 1), [1.9, -0.1]);
    }

    #[test]
    fn adam_steps_by_the_learning_rate_along_a_constant_gradient() {
        close(steps(Rule::Adam, 0.0, 1), [1.9, -0.1]);
        close(steps(Rule::Adam, 0.0, 5), [1.5, -0.5]);
    }

    #[test]
    fn decay_shrinks_weights_and_spares_biases() {
        close(steps(Rule::Adamw, 0.5, 1), [2.0 - 0.1 - 0.1 * 0.5 * 2.0, -0.1]);
        // Adam's step does not depend on the size of a first gradient.
        close(steps(Rule::Adam, 0.5, 1), [1.9, -0.1]);
        // With a gradient of 1 + 0.5 * 2.
        close(steps(Rule::Sgd, 0.5, 1), [2.0 - 0.1 * 1.9 * 2.0, -0.19]);
    }
}
