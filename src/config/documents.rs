//! Generates classifyd.example.toml and the table in docs/configuration.md from the declared keys,
//! and fails if the files differ from that. With `WRITE_DOCUMENTS=1` it writes the files instead.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::LazyLock;

use super::tests::defaults;
use super::*;

const WIDTH: usize = 100;

const HEADER: &str = "\
# Every key of classifyd, with its default. A key without a default is commented out, with an example.
#
# Each key is also a flag and an environment variable, which are named above it. A flag overrides the
# variable, the variable overrides this file, and this file overrides the default.
# `classifyd serve --config FILE --print-config` prints the effective values and where each came from.
#
# Durations are written as \"250ms\", \"5s\" or \"1m 30s\", sizes as \"512 KiB\" or \"16 MiB\". Relative paths
# are relative to the working directory of the server. An unknown key is an error.
#
# This file is generated from src/config/keys.rs.
";

const API_KEYS: &str = r#"
# ---- API keys ------------------------------------------------------------------------------------

# With at least one entry, /v1 needs a key: `Authorization: Bearer KEY` or `X-Api-Key: KEY`.
# `classifyd api-key NAME` makes a key and prints its entry. Entries are only possible in this file,
# which is read again on SIGHUP. The name is a label of metrics.
# [[api_keys]]
# name = "shop"
# sha256 = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
# rate_limit = "50/s burst 100"     # as above, for all clients that use the key; default: none
# priority = "high"                 # the highest that its requests may have; default: normal
"#;

const ONE_MODEL: &str = "
# ---- One model -----------------------------------------------------------------------------------

# Keys for a single model, only possible in this file. A key here overrides the one above, even if that
# came from the environment or a flag. A table for a model that does not exist is an error.
# [model.digits]
# version = 1                       # the version to serve; default: the highest
";

fn paragraphs(key: &Key) -> Vec<String> {
    key.doc
        .split("\n\n")
        .map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

/// Writes a comment, wrapped.
fn comment(text: &mut String, paragraph: &str) {
    let mut line = "#".to_owned();
    for word in paragraph.split(' ') {
        if line.len() + 1 + word.len() > WIDTH {
            let _ = writeln!(text, "{line}");
            "#".clone_into(&mut line);
        }
        let _ = write!(line, " {word}");
    }
    let _ = writeln!(text, "{line}");
}

/// A default as people write it: without the decimal that `bytesize` prints.
fn plain(value: &toml::Value) -> String {
    value.to_string().replace(".0 ", " ")
}

/// The keys of a group, with their defaults.
type Group = (&'static str, Vec<(&'static Key, Option<toml::Value>)>);

fn groups() -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (key, (_, value)) in Config::KEYS.iter().zip(defaults().values().unwrap()) {
        if groups.last().is_none_or(|(group, _)| *group != key.group) {
            groups.push((key.group, Vec::new()));
        }
        groups.last_mut().unwrap().1.push((key, value));
    }
    groups
}

fn example() -> String {
    let mut text = HEADER.to_owned();
    for (group, keys) in groups() {
        let heading = format!("# ---- {group} ");
        let _ = writeln!(text, "\n{heading:-<WIDTH$}");
        for (key, default) in keys {
            text.push('\n');
            comment(&mut text, &paragraphs(key).join(" "));
            let _ = writeln!(text, "# {}, {}", key.flag(), key.variable);
            let _ = match default {
                Some(value) => writeln!(text, "{} = {}", key.name, plain(&value)),
                None => writeln!(text, "# {} = {}", key.name, key.example),
            };
        }
    }
    text.push_str(API_KEYS);
    text.push_str(ONE_MODEL);
    for key in Config::KEYS.iter().filter(|key| key.per_model) {
        let _ = writeln!(text, "# {} = {}", key.name, key.example);
    }
    text
}

