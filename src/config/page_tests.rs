//! Whether the pages say of the keys what holds.

use super::tests::{API_KEY, full_table, load};
use super::*;

const PAGE: &str = include_str!("../../docs/configuration.md");

/// The lines of the page under this heading.
fn section(heading: &str) -> impl Iterator<Item = &'static str> {
    let begins = format!("## {heading}");
    let lines = PAGE.lines().skip_while(move |line| *line != begins).skip(1);
    lines.take_while(|line| !line.starts_with("## "))
}

#[test]
fn the_page_has_every_key_with_its_default() {
    let mut file = Vec::new();
    let mut without = Vec::new();
    for line in section("Every key").filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = line.split(" | ").collect();
        let default = cells[1].trim_matches('`');
        for key in cells[0].trim_start_matches("| ").split(", ") {
            let key = key.trim_matches('`');
            let bare = default == "[]" || default.bytes().all(|byte| byte.is_ascii_digit());
            match default {
                "none" => without.push(key),
                _ if bare => file.push(format!("{key} = {default}")),
                _ => file.push(format!("{key} = \"{default}\"")),
            }
        }
    }
    let page = load(&file.join("\n"), Settings::default()).unwrap();
    let defaults = Config::load(Settings::default(), Origins::default(), None).unwrap();
    for (key, value) in defaults.values().unwrap() {
        let found = matches!(page.origins.of(key), Origin::File(_));
        assert_eq!(
            found,
            value.is_some(),
            "{key}: a default in docs/configuration.md"
        );
        assert_eq!(
            without.contains(&key),
            value.is_none(),
            "{key}: none in docs/configuration.md"
        );
    }
    assert_eq!(page.values().unwrap(), defaults.values().unwrap());
}

#[test]
fn the_page_names_every_key_of_a_model_and_of_an_api_key() {
    let names = |heading, key: &str| section(heading).any(|line| line.contains(&format!("`{key}`")));
    for key in full_table().keys() {
        assert!(names("One model", key), "{key}");
    }
    for key in API_KEY {
        assert!(names("Who may ask", key), "{key}");
    }
}

#[test]
fn the_guide_to_memory_has_the_defaults() {
    const GUIDE: &str = include_str!("../../docs/operations.md");
    let defaults = Config::load(Settings::default(), Origins::default(), None).unwrap();
    let cells = |line: &'static str| line.split('|').map(str::trim).collect::<Vec<_>>();
    let rows: Vec<_> = GUIDE
        .lines()
        .map(cells)
        .filter(|cells| cells.len() == 5)
        .collect();
    let mut sum = 0;
    for (_, keys, bytes) in defaults.memory() {
        let same = |cells: &&Vec<&str>| cells[2].replace('`', "") == keys;
        let row = rows
            .iter()
            .find(same)
            .unwrap_or_else(|| panic!("no row of {keys}"));
        assert_eq!(row[3], format!("{} MiB", bytes >> 20), "{keys}");
        sum += bytes;
    }
    let in_all = rows.iter().find(|cells| cells[1] == "in all").unwrap();
    assert_eq!(in_all[3], format!("{} MiB", sum >> 20));
}
