//! `train images`, from data to a measured model directory. The tests draw the images.

#![allow(clippy::unwrap_used)]

mod work;

use std::{fs, path::Path};

use work::{Work, text};

/// The number of bytes of one colour channel.
const PLANE: usize = 32 * 32;

/// Writes six files in CIFAR-10's format. The colour shows the class, unless `random`: then the
/// image does not depend on the class.
fn write(directory: &Path, records: usize, random: bool) {
    for (file, name) in [
        "data_batch_1",
        "data_batch_2",
        "data_batch_3",
        "data_batch_4",
        "data_batch_5",
        "test_batch",
    ]
    .iter()
    .enumerate()
    {
        let mut bytes = Vec::new();
        for record in 0..records {
            let class = (record % 10) as u8;
            let shown = if random {
                (record * 7919 + file * 31) % 10
            } else {
                record % 10
            };
            bytes.push(class);
            for plane in 0..3 {
                let level = [shown * 25, 255 - shown * 25, (shown % 3) * 100][plane];
                bytes.extend((0..PLANE).map(|at| (level.min(240) + (at * 13 + record * 5) % 16) as u8));
            }
        }
        fs::write(directory.join(format!("{name}.bin")), bytes).unwrap();
    }
}

#[test]
fn a_network_is_trained_exported_and_measured() {
    let work = Work::new(|data| write(data, 40, false));
    let train =
        "train images --epochs 32 --batch-size 20 --learning-rate 0.1 --average-decay 0.5 --precision f32";
    let table = work.succeed(&format!("{train} --out models/images/1"));
    assert!(table.contains("40 images, transform none"), "{table}");
    assert!(table.contains("automobile"), "{table}");
    let card = work.read("models/images/1/README.md");
    for part in [
        "# Animals and vehicles (airbench)",
        "trainer train images --epochs 32",
        "images in CIFAR-10's format",
        "ONNX Runtime and libtorch agree",
        "first 180 training images were trained on; the last 20 are the validation images",
        "the image and its mirror image; whitening convolution 2 x 2 to 24 channels",
        "SGD with Nesterov momentum 0.85",
        "label smoothing 0.2",
        "Every image is mirrored in every second epoch. It is shifted by up to 2 pixels each way. \
         A square of 8 x 8 pixels is erased.",
    ] {
        assert!(card.contains(part), "{part:?} is not in\n{card}");
    }
    // The data set is the one that the model directory names.
    work.succeed("evaluate models/images/1 --json figures.json");
    let figures = work.read("figures.json");
    let figures: serde_json::Value = serde_json::from_str(&figures).unwrap();
    assert!(figures["accuracy"].as_f64().unwrap() > 0.6, "{figures}");
    assert_eq!(figures["classes"][3]["label"], "cat");

    work.succeed("samples cifar10 --out samples --sheet sheet.png --per-class 2");
    assert!(work.path("samples/airplane_10.png").is_file());
    let sheet = image::open(work.path("sheet.png")).unwrap();
    assert_eq!((sheet.width(), sheet.height()), (2 * 32, 10 * 32));
    let second = image::open(work.path("samples/airplane_10.png")).unwrap();
    assert_eq!(sheet.crop_imm(32, 0, 32, 32), second);

    let error = work.fail("evaluate models/images/1 --transform canvas");
    assert!(error.contains("expected grey images, found colour"), "{error}");
    let error = work.fail("train images --network cnn");
    assert!(
        error.contains("expected one of airbench, plain, found cnn"),
        "{error}"
    );
    let error = work.fail("fetch cifar10");
    assert!(
        error.contains("data_batch_1.bin: expected the MD5 sum"),
        "{error}"
    );
}

#[test]
fn a_classifier_can_be_trained_for_some_of_the_classes() {
    let work = Work::new(|data| write(data, 20, false));
    let train = "train images --network plain --epochs 2 --batch-size 20 --threads 1";
    let table = work.succeed(&format!("{train} --classes truck,cat,frog"));
    assert!(table.contains("6 images, transform none"), "{table}");
    let model = "runs/images-plain-cat-frog-truck/images/1";
    let card = fs::read_to_string(work.path(model).join("README.md")).unwrap();
    for part in [
        "Distinguishes cat, frog, truck.",
        "(6 images; images in CIFAR-10's format (only cat, frog, truck))",
        "first 27 training images were trained on; the last 3 are the validation images",
        "fully connected to 3.",
    ] {
        assert!(card.contains(part), "{part:?} is not in\n{card}");
    }
    let config = fs::read_to_string(work.path(model).join("config.json")).unwrap();
    assert!(config.contains("frog") && !config.contains("dog"), "{config}");
    let table = work.succeed(&format!("evaluate {model}"));
    assert!(table.contains("6 images, transform none"), "{table}");

    let error = work.fail(&format!("{train} --classes cat,mouse"));
    assert!(
        error.contains("--classes: expected names from airplane") && error.contains("found mouse"),
        "{error}"
    );
    let error = work.fail(&format!("{train} --classes cat"));
    assert!(error.contains("expected at least 2 classes, found 1"), "{error}");
    let refused = work.run("train folder --classes cat,dog");
    assert_eq!(refused.status.code(), Some(2));
    let error = text(&refused.stderr);
    assert!(error.contains("unexpected argument '--classes'"), "{error}");
}

#[test]
fn a_run_that_is_stopped_and_resumed_several_times_gives_the_same_weights() {
    // The options use everything that has a state or draws random numbers. Nothing can be learnt
    // from the images, so the plateau comes soon.
    let work = Work::new(|data| write(data, 40, true));
    let train = "train images --network plain --schedule plateau --mixup 0.4 --dropout 0.3 --clip 0.5 --augment true \
                 --average-decay 0.9 --label-smoothing 0.1 --optimizer adamw --weight-decay 0.01 --learning-rate 0.01 \
                 --epochs 12 --batch-size 10 --patience 100 --threads 1";
    work.succeed(&format!("{train} --run alone --out alone/1"));
    let factor = work.state("alone")["plateau"]["factor"].as_f64().unwrap();
    assert!(factor < 1.0, "the plateau never came: {}", work.state("alone"));

    let stopped = format!("{train} --run stopped --out stopped/1 --resume");
    for epochs in [1, 5, 9] {
        let status = work.stop(&stopped, "-INT", || {
            work.state("stopped")["epoch"].as_u64().unwrap_or(0) >= epochs
        });
        assert_eq!(status.code(), Some(130));
    }
    let output = work.run(&stopped);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(work.state("stopped"), work.state("alone"));
    assert!(
        work.model("stopped/1") == work.model("alone/1"),
        "the weights differ from those of a run without stops"
    );
}
