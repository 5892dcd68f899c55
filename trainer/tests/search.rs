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
        table.contains("the best: trainer train digits --network mlp --learning-rate 0.001 --momentum"),
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
    let error = work.fail("search folder --space space.toml");
    assert!(error.contains("digits, images or fashion"), "{error}");
}
