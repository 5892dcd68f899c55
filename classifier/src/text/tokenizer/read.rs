//! Reads a tokenizer from a model directory.

use std::panic::catch_unwind;
use std::path::Path;
use std::sync::Arc;

use tokenizers::{Encoding, PaddingDirection, PaddingParams, Token, TruncationDirection, TruncationParams};

use super::Tokenizer;
use crate::error::{BundleError, TextError, panic_message};
use crate::files::{read_json, read_text};
use crate::text::{Padding, Side, TOKENIZER, TOKENIZER_CONFIG, TextServing, TokenizerConfig, Truncation};

/// Largest `model_max_length` that is taken seriously. Hugging Face writes 10^30 for "unknown".
const LONGEST: usize = 1 << 16;

/// Shortest length that texts are padded to by default.
const SHORTEST_BUCKET: usize = 16;

impl Tokenizer {
    /// Reads `tokenizer.json` and, if there is one, `tokenizer_config.json`.
    ///
    /// # Errors
    ///
    /// Fails if a file is missing, damaged or contradictory, if no largest length is given, or if
    /// the vocabulary has no token for unknown words.
    pub fn read(directory: &Path, serving: &TextServing) -> Result<Self, BundleError> {
        // The tokenizers crate panics for some files, such as one whose post-processor uses a token
        // that it does not define.
        catch_unwind(|| Self::read_trusting(directory, serving)).unwrap_or_else(|panic| {
            let found = panic_message(panic.as_ref());
            let expected = "a tokenizer that works";
            Err(BundleError::new(directory.join(TOKENIZER), None, expected, found))
        })
    }

    fn read_trusting(directory: &Path, serving: &TextServing) -> Result<Self, BundleError> {
        let files = Files::read(directory)?;
        let (prefix, suffix) = special_tokens(&files.pipeline).map_err(|found| {
            files.wrong(
                "post_processor",
                "special tokens before and after the text",
                found,
            )
        })?;
        let max_length = files.max_length(prefix.len() + suffix.len() + 1)?;
        let tokenizer = Self {
            max_length,
            truncation: serving.truncation.unwrap_or_else(|| files.truncation()),
            padding: files.padding()?,
            buckets: buckets(directory, serving, max_length)?,
            prefix,
            suffix,
            pipeline: Arc::new(files.pipeline),
        };
        // A vocabulary without a token for unknown words would fail for the first text that has
        // one.
        match tokenizer.encode("\u{10ffff} qzxjkvw \u{16a0}") {
            Err(TextError::Tokenizer(found)) => {
                let file = directory.join(TOKENIZER);
                let key = "model".to_owned();
                Err(BundleError::new(file, key, "a token for unknown words", found))
            }
            _ => Ok(tokenizer),
        }
    }
}

/// The files of a tokenizer.
struct Files<'a> {
    directory: &'a Path,
    config: TokenizerConfig,
    pipeline: tokenizers::Tokenizer,
    /// What `tokenizer.json` says about long texts.
    own_truncation: Option<TruncationParams>,
    /// What `tokenizer.json` says about short texts.
    own_padding: Option<PaddingParams>,
}

impl<'a> Files<'a> {
    fn read(directory: &'a Path) -> Result<Self, BundleError> {
        let file = directory.join(TOKENIZER);
        let wrong = |key: Option<String>, expected: &str, error: tokenizers::Error| {
            BundleError::new(&file, key, expected, error.to_string())
        };
        let mut pipeline = tokenizers::Tokenizer::from_bytes(read_text(&file)?)
            .map_err(|error| wrong(None, "a tokenizer of the tokenizers crate", error))?;
        let config_file = directory.join(TOKENIZER_CONFIG);
        let config = if config_file.exists() {
            read_json(&config_file)?
        } else {
            TokenizerConfig::default()
        };
        let own_truncation = pipeline.get_truncation().cloned();
        let own_padding = pipeline.get_padding().cloned();
        // Truncation and padding are done here, because the tokenizers crate knows neither
        // `HeadTail` nor buckets.
        pipeline.with_padding(None);
        pipeline
            .with_truncation(None)
            .map_err(|error| wrong(Some("truncation".to_owned()), "valid values", error))?;
        Ok(Self {
            directory,
            config,
            pipeline,
            own_truncation,
            own_padding,
        })
    }

