//! `train folder`, from images to a measured model directory. The tests draw the images.

#![allow(clippy::unwrap_used)]

mod work;

use std::{fs, ops::Range, path::Path};

use image::{Rgb, RgbImage};
use work::{Work, text};

const SIDE: u32 = 40;

/// Draws a disc, a frame or stripes. The number decides position and colours.
fn image(class: &str, number: u32) -> RgbImage {
    let shade = |seed: u32| ((number * seed * 31 + seed * 17) % 100) as u8;
    let ground = Rgb([shade(3), shade(5), shade(7)]);
    let ink = Rgb([155 + shade(11), 155 + shade(13), 155 + shade(2)]);
    let (x0, y0) = (14 + number * 7 % 12, 14 + number * 5 % 12);
    RgbImage::from_fn(SIDE, SIDE, |x, y| {
        let (dx, dy) = (x.abs_diff(x0), y.abs_diff(y0));
        let inside = match class {
            "disc" => dx * dx + dy * dy < 100,
            "frame" => dx.max(dy) < 11 && dx.max(dy) > 6,
            _ => (x + number) % 8 < 3,
        };
        if inside { ink } else { ground }
    })
}

/// Writes images of each class into `directory`, in several formats.
fn draw(work: &Work, directory: &str, classes: &[&str], numbers: Range<u32>) {
    for class in classes {
        let directory = work.path(directory).join(class);
        fs::create_dir_all(&directory).unwrap();
        for number in numbers.clone() {
            let end = ["png", "jpg", "webp", "bmp"][number as usize % 4];
            image(class, number)
                .save(directory.join(format!("{number}.{end}")))
                .unwrap();
        }
    }
}

#[test]
fn a_directory_of_images_becomes_a_classifier() {
    let work = Work::empty();
    let classes = ["disc", "frame", "stripes"];
    draw(&work, "shapes/train", &classes, 0..16);
    draw(&work, "shapes/val", &classes, 16..20);
    draw(&work, "shapes/test", &classes, 20..24);
    fs::write(work.path("shapes/train/disc/notes.txt"), "not an image").unwrap();
    fs::write(work.path("shapes/train/frame/cut.jpg"), [0xff, 0xd8, 0xff, 0xe0]).unwrap();
    fs::copy(
        work.path("shapes/train/disc/0.png"),
        work.path("shapes/val/disc/again.png"),
    )
    .unwrap();

    let said = work.succeed_with_log(
        "train folder --data shapes --size 32 --epochs 12 --batch-size 8 --learning-rate 0.005",
    );
    for part in [
        "3 classes, 48 images for training, 13 for validation, 12 for test",
        "skipped 2 files:",
        "notes.txt: unknown image format",
        "cut.jpg: the jpeg image cannot be decoded",
        "warning: 1 images for validation or test are also among those for training",
        "12 images, transform none: accuracy",
        "wrote runs/shapes/shapes/1",
        "measure it again: trainer evaluate runs/shapes/shapes/1 --folder shapes",
        "serve it: classifyd serve --models runs/shapes",
    ] {
        assert!(said.contains(part), "{part:?} is not in\n{said}");
    }
    assert_eq!(work.read("runs/shapes/skipped.txt").lines().count(), 2);
    let card = work.read("runs/shapes/shapes/1/README.md");
    for part in [
        "trainer train folder --data shapes",
        "| disc | 16 | 5 |",
        "2 files were skipped",
        "![Learning curves](report/curves.svg)",
        "![Confusion matrix](report/confusion.svg)",
    ] {
        assert!(card.contains(part), "{part:?} is not in\n{card}");
    }
    for name in ["curves.svg", "confusion.svg", "calibration.svg"] {
        let chart = work.read(&format!("runs/shapes/shapes/1/report/{name}"));
        assert!(
            chart.starts_with("<svg") && chart.trim_end().ends_with("</svg>"),
            "{name}"
        );
    }
    let figures: serde_json::Value =
        serde_json::from_str(&work.read("runs/shapes/shapes/1/report/evaluation.json")).unwrap();
    assert_eq!(figures["samples"], 12);
    assert!(figures["accuracy"].as_f64().unwrap() > 0.6, "{figures}");
    assert_eq!(figures["calibration"]["bins"].as_array().unwrap().len(), 15);
    assert_eq!(figures["slowest"].as_array().unwrap().len(), 5);

    let measured = work.succeed_with_log(
        "evaluate runs/shapes/shapes/1 --folder shapes/val --pictures drawn --json one.json",
    );
    assert!(measured.contains("13 images"), "{measured}");
    assert!(work.path("drawn/confusion.svg").is_file() && work.path("one.json").is_file());
    assert!(
        work.succeed("report runs/shapes")
            .contains("runs/shapes/curves.svg")
    );

    // Transfer from this classifier to other classes.
    draw(&work, "more", &["dots", "frame"], 30..40);
    let said = work.succeed_with_log(
        "train folder --data more --from runs/shapes/shapes/1 --epochs 5 --views 2 --flip false",
    );
    assert!(
        said.contains("2 classes, 16 images for training, 4 for validation (drawn, 20 % of each class)"),
        "{said}"
    );
    let card = work.read("runs/more-from-shapes/more/1/README.md");
    assert!(
        card.contains("computes the 128 features before its last dense layer (Gemm"),
        "{card}"
    );
    assert!(
        card.contains("Each training image is used in 2 versions"),
        "{card}"
    );
    assert!(!work.path("runs/more-from-shapes/features").exists());
    let config = work.read("runs/more-from-shapes/more/1/config.json");
    assert!(config.contains("dots") && !config.contains("disc"), "{config}");
}

