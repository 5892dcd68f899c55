//! A search over settings, on digits that the test draws itself.

#![allow(clippy::unwrap_used)]

mod work;

use std::fs;
use std::path::Path;

use work::{Work, text};

/// Ten classes of blank pictures in MNIST's format: their level tells the class.
fn write(directory: &Path) {
    for (name, count) in [("train", 240_u32), ("t10k", 20)] {
        let mut pictures: Vec<u8> = [2051, count, 28, 28]
            .iter()
            .flat_map(|number| number.to_be_bytes())
            .collect();
        let mut labels: Vec<u8> = [2049, count]
            .iter()
            .flat_map(|number: &u32| number.to_be_bytes())
            .collect();
        for at in 0..count {
            let class = (at % 10) as u8;
            pictures.extend([class * 25; 28 * 28]);
            labels.push(class);
        }
        fs::write(directory.join(format!("{name}-images-idx3-ubyte")), pictures).unwrap();
        fs::write(directory.join(format!("{name}-labels-idx1-ubyte")), labels).unwrap();
    }
}

#[test]
fn a_search_shows_its_trials_best_first_and_goes_on_where_it_was() {
    let work = Work::new(write);
    fs::write(
        work.path("space.toml"),
        "learning_rate = [0.001, 1e12]\nmomentum = { from = 0.1, to = 0.9 }\n",
    )
    .unwrap();
    let search = "search digits --network mlp --space space.toml --epochs 2 --batch-size 20 --optimizer sgd --run trials";
    let table = work.succeed(&format!("{search} --trials 4"));
    let rows: Vec<&str> = table.lines().skip(1).take(4).collect();
    assert!(rows.iter().all(|row| row.contains("--momentum 0.")), "{table}");
    let diverged = rows.iter().filter(|row| row.contains("diverged")).count();
    assert!(
        (1..4).contains(&diverged),
        "a learning rate of 1e12 leaves all bounds, and the search goes on: {table}"
    );
    assert!(
        rows[3].contains("diverged") && !rows[0].contains("diverged"),
        "best first: {table}"
    );
    assert!(
        table.contains(
            "the best: trainer train digits --network mlp --epochs 2 --batch-size 20 --optimizer sgd --data data \
             --learning-rate 0.001 --momentum"
        ),
        "{table}"
    );

    // One trial is taken away and one asked for beyond: these two are run, the others kept.
    let kept = fs::metadata(work.path("trials/trial-1/result.json"))
        .unwrap()
        .modified()
        .unwrap();
    fs::remove_dir_all(work.path("trials/trial-2")).unwrap();
    let output = work.run(&format!("{search} --trials 5"));
    assert!(output.status.success(), "{}", text(&output.stderr));
    let log = text(&output.stderr);
    assert!(
        log.contains("trial 2 of 5") && log.contains("trial 5 of 5") && !log.contains("trial 3 of 5"),
        "{log}"
    );
    let longer = text(&output.stdout);
    for row in rows {
        assert!(
            longer.lines().any(|line| line == row),
            "the same again: {row}\n{longer}"
        );
    }
    let again = fs::metadata(work.path("trials/trial-1/result.json"))
        .unwrap()
        .modified()
        .unwrap();
    assert_eq!(kept, again);

    let error = work.fail(&format!("{search} --trials 5 --seed 2"));
    assert!(error.contains("name another --run"), "{error}");
}

