//! The tokenizer of reviews: builds its vocabulary and writes `tokenizer.json`.

use std::{collections::HashMap, path::Path};

use anyhow::{Result, anyhow};
use classifier::text::{Side, TOKENIZER, TOKENIZER_CONFIG, TokenName, TokenizerConfig};
use rayon::prelude::*;
use serde_json::{Value, json};
use tokenizers::{
    NormalizedString, Normalizer as _, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _,
    Tokenizer,
};

use crate::{files::write_json, sentiment::ngrams::WORD_LIMIT};

/// The padding token. It cannot collide with a word, since words contain no brackets.
pub const PADDING: &str = "[PAD]";
/// The token for words that are not in the vocabulary.
pub const UNKNOWN: &str = "[UNK]";

/// Words of fewer training reviews are not in the vocabulary.
const LEAST_REVIEWS: usize = 3;

/// Matches a token: the verb before "n't", "n't" itself, an ending after an apostrophe, a number, a
/// word, a run of dots, exclamation marks or question marks, or any other single character that is
/// not white space. Contractions are split as in GloVe's vocabulary.
const WORD: &str = r"\w+(?=n't)|n't|'(?:s|re|ve|ll|d|m)\b|\d+(?:[.,:]\d+)*|\w+|\.{2,}|!+|\?+|[^\w\s]";

/// The contents of `tokenizer.json`.
fn json(vocabulary: &HashMap<String, i64>) -> Value {
    let replace = |pattern: &str, content: &str| json!({"type": "Replace", "pattern": {"Regex": pattern}, "content": content});
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFC"},
            replace(r"(?i)<br\s*/?>", " "),
            replace("[’‘`´]", "'"),
            {"type": "Lowercase"},
        ]},
        "pre_tokenizer": {
            "type": "Split", "pattern": {"Regex": WORD}, "behavior": "Removed", "invert": true,
        },
        "post_processor": null,
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": UNKNOWN},
    })
}

/// Builds a vocabulary. Words of more reviews get lower ids.
pub fn vocabulary(texts: &[&str]) -> Result<HashMap<String, i64>> {
    let mut words = HashMap::from([(PADDING.to_owned(), 0), (UNKNOWN.to_owned(), 1)]);
    let splitter = Splitter::new()?;
    let distinct = |text: &&str| {
        let mut words = splitter.words(text)?;
        words.sort();
        words.dedup();
        Ok(words)
    };
    let split = texts.par_iter().map(distinct).collect::<Result<Vec<_>>>()?;
    let mut counts: HashMap<String, usize> = HashMap::new();
    for word in split.into_iter().flatten() {
        *counts.entry(word).or_default() += 1;
    }
    let mut common: Vec<(String, usize)> = counts
        .into_iter()
        .filter(|&(_, reviews)| reviews >= LEAST_REVIEWS)
        .collect();
    common.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    common.truncate(WORD_LIMIT as usize - words.len());
    for (word, _) in common {
        let id = words.len() as i64;
        words.entry(word).or_insert(id);
    }
    Ok(words)
}

/// Writes `tokenizer.json` and `tokenizer_config.json`.
pub(crate) fn write(directory: &Path, vocabulary: &HashMap<String, i64>, length: usize) -> Result<()> {
    write_json(&directory.join(TOKENIZER), &json(vocabulary))?;
    let config = TokenizerConfig {
        model_max_length: Some(length as u64),
        padding_side: Some(Side::Right),
        truncation_side: Some(Side::Right),
        pad_token: Some(TokenName::Text(PADDING.to_owned())),
    };
    write_json(&directory.join(TOKENIZER_CONFIG), &config)
}

/// Splits texts into words before a vocabulary exists.
struct Splitter(Tokenizer);

impl Splitter {
    fn new() -> Result<Self> {
        let json = json(&HashMap::from([(UNKNOWN.to_owned(), 0)])).to_string();
        Ok(Self(
            Tokenizer::from_bytes(json).map_err(|error| anyhow!("tokenizer: {error}"))?,
        ))
    }

    fn words(&self, text: &str) -> Result<Vec<String>> {
        let wrong = |error: tokenizers::Error| anyhow!("tokenizer: {error}");
        let mut normalized = NormalizedString::from(text);
        if let Some(normalizer) = self.0.get_normalizer() {
            normalizer.normalize(&mut normalized).map_err(wrong)?;
        }
        let mut split = PreTokenizedString::from(normalized);
        if let Some(splitter) = self.0.get_pre_tokenizer() {
            splitter.pre_tokenize(&mut split).map_err(wrong)?;
        }
        let splits = split.get_splits(OffsetReferential::Original, OffsetType::Byte);
        Ok(splits.into_iter().map(|(word, ..)| word.to_owned()).collect())
    }
}

#[cfg(test)]
mod tests {
    use classifier::text::{TextServing, Tokenizer};

    use super::*;

    #[test]
    fn words_are_split_as_in_glove() {
        let splitter = Splitter::new().unwrap();
        let words = |text: &str| splitter.words(text).unwrap().join(" ");
        assert_eq!(
            words("I CAN'T say it's bad.<br /><br />They'd do 10/10!!! (Don’t)"),
            "i ca n't say it 's bad . they 'd do 10 / 10 !!! ( do n't )"
        );
        assert_eq!(
            words("Well... so-so, $1,000.50?"),
            "well ... so - so , $ 1,000.50 ?"
        );
        // Composed and decomposed letters give the same word. Other scripts are words, emoji are
        // signs.
        assert_eq!(words("CAFE\u{301}"), "café");
        assert_eq!(words("很好 😀👍"), "很好 😀 👍");
        assert_eq!(words("  <BR/>\n"), "");
    }

    #[test]
    fn the_classifier_crate_reads_the_tokenizer() {
        let texts = ["not good", "Good, not great", "good not", "not", "great", "great"];
        let vocabulary = vocabulary(&texts).unwrap();
        assert_eq!(vocabulary.len(), 5, "{vocabulary:?}");
        assert_eq!(
            (vocabulary["not"], vocabulary["good"], vocabulary["great"]),
            (2, 3, 4)
        );
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), &vocabulary, 4).unwrap();
        let tokenizer = Tokenizer::read(directory.path(), &TextServing::default()).unwrap();
        assert_eq!(tokenizer.encode("Not [PAD] good").unwrap().ids, [2, 1, 1, 1]);
        assert_eq!(tokenizer.encode("not good").unwrap().ids, [2, 3]);
        assert_eq!(tokenizer.padding().id, 0);
    }
}
