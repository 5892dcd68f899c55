//! Weights of inputs, which limit a batch by inputs and tokens with one number.

use classifier::text::Tokenizer;

/// Default number of tokens, padding included, that weigh 1.
const TOKENS_PER_INPUT: u32 = 128;

/// Converts inputs to weights so that one limit bounds both the number of inputs and the number of
/// tokens of a batch.
///
/// An image weighs 1. A text weighs its padded length divided by the tokens that each of
/// `max_batch` texts may have, rounded up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weights {
    max_batch: u32,
    tokens_per_input: u32,
}

impl Weights {
    pub fn images(max_batch: u32) -> Self {
        Self {
            max_batch: max_batch.max(1),
            tokens_per_input: u32::MAX,
        }
    }

    /// A batch holds at most `max_batch` texts and `max_tokens` tokens, padding included.
    pub fn texts(max_batch: u32, max_tokens: u32) -> Self {
        let max_batch = max_batch.min(max_tokens).max(1);
        Self {
            max_batch,
            tokens_per_input: max_tokens / max_batch,
        }
    }

    /// Default of `max_tokens`: enough for at least one text of the largest length.
    pub fn default_tokens(max_batch: u32, tokenizer: &Tokenizer) -> u32 {
        max_batch
            .saturating_mul(TOKENS_PER_INPUT)
            .max(tokenizer.max_length() as u32)
    }

    /// The largest weight of a batch.
    pub fn max_weight(self) -> u32 {
        self.max_batch
    }

    /// The weight of a text that is padded to `length`, or of an image if `length` is 0. A single
    /// row always fits into a batch.
    pub fn of(self, length: usize) -> u32 {
        (length as u32)
            .div_ceil(self.tokens_per_input)
            .clamp(1, self.max_batch)
    }

    /// The number of rows of this length that fit into a batch.
    pub fn most_rows(self, length: usize) -> u32 {
        (self.max_batch / self.of(length)).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_limit_both_inputs_and_tokens() {
        let weights = Weights::texts(32, 4096);
        assert_eq!([16, 128, 129, 512].map(|length| weights.of(length)), [1, 1, 2, 4]);
        assert_eq!(
            [16, 128, 512].map(|length| weights.most_rows(length)),
            [32, 32, 8]
        );
    }

    #[test]
    fn a_single_text_always_fits() {
        for (max_batch, max_tokens) in [(32, 100), (1, 512), (3, 512), (1000, 512)] {
            let weights = Weights::texts(max_batch, max_tokens);
            assert!(weights.of(512) <= max_batch, "{weights:?}");
            let tokens = weights.most_rows(64) * 64;
            assert!(tokens <= max_tokens.max(64), "{weights:?}: {tokens}");
        }
    }
}
