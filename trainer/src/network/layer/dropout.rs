use anyhow::Result;
use tch::Tensor;

use super::{Export, Module, Pass};

/// Zeroes values at random in training and scales the others up to compensate. The probability is
/// the setting `dropout` of the training run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dropout;

impl Module for Dropout {
    fn forward(&self, input: Tensor, pass: &Pass<'_>) -> Tensor {
        input.dropout(pass.dropout, pass.is_training())
    }

    fn export(&self, input: String, _: &mut Export<'_>) -> Result<String> {
        Ok(input)
    }

    fn describe(&self) -> Option<String> {
        None
    }
}