fn table() -> String {
    let mut text = String::new();
    for (group, keys) in groups() {
        let _ = writeln!(text, "\n### {group}\n\n| key | default | |\n|---|---|---|");
        for (key, default) in keys {
            let default = match default {
                Some(value) => format!("`{}`", plain(&value).trim_matches('"')),
                None => "none".to_owned(),
            };
            let _ = writeln!(text, "| `{}` | {default} | {} |", key.name, paragraphs(key)[0]);
        }
    }
    text
}

/// Compares a file with what it should be, or writes it.
fn check(file: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    if std::env::var_os("WRITE_DOCUMENTS").is_some() {
        std::fs::write(&path, expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap();
    for (number, (found, expected)) in found.lines().zip(expected.lines()).enumerate() {
        assert_eq!(
            found,
            expected,
            "{file}:{}: WRITE_DOCUMENTS=1 cargo test --lib config writes it",
            number + 1
        );
    }
    assert_eq!(found.len(), expected.len(), "{file}");
}

#[test]
fn the_example_file_is_generated_from_the_keys() {
    check("classifyd.example.toml", &example());
}

// Read when the tests run, so that building an image needs no documents.
static PAGE: LazyLock<String> = LazyLock::new(|| document("docs/configuration.md"));
static GUIDE: LazyLock<String> = LazyLock::new(|| document("docs/operations.md"));

fn document(file: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

#[test]
fn the_table_in_the_documentation_is_generated_from_the_keys() {
    const BEGIN: &str = "<!-- Generated from src/config/keys.rs: begin -->\n";
    const END: &str = "\n<!-- Generated from src/config/keys.rs: end -->";
    let (before, rest) = PAGE.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    check(
        "docs/configuration.md",
        &format!("{before}{BEGIN}{}{END}{after}", table()),
    );
}

#[test]
fn every_key_without_a_default_and_every_key_of_a_model_has_an_example() {
    for (key, default) in groups().into_iter().flat_map(|(_, keys)| keys) {
        let needed = key.per_model || default.is_none();
        assert_eq!(key.example.is_empty(), !needed, "{}", key.name);
    }
}

#[test]
fn variables_are_named_after_their_keys() {
    for key in Config::KEYS {
        assert_eq!(key.variable, format!("CLASSIFYD_{}", key.name.to_uppercase()));
    }
}

/// The lines of the page under this heading.
fn section(heading: &str) -> impl Iterator<Item = &'static str> {
    let begins = format!("## {heading}");
    let lines = PAGE.lines().skip_while(move |line| *line != begins).skip(1);
    lines.take_while(|line| !line.starts_with("## "))
}

#[test]
fn the_page_names_every_key_of_a_model_and_of_an_api_key() {
    let names = |heading, key: &str| section(heading).any(|line| line.contains(&format!("`{key}`")));
    for key in Config::KEYS.iter().filter(|key| key.per_model) {
        assert!(names("One model", key.name), "{}", key.name);
    }
    for key in super::tests::API_KEY {
        assert!(names("Authentication and rate limits", key), "{key}");
    }
}

#[test]
fn the_guide_to_memory_has_the_defaults() {
    let cells = |line: &'static str| line.split('|').map(str::trim).collect::<Vec<_>>();
    let rows: Vec<_> = GUIDE
        .lines()
        .map(cells)
        .filter(|cells| cells.len() == 5)
        .collect();
    let mut sum = 0;
    for share in defaults().memory() {
        let same = |cells: &&Vec<&str>| cells[2].replace('`', "") == share.keys;
        let row = rows
            .iter()
            .find(same)
            .unwrap_or_else(|| panic!("no row of {}", share.keys));
        assert_eq!(row[3], format!("{} MiB", share.bytes >> 20), "{}", share.keys);
        sum += share.bytes;
    }
    let total = rows
        .iter()
        .find(|cells| ["in all", "in total", "total"].contains(&cells[1]));
    assert_eq!(total.unwrap()[3], format!("{} MiB", sum >> 20));
}
