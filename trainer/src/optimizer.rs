//! The optimisers. They are written in tensor operations because `tch`'s optimisers cannot
//! save their state, which a resumed run needs.

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::network::{Network, Weights, copies};

/// Beta 1: the decay of the mean of the gradients.
const MEAN_DECAY: f64 = 0.9;
/// Beta 2: the decay of the mean of the squared gradients.
const SQUARE_DECAY: f64 = 0.999;
const ADAM_EPSILON: f64 = 1e-8;

// clap prints the comments of the variants in `trainer train --help`.
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

impl Rule {
    /// The name in model cards.
    pub fn title(self) -> &'static str {
        match self {
            Self::Sgd => "SGD",
            Self::Adam => "Adam",
            Self::Adamw => "AdamW",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hyperparameters {
    pub rule: Rule,
    /// The momentum of [`Rule::Sgd`].
    pub momentum: f64,
    /// Whether [`Rule::Sgd`] uses Nesterov's momentum.
    pub nesterov: bool,
    /// A factor for the learning rate of the shifts of batch normalisation.
    pub shift_rate: f64,
    /// Applies to kernels and matrices, and to the shifts of batch normalisation if `shift_rate` is
    /// not 1. Other biases and scales do not decay.
    pub weight_decay: f64,
    /// The largest norm of all gradients together; larger gradients are scaled down. 0 means no
    /// limit.
    pub clip: f64,
}

/// An update rule and its moments of earlier gradients.
#[derive(Debug)]
pub struct Optimizer {
    parameters: Hyperparameters,
    steps: i64,
    moments: Weights,
}

impl Optimizer {
    pub fn new(parameters: Hyperparameters) -> Self {
        Self {
            parameters,
            steps: 0,
            moments: Weights::new(),
        }
    }

    /// The number of steps so far.
    pub fn steps(&self) -> i64 {
        self.steps
    }

    /// Copies the moments, for a checkpoint.
    pub fn state(&self) -> Weights {
        copies(&self.moments)
    }

    /// Continues from a checkpoint.
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

    /// Takes one step along the gradients of `network` and sets them to 0.
    pub fn step(&mut self, network: &mut Network, learning_rate: f64) {
        self.steps += 1;
        let scale = if self.parameters.clip > 0.0 {
            clipping(network, self.parameters.clip)
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
                let (rate, decay) = self.rate_and_decay(name, weight, learning_rate);
                let step = match self.parameters.rule {
                    Rule::Sgd => self.sgd(name, weight, &gradient, decay),
                    Rule::Adam | Rule::Adamw => self.adam(name, weight, &gradient, decay),
                };
                let _ = weight.g_sub_(&(step * rate));
                let _ = gradient.zero_();
            }
        });
    }

    fn rate_and_decay(&self, name: &str, weight: &Tensor, learning_rate: f64) -> (f64, f64) {
        let Hyperparameters {
            shift_rate,
            weight_decay,
            ..
        } = self.parameters;
        if shift_rate != 1.0 && name.rsplit('.').next() == Some("shift") {
            (learning_rate * shift_rate, weight_decay / shift_rate)
        } else if weight.dim() > 1 {
            (learning_rate, weight_decay)
        } else {
            (learning_rate, 0.0)
        }
    }

    fn sgd(&mut self, name: &str, weight: &Tensor, gradient: &Tensor, decay: f64) -> Tensor {
        let momentum = self.parameters.momentum;
        let total = gradient + weight * decay;
        let velocity = self.moment(name, "velocity", weight);
        let _ = velocity.g_mul_scalar_(momentum).g_add_(&total);
        let velocity = velocity.shallow_clone();
        if self.parameters.nesterov {
            total + velocity * momentum
        } else {
            velocity
        }
    }

    fn adam(&mut self, name: &str, weight: &Tensor, gradient: &Tensor, decay: f64) -> Tensor {
        let coupled = self.parameters.rule == Rule::Adam && decay > 0.0;
        let total = if coupled {
            gradient + weight * decay
        } else {
            gradient.shallow_clone()
        };
        let steps = self.steps as f64;
        let mean = self.moment(name, "mean", weight);
        let _ = mean.lerp_(&total, 1.0 - MEAN_DECAY);
        // Both means begin at 0; these divisions correct the bias.
        let mean = &*mean / (1.0 - MEAN_DECAY.powf(steps));
        let square = self.moment(name, "square", weight);
        let _ = square.lerp_(&total.square(), 1.0 - SQUARE_DECAY);
        let square = &*square / (1.0 - SQUARE_DECAY.powf(steps));
        let step = mean / (square.sqrt() + ADAM_EPSILON);
        if coupled { step } else { step + weight * decay }
    }