#[test]
fn a_stopped_and_resumed_run_gives_the_same_weights_with_any_number_of_threads() {
    let work = Work::empty();
    draw(&work, "shapes", &["disc", "stripes"], 0..30);
    let train = "train folder --data shapes --size 32 --epochs 3 --batch-size 4 --threads 1";
    work.succeed(&format!("{train} --loaders 1 --run alone --out alone/1"));

    // The first signal asks the run to stop, the second one kills it.
    for (signal, code) in [("-INT", Some(130)), ("-KILL", None)] {
        let run = format!("{train} --loaders 3 --run stopped --out stopped/1 --resume");
        let before = work.state("stopped");
        let status = work.stop(&run, signal, || work.state("stopped") != before);
        assert_eq!(status.code(), code);
        assert!(
            !work.path("stopped/1").exists(),
            "nothing is exported before the end"
        );
    }
    let resume = format!("{train} --loaders 2 --run stopped --out stopped/1 --resume");
    let error = work.fail(&format!("{resume} --crop 0.9"));
    assert!(error.contains("the options for images differ"), "{error}");
    work.succeed(&resume);
    assert!(
        work.model("stopped/1") == work.model("alone/1"),
        "the weights differ from those of a run without a stop"
    );

    // A run cannot be resumed with other images.
    fs::remove_file(work.path("shapes/disc/7.bmp")).unwrap();
    let error = work.fail(&resume);
    assert!(
        error.contains("the images differ from those that the run began with"),
        "{error}"
    );
}

#[test]
fn transfer_works_from_a_model_of_another_program() {
    let work = Work::empty();
    draw(&work, "shapes", &["disc", "stripes"], 0..12);
    let donor = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/exported/keras/1");
    let train = format!(
        "train folder --data shapes --from {} --threads 1 --epochs 4",
        donor.display()
    );
    work.succeed(&format!("{train} --run a --out a/1"));
    work.succeed(&format!("{train} --run b --out b/1"));
    assert!(work.model("a/1") == work.model("b/1"), "the seed decides");
    work.succeed(&format!("{train} --run c --out c/1 --seed 2"));
    assert!(work.model("a/1") != work.model("c/1"));
    // The original classifier returns probabilities and takes images with the channels last.
    let serving = work.read("a/1/serving.toml");
    assert!(
        serving.contains("layout = \"nhwc\"") && !serving.contains("activation"),
        "{serving}"
    );
    let said = work.succeed_with_log("evaluate a/1 --folder shapes");
    assert!(said.contains("24 images"), "{said}");
}

#[test]
fn mistakes_are_explained() {
    let work = Work::empty();
    let refused = work.run("train folder");
    assert_eq!(refused.status.code(), Some(2));
    let error = text(&refused.stderr);
    assert!(error.contains("--data <DIR>"), "{error}");
    let error = work.fail("train folder --data nowhere");
    assert!(error.contains("nowhere"), "{error}");

    draw(&work, "one", &["disc"], 0..3);
    let error = work.fail("train folder --data one");
    assert!(
        error.contains("at least 2 classes, found 1: [\"disc\"]"),
        "{error}"
    );

    fs::create_dir_all(work.path("empty/train/cat")).unwrap();
    fs::create_dir_all(work.path("empty/train/dog")).unwrap();
    let error = work.fail("train folder --data empty");
    assert!(
        error.contains("found none that can be read in cat, dog"),
        "{error}"
    );

    draw(&work, "lacking/train", &["disc", "stripes"], 0..3);
    draw(&work, "lacking/val", &["frame"], 0..1);
    let error = work.fail("train folder --data lacking");
    assert!(
        error.contains("expected the classes of train (disc, stripes), found \"frame\""),
        "{error}"
    );

    let error = work.fail("train folder --data lacking/train --from lacking");
    assert!(error.contains("model.onnx"), "{error}");
    let refused = work.run("train digits --size 64");
    assert_eq!(refused.status.code(), Some(2));
    let error = text(&refused.stderr);
    assert!(error.contains("unexpected argument '--size'"), "{error}");
    let error = work.fail("report lacking");
    assert!(error.contains("found neither"), "{error}");
}
