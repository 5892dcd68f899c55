//! Batches, buckets and text lengths do not change a score.

use std::fs;

use serde_json::{Value, json};

use super::results;
use crate::harness::{Server, changed_model, some_models};

/// The scores of each result, in the order of the labels.
fn scores(results: &[Value]) -> Vec<Vec<f64>> {
    let of = |result: &Value| {
        let mut top = result["top"].as_array().unwrap().clone();
        top.sort_by_key(|scored| scored["label"].as_str().unwrap().to_owned());
        top.iter()
            .map(|scored| scored["score"].as_f64().unwrap())
            .collect()
    };
    results.iter().map(of).collect()
}

fn assert_close(found: &[Vec<f64>], expected: &[Vec<f64>], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let near = found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-4);
        assert!(
            near && found.len() == expected.len(),
            "{what}, text {at}: expected {expected:?}, found {found:?}"
        );
    }
}

#[tokio::test]
async fn neither_batches_nor_buckets_change_a_score() {
    // One to ninety words: every bucket, and some texts that are truncated.
    let words = ["apple", "banana", "cherry", "pear", "!", "banana"];
    let texts: Vec<String> = (1..=90)
        .map(|count| {
            let words = (0..count).map(|at| words[(at * count + count) % words.len()]);
            words.collect::<Vec<_>>().join(" ")
        })
        .collect();
    let mut known: Option<(&str, Vec<Vec<f64>>)> = None;
    for (model, serving) in [
        ("words", ""),
        ("words", "[text]\nbuckets = []"),
        ("words", "[text]\nbuckets = [1, 2, 3, 5, 8, 13, 21, 34, 55]"),
        ("words", "[batch]\nmax_size = 4\nmax_tokens = 64"),
        ("words_left", "[text]\ntruncation = \"head_tail\"\nbuckets = []"),
        (
            "words_left",
            "[text]\ntruncation = \"head_tail\"\nbuckets = [8, 24]",
        ),
    ] {
        let models = changed_model(model, |directory| {
            fs::write(directory.join("serving.toml"), serving).unwrap();
        });
        let server = Server::start(models.path(), &[]);
        let mut alone = Vec::new();
        for text in &texts {
            alone.extend(scores(&results(server.send_text("", text)).await));
        }
        // The two models differ, but each must give the same scores with every setting.
        match &known {
            Some((name, expected)) if *name == model => assert_close(&alone, expected, serving),
            _ => known = Some((model, alone.clone())),
        }
        // Several texts of mixed length in each request, and all requests at once.
        let size = if serving.contains("max_size") { 4 } else { 32 };
        let shuffled: Vec<usize> = (0..texts.len()).map(|at| at * 37 % texts.len()).collect();
        let requests = shuffled.chunks(size).map(|places| {
            let inputs: Vec<&String> = places.iter().map(|&at| &texts[at]).collect();
            results(server.post("").json(&json!({"inputs": inputs})))
        });
        let together: Vec<Value> = futures_util::future::join_all(requests).await.concat();
        let expected: Vec<Vec<f64>> = shuffled.iter().map(|&at| alone[at].clone()).collect();
        assert_close(&scores(&together), &expected, serving);
        let one_by_one = texts.iter().map(|text| results(server.send_text("", text)));
        let crowd: Vec<Value> = futures_util::future::join_all(one_by_one).await.concat();
        assert_close(&scores(&crowd), &alone, serving);
        for (count, result) in (1..).zip(&crowd) {
            let cut = count > if model == "words" { 64 } else { 38 };
            assert_eq!(
                result.get("truncated"),
                cut.then_some(&json!(true)),
                "{model}, {count} words"
            );
        }
    }
}

#[tokio::test]
async fn the_texts_of_a_request_are_batched_by_bucket_within_the_token_limit() {
    let models = some_models(&["words"]);
    let server = Server::start(models.path(), &["--max-batch-tokens", "128", "--max-batch", "8"]);
    // At 16 tokens for each of 8 inputs, a text of 64 tokens fills half a batch.
    let long = "banana ".repeat(60);
    let inputs = [long.as_str(), "apple", &long, "cherry", &long];
    let labels = results(server.post("").json(&json!({"inputs": inputs}))).await;
    let labels: Vec<&str> = labels
        .iter()
        .map(|result| result["label"].as_str().unwrap())
        .collect();
    assert_eq!(labels, ["b", "a", "b", "c", "b"]);
    let metrics = server.metrics().await;
    let batches = |series| metrics.get(&format!("classifyd_batch_size_{series}{{model=\"words\"}}"));
    assert_eq!(
        batches("count"),
        Some(3.0),
        "the short ones, and the long ones in two"
    );
    assert_eq!(batches("sum"), Some(5.0));
}

#[tokio::test]
async fn long_and_unusual_texts_are_classified_and_memory_stays_bounded() {
    let models = some_models(&["words"]);
    let server = Server::start(models.path(), &[]);
    let before = server.memory_metric().await;
    let mega = 1 << 20;
    let noise: String = (0..300_000_u32)
        .filter_map(|at| char::from_u32(at.wrapping_mul(2_654_435_761) >> 11))
        .collect();
    for (what, text, label, cut) in [
        ("100,000 words", "banana ".repeat(100_000), "b", true),
        ("one word of 15 MiB", "banana".repeat(15 * mega / 6), "a", true),
        (
            "a word before 15 MiB of blanks",
            format!("banana{}", " ".repeat(15 * mega)),
            "b",
            true,
        ),
        (
            "15 MiB of breaks and a word",
            "<br />".repeat(15 * mega / 6) + "banana",
            // The server does not read this far. The cut leaves half of a break.
            "a",
            true,
        ),
        (
            "15 MiB of accents",
            format!("banana {}", "\u{301}".repeat(7 * mega)),
            "b",
            true,
        ),
        ("15 MiB of punctuation", "!".repeat(15 * mega), "c", true),
        ("15 MiB of ideographs", "蕉".repeat(5 * mega), "a", true),
        ("unicode at random", noise, "a", true),
        ("emoji", "🍌👩‍👩‍👧".to_owned(), "a", false),
        ("zero bytes", "\0\0banana\0".to_owned(), "b", false),
        (
            "special tokens",
            "[PAD] [CLS] banana [SEP]".to_owned(),
            "b",
            false,
        ),
    ] {
        let answer = results(server.send_text("", text)).await;
        let result = &answer[0];
        assert_eq!(result["label"], label, "{what}: {result}");
        assert_eq!(result.get("truncated").is_some(), cut, "{what}: {result}");
        assert_eq!(
            results(server.send_text("", "cherry")).await[0]["label"],
            "c",
            "after {what}"
        );
    }
    let grown = server.memory_metric().await - before;
    assert!(grown < 150.0, "memory grew by {grown} MB");
}