    /// The moment `kind` of a weight. It begins at 0.
    fn moment(&mut self, weight: &str, kind: &str, like: &Tensor) -> &mut Tensor {
        self.moments
            .entry(format!("{weight}.{kind}"))
            .or_insert_with(|| like.zeros_like().set_requires_grad(false))
    }
}

/// The factor that scales all gradients down to a norm of `limit`, at most 1. `None` if there are
/// no gradients.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        layers,
        network::{Dense, Mode, values},
    };

    /// A weight of 2 and a bias of 0. For the input 1 and the output as loss, both gradients are 1.
    fn network() -> Network {
        let layers = layers![Dense::new(1, 1)];
        let mut network = Network::new(&layers, 0, Device::Cpu).unwrap();
        let weight = Tensor::from_slice(&[2f32]).view([1, 1]);
        let bias = Tensor::from_slice(&[0f32]);
        let weights = Weights::from([("0.weight".to_owned(), weight), ("0.bias".to_owned(), bias)]);
        network.load(&weights).unwrap();
        network
    }

    const PARAMETERS: Hyperparameters = Hyperparameters {
        rule: Rule::Sgd,
        momentum: 0.9,
        nesterov: true,
        shift_rate: 1.0,
        weight_decay: 0.0,
        clip: 0.0,
    };

    fn steps(rule: Rule, weight_decay: f64, count: usize) -> [f32; 2] {
        let parameters = Hyperparameters {
            rule,
            weight_decay,
            ..PARAMETERS
        };
        steps_with(parameters, count)
    }

    fn steps_with(parameters: Hyperparameters, count: usize) -> [f32; 2] {
        let mut network = network();
        let mut optimizer = Optimizer::new(parameters);
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
    fn sgd_accumulates_momentum() {
        // Velocities 1, 1.9, 2.71; steps 1 + 0.9 * velocity.
        close(steps(Rule::Sgd, 0.0, 1), [2.0 - 0.19, -0.19]);
        close(steps(Rule::Sgd, 0.0, 3), [2.0 - 0.19 - 0.271 - 0.3439, -0.8049]);
    }

    #[test]
    fn sgd_without_nesterov_steps_by_its_velocity() {
        let parameters = Hyperparameters {
            nesterov: false,
            momentum: 0.5,
            ..PARAMETERS
        };
        // Velocities 1, 1.5, 1.75.
        close(steps_with(parameters, 3), [2.0 - 0.425, -0.425]);
    }

    #[test]
    fn gradients_are_clipped_by_their_common_norm() {
        let parameters = Hyperparameters {
            momentum: 0.0,
            clip: 0.5,
            ..PARAMETERS
        };
        // Two gradients of 1 have a norm of the square root of 2.
        let each = 0.1 * 0.5 / 2f32.sqrt();
        close(steps_with(parameters, 1), [2.0 - each, -each]);
        let parameters = Hyperparameters {
            clip: 2.0,
            ..parameters
        };
        close(steps_with(parameters, 1), [1.9, -0.1]);
    }

    #[test]
    fn adam_steps_by_the_learning_rate_along_a_constant_gradient() {
        close(steps(Rule::Adam, 0.0, 1), [1.9, -0.1]);
        close(steps(Rule::Adam, 0.0, 5), [1.5, -0.5]);
    }

    #[test]
    fn weight_decay_shrinks_weights_but_not_biases() {
        close(steps(Rule::Adamw, 0.5, 1), [2.0 - 0.1 - 0.1 * 0.5 * 2.0, -0.1]);
        // Adam's first step does not depend on the size of the gradient.
        close(steps(Rule::Adam, 0.5, 1), [1.9, -0.1]);
        // The gradient is 1 + 0.5 * 2.
        close(steps(Rule::Sgd, 0.5, 1), [2.0 - 0.1 * 1.9 * 2.0, -0.19]);
    }
}
