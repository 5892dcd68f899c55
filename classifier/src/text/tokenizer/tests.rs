use std::fs;
use std::path::{Path, PathBuf};

use proptest::strategy::Strategy as _;

use super::*;
use crate::error::BundleError;
use crate::text::{Side, TOKENIZER, TOKENIZER_CONFIG, TextServing, decode};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/fixtures/models")
        .join(name)
        .join("1")
}

fn words() -> Tokenizer {
    Tokenizer::read(&fixture("words"), &TextServing::default()).unwrap()
}

const UNKNOWN: i64 = 1;
const APPLE: i64 = 4;
const BANANA: i64 = 5;
const CHERRY: i64 = 6;
const STOP: i64 = 7;

fn ids(text: &str) -> Vec<i64> {
    let tokens = words().encode(text).unwrap();
    assert!(!tokens.truncated, "{text}");
    tokens.ids
}

/// A tokenizer that keeps `max_length` tokens.
fn keeping(truncation: Truncation, max_length: usize) -> Tokenizer {
    Tokenizer {
        max_length,
        truncation,
        ..words()
    }
}

#[test]
fn markup_case_punctuation_and_accents_follow_the_tokenizer_file() {
    assert_eq!(ids("apple banana"), [APPLE, BANANA]);
    assert_eq!(ids("Apple<br />BANANA<BR>cherry<br/>"), [APPLE, BANANA, CHERRY]);
    assert_eq!(ids("  apple,banana.\r\n\t"), [APPLE, UNKNOWN, BANANA, STOP]);
    assert_eq!(ids("âpple\u{a0}bänana"), [APPLE, BANANA]);
    assert_eq!(ids("apple\0banana"), [UNKNOWN], "control characters vanish");
}

#[test]
fn unknown_words_emoji_and_other_scripts_are_unknown_tokens() {
    assert_eq!(ids("pear"), [UNKNOWN]);
    assert_eq!(ids("🍎 🍌"), [UNKNOWN, UNKNOWN]);
    assert_eq!(ids("👨‍👩‍👧"), [UNKNOWN]);
    assert_eq!(ids("яблоко تفاحة"), [UNKNOWN, UNKNOWN]);
    assert_eq!(ids("苹果"), [UNKNOWN, UNKNOWN], "each is a word");
}

#[test]
fn a_text_without_a_token_is_rejected() {
    for text in ["", " ", "\n\t\u{a0}", "<br /><br />", "\0", "\u{301}"] {
        assert_eq!(words().encode(text), Err(TextError::Empty), "{text:?}");
    }
}

#[test]
fn bytes_must_be_utf_8_and_a_byte_order_mark_is_left_out() {
    assert_eq!(decode(b"apple\xff"), Err(TextError::NotUtf8 { at: 5 }));
    assert_eq!(decode(b"\xef\xbb\xbfapple"), Ok("apple"));
}

#[test]
fn a_text_is_cut_at_the_configured_end() {
    let text = "apple banana cherry . apple banana cherry . !";
    let cut = |truncation, length| {
        let tokens = keeping(truncation, length).encode(text).unwrap();
        assert!(tokens.truncated);
        tokens.ids
    };
    assert_eq!(cut(Truncation::Head, 3), [APPLE, BANANA, CHERRY]);
    assert_eq!(cut(Truncation::Tail, 3), [CHERRY, STOP, 8]);
    let (head, tail) = ([APPLE, BANANA], [STOP, APPLE, BANANA, CHERRY, STOP, 8]);
    assert_eq!(cut(Truncation::HeadTail, 8), [&head[..], &tail].concat());
    for truncation in [Truncation::Head, Truncation::Tail, Truncation::HeadTail] {
        let whole = keeping(truncation, 9).encode(text).unwrap();
        assert!(!whole.truncated && whole.ids.len() == 9, "it just fits");
    }
}

#[test]
fn special_tokens_are_never_cut_off() {
    let tokenizer = Tokenizer::read(&fixture("words_left"), &TextServing::default()).unwrap();
    assert_eq!(tokenizer.max_length(), 40);
    assert_eq!(
        tokenizer.truncation(),
        Truncation::Tail,
        "as truncation_side says"
    );
    assert_eq!(tokenizer.encode("apple").unwrap().ids, [2, APPLE, 3]);
    let long = tokenizer.encode(&"apple ".repeat(1000)).unwrap();
    assert_eq!(long.ids.len(), 40);
    assert_eq!((long.ids[0], long.ids[39]), (2, 3));
    assert_eq!(
        tokenizer.encode("<br>"),
        Err(TextError::Empty),
        "they alone are no text"
    );
}