#[test]
fn mistakes_in_a_space_are_told_before_anything_is_trained() {
    let work = Work::new(write);
    for (space, part) in [
        ("momentun = [0.9]", "--momentun"),
        ("momentum = [0.9, 2]", "momentum"),
        ("momentum = 0.9", "expected a list of values"),
    ] {
        fs::write(work.path("space.toml"), space).unwrap();
        let error = work.fail("search digits --network mlp --space space.toml --run trials");
        assert!(error.contains(part), "expected {part:?} in: {error}");
        assert!(!work.path("trials/trial-1").exists());
    }
    let space = "search folder --space space.toml --run trials";
    fs::write(work.path("space.toml"), "momentum = [0.9]").unwrap();
    for (arguments, option) in [
        (format!("{space} --network mlp"), "--network"),
        ("search digits --space space.toml --size 32".to_owned(), "--size"),
    ] {
        let refused = work.run(&arguments);
        assert_eq!(refused.status.code(), Some(2), "{arguments}");
        let error = text(&refused.stderr);
        assert!(
            error.contains(&format!("unexpected argument '{option}'")),
            "{error}"
        );
    }
    fs::write(work.path("space.toml"), "seed = [1, 2]").unwrap();
    let error = work.fail(space);
    assert!(error.contains("--space: `seed` also decides"), "{error}");
}

#[test]
fn settings_for_reviews_are_searched_with_the_network_alone() {
    let work = Work::new(|data| {
        for split in ["train", "test"] {
            for (folder, word) in [("neg", "dull"), ("pos", "lovely")] {
                let folder = data.join("aclImdb").join(split).join(folder);
                fs::create_dir_all(&folder).unwrap();
                for at in 0..20 {
                    let text = format!("The {split} film {at} was {word}, all of it.");
                    fs::write(folder.join(format!("{at}_7.txt")), text).unwrap();
                }
            }
        }
    });
    fs::write(
        work.path("space.toml"),
        "dropout = [0.0, 0.5]\nlearning_rate = { from = 0.01, to = 0.05 }\n",
    )
    .unwrap();
    let search =
        "search sentiment --space space.toml --epochs 2 --batch-size 8 --threads 1 --run trials --trials 2";
    let output = work.run(&format!("{search} --network cnn-random --samples 24"));
    let (table, log) = (text(&output.stdout), text(&output.stderr));
    assert!(log.contains("24 reviews to train on, 4 held out"), "{log}");
    let rows = table
        .lines()
        .filter(|line| line.contains(" %") && line.contains("--dropout 0"));
    assert_eq!(rows.count(), 2, "{table}{log}");
    assert!(
        table.contains(
            "the best: trainer train sentiment --epochs 2 --batch-size 8 --threads 1 --network cnn-random --data data \
             --dropout 0"
        ),
        "{table}"
    );
    let error = work.fail(&format!("{search} --network ngrams"));
    assert!(error.contains("trains no network"), "{error}");
    // The same reviews, but more of them.
    let error = work.fail(&format!("{search} --network cnn-random"));
    assert!(error.contains("name another --run"), "{error}");
}

#[test]
fn settings_for_a_folder_are_searched_on_its_pictures() {
    let work = Work::new(|data| {
        for (class, level) in [("dark", 20), ("light", 200)] {
            fs::create_dir(data.join(class)).unwrap();
            for number in 0..12_u8 {
                image::GrayImage::from_pixel(20, 20, image::Luma([level + number]))
                    .save(data.join(class).join(format!("{number}.png")))
                    .unwrap();
            }
        }
    });
    fs::write(
        work.path("space.toml"),
        "learning_rate = [0.001, 0.005]\noptimizer = [\"adam\", \"sgd\"]\n",
    )
    .unwrap();
    let search =
        "search folder --space space.toml --size 16 --epochs 2 --batch-size 8 --threads 1 --run trials";
    let table = work.succeed(&format!("{search} --trials 2"));
    let best = "the best: trainer train folder --size 16 --epochs 2 --batch-size 8 --threads 1 --data data --learning-rate 0.00";
    assert!(table.contains(best), "{table}");
    let longer = work.run(&format!("{search} --trials 3"));
    let log = text(&longer.stderr);
    assert!(
        log.contains("trial 3 of 3") && !log.contains("trial 2 of 3"),
        "{log}"
    );

    fs::remove_file(work.path("data/dark/3.png")).unwrap();
    let error = work.fail(&format!("{search} --trials 3"));
    assert!(error.contains("name another --run"), "{error}");
}
