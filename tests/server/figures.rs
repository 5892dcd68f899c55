//! The tests that pages name, and the accuracies that README.md repeats from the model cards.

use std::path::Path;

use crate::harness::root;

fn page(name: &str) -> String {
    std::fs::read_to_string(root().join("docs").join(name)).unwrap()
}

/// The tests that a page names, as links: [`name`](../tests/server/file.rs).
fn named_tests(page: &str) -> Vec<(&str, &str)> {
    page.split("[`")
        .skip(1)
        .filter_map(|rest| {
            let (name, rest) = rest.split_once("`](../")?;
            let (path, _) = rest.split_once(')')?;
            let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            let is_test = Path::new(path).extension()? == "rs" && name.chars().all(is_name);
            is_test.then_some((name, path))
        })
        .collect()
}

/// Whether the file has a test with this name.
fn has_test(source: &str, name: &str) -> bool {
    let Some((before, _)) = source.split_once(&format!("fn {name}(")) else {
        return false;
    };
    let mut lines = before.lines().rev().map(str::trim);
    let attribute = lines.find(|line| !["", "async"].contains(line) && !line.starts_with("#[ignore"));
    attribute.is_some_and(|line| line == "#[test]" || line.starts_with("#[tokio::test"))
}

#[test]
fn every_test_that_a_page_names_exists() {
    for name in ["threat-model.md", "operations.md"] {
        let page = page(name);
        let tests = named_tests(&page);
        assert!(tests.len() > 10, "{name} names {} tests", tests.len());
        for (test, path) in tests {
            let source = std::fs::read_to_string(root().join(path));
            let source = source.unwrap_or_else(|error| panic!("{name}: {path}: {error}"));
            assert!(has_test(&source, test), "{name}: no test {test} in {path}");
        }
    }
}

/// Each claim of the threat model links to a test, except the one about cargo-deny, which no test
/// can prove.
#[test]
fn every_claim_of_the_threat_model_names_its_tests() {
    let page = page("threat-model.md");
    let threats = page
        .split("\n## ")
        .find(|section| section.starts_with("Threats"))
        .unwrap();
    let promises = threats.lines().filter(|line| line.starts_with("* "));
    let without: Vec<_> = promises.filter(|line| named_tests(line).is_empty()).collect();
    assert!(
        matches!(without[..], [only] if only.contains("cargo-deny")),
        "promises without a test: {without:#?}"
    );
}

#[test]
fn the_readme_shows_the_accuracies_of_the_model_cards() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let mut cards = 0;
    for line in readme.lines().filter(|line| line.starts_with("| [`")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let Some((_, card)) = cells[0].split_once("](models/") else {
            continue;
        };
        let card = std::fs::read_to_string(root().join("models").join(card.trim_end_matches(')'))).unwrap();
        let (accuracy, _) = cells[2].split_once('%').unwrap();
        assert!(
            card.contains(&format!("{accuracy}%")),
            "{line}: the card has another accuracy"
        );
        cards += 1;
    }
    assert!(cards >= 4, "{cards} model cards in README.md");
}