#[test]
fn a_hundred_thousand_words_are_cut_as_the_whole_text_would_be() {
    let words: Vec<&str> = (0..100_000)
        .map(|at| ["apple", "banana", "cherry", "pear", "!"][at % 7 % 5])
        .collect();
    let text = words.join(" ");
    let all = ids_of_all(&text);
    for (truncation, expected) in [
        (Truncation::Head, all[..64].to_vec()),
        (Truncation::Tail, all[all.len() - 64..].to_vec()),
        (
            Truncation::HeadTail,
            [&all[..16], &all[all.len() - 48..]].concat(),
        ),
    ] {
        let tokens = keeping(truncation, 64).encode(&text).unwrap();
        assert!(tokens.truncated);
        assert_eq!(tokens.ids, expected, "{truncation:?}");
    }
}

/// What the crate makes of a text, uncut.
fn ids_of_all(text: &str) -> Vec<i64> {
    let encoding = words().pipeline.encode_fast(text, false).unwrap();
    encoding.get_ids().iter().copied().map(i64::from).collect()
}

#[test]
fn texts_with_few_tokens_for_their_length_are_read_further_up_to_a_limit() {
    let blanks = |count: usize| format!("apple{}banana", " ".repeat(count));
    assert_eq!(
        words().encode(&blanks(20_000)).unwrap(),
        Tokens {
            ids: vec![APPLE, BANANA],
            truncated: false
        }
    );
    let most = (64 + UNSURE) * MOST_BYTES_PER_TOKEN;
    let tokens = words().encode(&blanks(most)).unwrap();
    assert_eq!((tokens.ids, tokens.truncated), (vec![APPLE], true));
    let tokens = keeping(Truncation::Tail, 64).encode(&blanks(most)).unwrap();
    assert_eq!((tokens.ids, tokens.truncated), (vec![BANANA], true));
    let one_word = "a".repeat(10 << 20);
    let tokens = words().encode(&one_word).unwrap();
    assert_eq!((tokens.ids, tokens.truncated), (vec![UNKNOWN], true));
}

#[test]
fn buckets_are_powers_of_two_by_default() {
    let read = |buckets| {
        let serving = TextServing {
            buckets,
            ..TextServing::default()
        };
        Tokenizer::read(&fixture("words_left"), &serving)
    };
    assert_eq!(read(None).unwrap().buckets(), [16, 32, 40]);
    assert_eq!(read(Some(vec![])).unwrap().buckets(), [40]);
    let named = read(Some(vec![24, 8, 24])).unwrap();
    assert_eq!(named.buckets(), [8, 24, 40]);
    let of = [1, 8, 9, 24, 25, 40].map(|tokens| named.bucket(tokens));
    assert_eq!(of, [8, 8, 24, 24, 40, 40]);
    for wrong in [0, 41] {
        let error = read(Some(vec![wrong])).unwrap_err();
        assert_eq!(error.key.as_deref(), Some("text.buckets"), "{error}");
    }
}

/// A copy of the fixture `words` with these files changed, read.
fn changed(files: &[(&str, &str)]) -> Result<Tokenizer, BundleError> {
    let directory = tempfile::tempdir().unwrap();
    for name in [TOKENIZER, TOKENIZER_CONFIG] {
        fs::copy(fixture("words").join(name), directory.path().join(name)).unwrap();
    }
    for (name, text) in files {
        fs::write(directory.path().join(name), text).unwrap();
    }
    Tokenizer::read(directory.path(), &TextServing::default())
}

/// The fixture's `tokenizer.json` with something in place of something else.
fn tokenizer_json(from: &str, to: &str) -> String {
    let text = fs::read_to_string(fixture("words").join(TOKENIZER)).unwrap();
    assert!(text.contains(from), "{from}");
    text.replace(from, to)
}