    fn wrong(&self, key: &str, expected: &str, found: String) -> BundleError {
        BundleError::new(self.directory.join(TOKENIZER), key.to_owned(), expected, found)
    }

    fn wrong_config(&self, key: &str, expected: String, found: String) -> BundleError {
        BundleError::new(
            self.directory.join(TOKENIZER_CONFIG),
            key.to_owned(),
            expected,
            found,
        )
    }

    fn max_length(&self, least: usize) -> Result<usize, BundleError> {
        let own = self.own_truncation.as_ref().map(|own| own.max_length as u64);
        let configured = self.config.model_max_length;
        let known = configured.filter(|&length| length <= LONGEST as u64).or(own);
        known
            .and_then(|length| usize::try_from(length).ok())
            .filter(|length| (least..=LONGEST).contains(length))
            .ok_or_else(|| {
                let expected =
                    format!("the largest number of tokens of a text, between {least} and {LONGEST}");
                let found = configured.map_or("none".to_owned(), |length| length.to_string());
                self.wrong_config("model_max_length", expected, found)
            })
    }

    fn truncation(&self) -> Truncation {
        let side = self.config.truncation_side.unwrap_or(match &self.own_truncation {
            Some(own) if own.direction == TruncationDirection::Left => Side::Left,
            _ => Side::Right,
        });
        match side {
            Side::Right => Truncation::Head,
            Side::Left => Truncation::Tail,
        }
    }

    fn padding(&self) -> Result<Padding, BundleError> {
        let side = self.config.padding_side.unwrap_or(match &self.own_padding {
            Some(own) if matches!(own.direction, PaddingDirection::Left) => Side::Left,
            _ => Side::Right,
        });
        let id = match (&self.config.pad_token, &self.own_padding) {
            (Some(token), _) => self.pipeline.token_to_id(token.text()).ok_or_else(|| {
                let expected = format!("a token of {TOKENIZER}");
                self.wrong_config("pad_token", expected, format!("{:?}", token.text()))
            })?,
            (None, Some(own)) => own.pad_id,
            (None, None) => 0,
        };
        Ok(Padding {
            id: i64::from(id),
            side,
        })
    }
}

/// The ids that the post-processor puts before and after a text.
fn special_tokens(tokenizer: &tokenizers::Tokenizer) -> Result<(Vec<i64>, Vec<i64>), String> {
    let text = Encoding::from_tokens(vec![Token::new(u32::MAX, String::new(), (0, 0))], 0);
    let processed = tokenizer
        .post_process(text, None, true)
        .map_err(|error| error.to_string())?;
    let mut parts = processed.get_ids().split(|&id| id == u32::MAX);
    let ids = |part: &[u32]| part.iter().copied().map(i64::from).collect();
    match (parts.next(), parts.next(), parts.next()) {
        (Some(prefix), Some(suffix), None) => Ok((ids(prefix), ids(suffix))),
        _ => Err("a template that does not contain the text exactly once".to_owned()),
    }
}

/// The lengths that texts are padded to, in ascending order.
fn buckets(directory: &Path, serving: &TextServing, max_length: usize) -> Result<Vec<usize>, BundleError> {
    let mut buckets: Vec<usize> = match &serving.buckets {
        None => std::iter::successors(Some(SHORTEST_BUCKET), |length| Some(length * 2))
            .take_while(|&length| length < max_length)
            .collect(),
        Some(named) => named.iter().map(|&length| length as usize).collect(),
    };
    if let Some(wrong) = buckets.iter().find(|length| !(1..=max_length).contains(*length)) {
        let expected =
            format!("lengths between 1 and {max_length}, the model_max_length of {TOKENIZER_CONFIG}");
        let file = directory.join(crate::files::SERVING);
        return Err(BundleError::new(file, "text.buckets".to_owned(), expected, wrong));
    }
    buckets.push(max_length);
    buckets.sort_unstable();
    buckets.dedup();
    Ok(buckets)
}
