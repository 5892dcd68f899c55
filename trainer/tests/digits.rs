//! `train digits`, from data to a measured model directory. The tests draw the digits.

#![allow(clippy::unwrap_used)]

mod work;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    path::Path,
    thread,
    time::Duration,
};

use work::{Work, text};

/// The lit segments of a seven-segment display for each digit: 0 top, 1 upper left, 2 upper right,
/// 3 middle, 4 lower left, 5 lower right, 6 bottom.
const SEGMENTS: [&[usize]; 10] = [
    &[0, 1, 2, 4, 5, 6],
    &[2, 5],
    &[0, 2, 3, 4, 6],
    &[0, 2, 3, 5, 6],
    &[1, 2, 3, 5],
    &[0, 1, 3, 5, 6],
    &[0, 1, 3, 4, 5, 6],
    &[0, 2, 5],
    &[0, 1, 2, 3, 4, 5, 6],
    &[0, 1, 2, 3, 5, 6],
];

/// The left and top edge of each segment, its width and its height, in a digit of 10 x 18 pixels.
const BARS: [(usize, usize, usize, usize); 7] = [
    (0, 0, 10, 2),
    (0, 0, 2, 10),
    (8, 0, 2, 10),
    (0, 8, 10, 2),
    (0, 8, 2, 10),
    (8, 8, 2, 10),
    (0, 16, 10, 2),
];

fn digit(class: usize, variant: usize) -> Vec<u8> {
    let (left, top) = (6 + variant % 6, 3 + variant % 5);
    let ink = 180 + (variant * 37 % 76) as u8;
    let mut pixels = vec![0; 28 * 28];
    for &segment in SEGMENTS[class] {
        let (x, y, width, height) = BARS[segment];
        for row in y..y + height {
            for column in x..x + width {
                pixels[(top + row) * 28 + left + column] = ink;
            }
        }
    }
    pixels
}

fn write_idx(directory: &Path, name: &str, count: usize) {
    let header = |magic: u32, rest: &[u32]| -> Vec<u8> {
        [&[magic, count as u32], rest]
            .concat()
            .iter()
            .flat_map(|number| number.to_be_bytes())
            .collect()
    };
    let mut images = header(0x803, &[28, 28]);
    let mut labels = header(0x801, &[]);
    for at in 0..count {
        images.extend(digit(at % 10, at / 10 * 3 + at));
        labels.push((at % 10) as u8);
    }
    fs::write(directory.join(format!("{name}-images-idx3-ubyte")), images).unwrap();
    fs::write(directory.join(format!("{name}-labels-idx1-ubyte")), labels).unwrap();
}

fn work(training: usize) -> Work {
    Work::new(|data| {
        write_idx(data, "train", training);
        write_idx(data, "t10k", 20);
    })
}

#[test]
fn a_network_is_trained_exported_and_measured() {
    let work = work(360);
    let table =
        work.succeed("train digits --epochs 6 --batch-size 32 --learning-rate 0.01 --out models/digits/1");
    assert!(table.contains("20 images, transform none"), "{table}");
    let card = work.read("models/digits/1/README.md");
    for part in [
        "trainer train digits --epochs 6",
        "digits in MNIST's format",
        "ONNX Runtime and libtorch agree",
        "| macro average |",
        "first 330 training images were trained on; the last 30 are the validation images",
    ] {
        assert!(card.contains(part), "{part:?} is not in\n{card}");
    }
    let golden = fs::read_dir(work.path("models/digits/1/golden")).unwrap();
    assert_eq!(golden.count(), 20);

    work.succeed("evaluate models/digits/1 --json figures.json");
    let figures = work.read("figures.json");
    let figures: serde_json::Value = serde_json::from_str(&figures).unwrap();
    assert_eq!(figures["samples"], 20);
    assert!(figures["accuracy"].as_f64().unwrap() > 0.9, "{figures}");
    assert_eq!(figures["confusion"][3].as_array().unwrap().len(), 10);

    work.succeed("samples mnist --out samples --per-class 1");
    assert!(work.path("samples/7_7.png").is_file());

    // A server that always returns 3 is right for 2 of the 20 images.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || always_answer_three(&listener));
    let output = work.run(&format!("evaluate models/digits/1 --url {url}"));
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stdout);
    assert!(
        said.contains("over HTTP: accuracy 10.00 %, 18 labels differ"),
        "{said}"
    );
    assert!(said.contains("test image 0: 0 here, 3 over HTTP"), "{said}");
}