#[test]
fn mistakes_are_reported_with_file_and_key() {
    let config = |text: &str| changed(&[(TOKENIZER_CONFIG, text)]);
    let tokenizer = |from: &str, to: &str| changed(&[(TOKENIZER, &tokenizer_json(from, to))]);
    for (read, parts) in [
        (config("{"), vec!["tokenizer_config.json", "EOF"]),
        (
            config("{}"),
            vec!["model_max_length", "between 1 and 65536", "found none"],
        ),
        (
            config(r#"{"model_max_length": 1000000000000000019884624838656}"#),
            vec!["model_max_length", "between 1 and 65536"],
        ),
        (
            config(r#"{"model_max_length": 0}"#),
            vec!["model_max_length", "found 0"],
        ),
        (
            config(r#"{"model_max_length": 1.5}"#),
            vec!["model_max_length", "whole number"],
        ),
        (
            config(r#"{"model_max_length": "long"}"#),
            vec!["model_max_length", "invalid type"],
        ),
        (
            config(r#"{"model_max_length": 8, "padding_side": "middle"}"#),
            vec!["padding_side", "`middle`", "`left`"],
        ),
        (
            config(r#"{"model_max_length": 8, "pad_token": "<pad>"}"#),
            vec!["pad_token", "a token of tokenizer.json", "\"<pad>\""],
        ),
        (
            changed(&[(TOKENIZER, "")]),
            vec!["tokenizer.json", "a tokenizer of the tokenizers crate"],
        ),
        (
            tokenizer("\"WordLevel\"", "\"WordMagic\""),
            vec!["tokenizer.json", "enum ModelUntagged at line"],
        ),
        (
            tokenizer("\"unk_token\": \"[UNK]\"", "\"unk_token\": \"<unk>\""),
            vec!["tokenizer.json: model", "a token for unknown words"],
        ),
        (tokenizer("(?i)<br", "(?i"), vec!["tokenizer.json"]),
        (
            // The crate panics on a token that the template names and does not list.
            tokenizer(
                "\"post_processor\": null",
                r#""post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "[X]", "type_id": 0}},
                    {"Sequence": {"id": "A", "type_id": 0}}], "pair": [{"Sequence": {"id": "A", "type_id": 0}},
                    {"Sequence": {"id": "B", "type_id": 0}}], "special_tokens": {}}"#,
            ),
            vec!["tokenizer.json", "a tokenizer that works"],
        ),
    ] {
        let error = read.unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "expected {part:?} in: {error}");
        }
    }
}

#[test]
fn lengths_and_sides_are_taken_from_the_tokenizer_file_by_default() {
    let truncation =
        r#""truncation": {"direction": "Left", "max_length": 8, "strategy": "LongestFirst", "stride": 0}"#;
    let padding = r#""padding": {"strategy": "BatchLongest", "direction": "Left", "pad_to_multiple_of": null,
        "pad_id": 3, "pad_type_id": 0, "pad_token": "[SEP]"}"#;
    let json = tokenizer_json("\"truncation\": null", truncation).replace("\"padding\": null", padding);
    let unknown = r#"{"model_max_length": 1000000000000000019884624838656}"#;
    let read = changed(&[(TOKENIZER, &json), (TOKENIZER_CONFIG, unknown)]).unwrap();
    assert_eq!(read.max_length(), 8);
    assert_eq!(read.truncation(), Truncation::Tail);
    let left = Padding {
        id: 3,
        side: Side::Left,
    };
    assert_eq!(read.padding(), left);
    let config = r#"{"model_max_length": 16, "padding_side": "right", "truncation_side": "right", "pad_token": "[PAD]"}"#;
    let read = changed(&[(TOKENIZER, &json), (TOKENIZER_CONFIG, config)]).unwrap();
    assert_eq!((read.max_length(), read.truncation()), (16, Truncation::Head));
    let right = Padding {
        id: 0,
        side: Side::Right,
    };
    assert_eq!(read.padding(), right);
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(64))]
    #[test]
    fn the_tokens_of_any_text_are_those_of_the_whole_text(
        parts in proptest::collection::vec(proptest::prop_oneof![
            proptest::sample::select(vec![
                "apple", "banana ", " cherry", "<br />", "<br", "/>", ". ", "! ", "\u{feff}", "\0", "\u{301}", "é", "🍎", "苹", "\u{200d}",
                "[SEP]", "\r\n", "    ", "ﬁ", "İ",
            ]).prop_map(str::to_owned),
            proptest::string::string_regex(".{0,8}").unwrap(),
        ], 0..600),
        length in 1_usize..12,
    ) {
        let text = parts.concat();
        let all = ids_of_all(&text);
        for truncation in [Truncation::Head, Truncation::Tail, Truncation::HeadTail] {
            let found = keeping(truncation, length).encode(&text);
            if all.is_empty() {
                proptest::prop_assert_eq!(found, Err(TextError::Empty));
                continue;
            }
            let tokens = found.unwrap();
            let head = match truncation {
                Truncation::Head => length,
                Truncation::Tail => 0,
                Truncation::HeadTail => length / HEAD_PART,
            };
            let expected = if all.len() <= length {
                all.clone()
            } else {
                [&all[..head], &all[all.len() - (length - head)..]].concat()
            };
            proptest::prop_assert_eq!(tokens.truncated, all.len() > length);
            proptest::prop_assert_eq!(tokens.ids, expected);
        }
    }
}
