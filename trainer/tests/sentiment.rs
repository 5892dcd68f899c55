//! The classifier of reviews, from files to answers, on a few invented reviews.

#![allow(clippy::unwrap_used)]

use std::{fs, path::Path, sync::atomic::AtomicBool};

use classifier::Row;
use trainer::{
    pipeline::{self, Request},
    sentiment::{Kind, SentimentTask},
    training::{Config, Start},
};

const GOOD: [&str; 4] = ["good", "great", "lovely", "fine"];
const BAD: [&str; 4] = ["bad", "dull", "awful", "poor"];

/// Two splits of 40 reviews and vectors for the words in them.
fn write_data(directory: &Path) {
    for split in ["train", "test"] {
        for (folder, own, others) in [("neg", BAD, GOOD), ("pos", GOOD, BAD)] {
            let folder = directory.join("aclImdb").join(split).join(folder);
            fs::create_dir_all(&folder).unwrap();
            for at in 0..20 {
                let text = format!(
                    "The {split} film {at} was {} and {}.<br />It wasn't {}!",
                    own[at % 4],
                    own[(at + 1) % 4],
                    others[at % 4]
                );
                fs::write(folder.join(format!("{at}_7.txt")), text).unwrap();
            }
        }
    }
    let mut lines = String::new();
    for (words, value) in [(GOOD, 0.5), (BAD, -0.5)] {
        for word in words {
            lines += word;
            lines += &format!(" {value}").repeat(100);
            lines += "\n";
        }
    }
    fs::write(directory.join("glove.6B.100d.txt"), lines).unwrap();
}

/// Dropout draws from libtorch's one generator, which runs in one process must not share.
static TRAINING: std::sync::Mutex<()> = std::sync::Mutex::new(());

fn train(directory: &Path, kind: Kind, out: &Path, stop: bool, start: Start) -> bool {
    let _alone = TRAINING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let config = Config {
        epochs: 3,
        batch_size: 8,
        ..kind.config()
    };
    let data = Some(directory.to_owned());
    let task = SentimentTask::new(Some(kind.name()), data.clone(), data).unwrap();
    let request = Request {
        config,
        device: tch::Device::Cpu,
        run: directory.join("run").join(kind.name()),
        out: out.to_owned(),
        start,
        command: "trainer train sentiment".to_owned(),
    };
    pipeline::train(&task, &request, &AtomicBool::new(stop))
        .unwrap()
        .is_some()
}

#[test]
fn padding_and_company_change_no_answer() {
    let directory = tempfile::tempdir().unwrap();
    write_data(directory.path());
    let out = directory.path().join("sentiment/1");
    assert!(train(directory.path(), Kind::Blend, &out, false, Start::Fresh));
    let mut classifier = classifier::open(&out).unwrap();
    assert_eq!(
        classifier
            .classify_text("a great, lovely film")
            .unwrap()
            .best()
            .label,
        "positive"
    );
    assert_eq!(
        classifier
            .classify_text("AWFUL! An awful, dull film.")
            .unwrap()
            .best()
            .label,
        "negative"
    );

    let long = "not good at all . ".repeat(400);
    let texts = [
        "good",
        "bad good",
        "it was not bad",
        "good and bad and dull !",
        "😀 很好",
        &long,
    ];
    let tokenizer = classifier.bundle().preprocessor.text().unwrap().clone();
    let rows: Vec<Row> = texts
        .iter()
        .map(|text| Row::Text(tokenizer.encode(text).unwrap().ids))
        .collect();
    assert!(tokenizer.encode(&long).unwrap().truncated);
    let together = classifier.run(&rows).unwrap();
    for (row, expected) in rows.iter().zip(together.chunks(2)) {
        let alone = classifier.run(std::slice::from_ref(row)).unwrap();
        for (alone, expected) in alone.iter().zip(expected) {
            assert!((alone - expected).abs() < 1e-4, "{alone} and {expected}");
        }
    }
    let card = fs::read_to_string(out.join("README.md")).unwrap();
    assert!(
        card.contains("reviews in IMDb's layout") && card.contains("head and tail"),
        "{card}"
    );
}

#[test]
fn a_run_that_was_stopped_ends_as_if_it_had_not_been() {
    let directory = tempfile::tempdir().unwrap();
    write_data(directory.path());
    let model = |name: &str| fs::read(directory.path().join(name).join("1/model.onnx")).unwrap();
    let out = |name: &str| directory.path().join(name).join("1");
    assert!(train(
        directory.path(),
        Kind::CnnRandom,
        &out("whole"),
        false,
        Start::Fresh
    ));
    assert!(!train(
        directory.path(),
        Kind::CnnRandom,
        &out("parts"),
        true,
        Start::Restart
    ));
    assert!(train(
        directory.path(),
        Kind::CnnRandom,
        &out("parts"),
        false,
        Start::Resume
    ));
    assert!(model("whole") == model("parts"), "the graphs differ");
}

#[test]
fn the_network_of_the_articles_can_be_trained_and_read() {
    let directory = tempfile::tempdir().unwrap();
    write_data(directory.path());
    for kind in [Kind::Mean, Kind::Ngrams] {
        let out = directory.path().join(kind.name()).join("1");
        assert!(train(directory.path(), kind, &out, false, Start::Fresh));
        let prediction = classifier::open(&out).unwrap().classify_text("good").unwrap();
        assert!((prediction.top.iter().map(|score| score.score).sum::<f32>() - 1.0).abs() < 1e-5);
    }
}