fn always_answer_three(listener: &TcpListener) {
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        // Read the head and as many bytes of the body as it announces.
        let mut request = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let read = stream.read(&mut buffer).unwrap();
            request.extend(&buffer[..read]);
            let so_far = String::from_utf8_lossy(&request).to_lowercase();
            let Some((head, _)) = so_far.split_once("\r\n\r\n") else {
                continue;
            };
            assert!(
                head.starts_with("post /v1/classify?model=digits http/1.1\r\n"),
                "{head}"
            );
            assert!(head.contains("content-type: image/png"), "{head}");
            let length = head.split_once("content-length: ").unwrap().1;
            let length: usize = length.lines().next().unwrap().parse().unwrap();
            if request
                .windows(4)
                .position(|window| window == b"\r\n\r\n")
                .unwrap()
                + 4
                + length
                <= request.len()
            {
                break;
            }
        }
        let answer = r#"{"model":"digits","version":"1","results":[{"label":"3","score":1.0,"top":[]}]}"#;
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n";
        write!(stream, "{head}Content-Length: {}\r\n\r\n{answer}", answer.len()).unwrap();
    }
}

#[test]
fn a_stopped_and_resumed_run_gives_the_same_weights() {
    let work = work(1200);
    // The network is the cnn, since its recipe has augmentation and averaging, which must be
    // resumed too.
    let train = "train digits --epochs 2 --batch-size 10 --threads 1";
    work.succeed(&format!("{train} --run alone --out alone/1"));

    // Stop in the second epoch, some steps after the checkpoint of the first one.
    let status = work.stop(&format!("{train} --run stopped --out stopped/1"), "-INT", || {
        let reached = work.path("stopped/state.json").exists();
        if reached {
            thread::sleep(Duration::from_millis(40));
        }
        reached
    });
    assert_eq!(status.code(), Some(130));
    let state = work.state("stopped");
    assert_eq!(state["epoch"], 1);
    assert!(state["step"].as_u64().unwrap() > 0, "{state}");
    assert!(
        !work.path("stopped/1").exists(),
        "nothing is exported before the end"
    );

    let error = work.fail(&format!("{train} --run stopped --out stopped/1"));
    assert!(error.contains("--resume"), "{error}");
    let error = work.fail(&format!(
        "{train} --seed 2 --run stopped --out stopped/1 --resume"
    ));
    assert!(
        error.contains("`seed`: expected 1, with which the run was begun, found 2"),
        "{error}"
    );
    work.succeed(&format!("{train} --run stopped --out stopped/1 --resume"));
    assert!(
        work.model("stopped/1") == work.model("alone/1"),
        "the weights differ from those of a run without a stop"
    );
    // Of the checkpoints, only the newest and the best are kept.
    assert_eq!(fs::read_dir(work.path("stopped")).unwrap().count(), 5);
}

#[test]
fn the_seed_decides_the_weights() {
    let work = work(240);
    let train = "train digits --network mlp --epochs 2 --threads 1";
    for (run, seed) in [("a", 5), ("b", 5), ("c", 6)] {
        work.succeed(&format!("{train} --run {run} --out {run}/1 --seed {seed}"));
    }
    assert!(work.model("a/1") == work.model("b/1"));
    assert!(work.model("a/1") != work.model("c/1"));
}

#[test]
fn training_stops_early_without_improvement() {
    let work = work(240);
    // The steps are too small to change a result, so the first epoch stays the best or nearly so.
    let train = "train digits --network mlp --optimizer sgd --learning-rate 1e-12 --epochs 50 --patience 2";
    let output = work.run(&format!("{train} --out model/1"));
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(
        text(&output.stderr).contains("stopped early"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn mistakes_are_explained() {
    let work = work(240);
    let error = work.fail("train digits --network mlp --learning-rate 1e30");
    assert!(
        error.contains("training diverged") && error.contains("--learning-rate"),
        "{error}"
    );

    let error = work.fail("evaluate missing/1");
    assert!(error.contains("missing/1"), "{error}");

    fs::write(work.path("data/t10k-labels-idx1-ubyte"), b"sho").unwrap();
    let error = work.fail("train digits --network mlp");
    assert!(
        error.contains("t10k-labels-idx1-ubyte: expected an IDX header"),
        "{error}"
    );

    let error = work.fail("fetch mnist");
    assert!(
        error.contains("train-images-idx3-ubyte: expected the MD5 sum"),
        "{error}"
    );

    let output = work.run("train digits --epochs 0");
    assert_eq!(output.status.code(), Some(2));
}
