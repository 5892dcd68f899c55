//! What an input weighs in a batch.

use classifier::text::Tokenizer;

/// Tokens of a text, padding included, that weigh as much as one picture where nothing else is configured.
const TOKENS_PER_INPUT: u32 = 128;

/// Limits of a batch, and the weights that keep both of them with one number: a picture weighs 1, a text 1 for each part of
/// its padded length that each of `max_batch` texts could have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weights {
    max_batch: u32,
    tokens_per_input: u32,
}

impl Weights {
    /// For pictures.
    pub fn images(max_batch: u32) -> Self {
        Self {
            max_batch: max_batch.max(1),
            tokens_per_input: u32::MAX,
        }
    }

    /// For texts: a batch holds at most `max_batch` of them and `max_tokens` tokens, padding included.
    pub fn texts(max_batch: u32, max_tokens: u32) -> Self {
        let max_batch = max_batch.min(max_tokens).max(1);
        Self {
            max_batch,
            tokens_per_input: max_tokens / max_batch,
        }
    }

    /// Tokens in a batch where nothing is configured: enough for one text of the largest length.
    pub fn default_tokens(max_batch: u32, tokenizer: &Tokenizer) -> u32 {
        max_batch
            .saturating_mul(TOKENS_PER_INPUT)
            .max(tokenizer.max_length() as u32)
    }

    /// Largest weight of a batch.
    pub fn max_weight(self) -> u32 {
        self.max_batch
    }

    /// Weight of a row: of a text that is padded to this length, or of a picture (0). One alone always fits.
    pub fn of(self, length: usize) -> u32 {
        (length as u32)
            .div_ceil(self.tokens_per_input)
            .clamp(1, self.max_batch)
    }

    /// How many such rows fit into a batch.
    pub fn most_rows(self, length: usize) -> u32 {
        (self.max_batch / self.of(length)).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_keeps_both_limits() {
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
