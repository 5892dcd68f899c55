//! Where each value came from, which is what an operator must change to change the value.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::ArgMatches;
use clap::parser::ValueSource;
use toml::de::{DeArray, DeTable, DeValue};

use super::Key;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Default,
    File(Location),
    Environment(&'static str),
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(location) => write!(f, "{}:{}", location.file.display(), location.line),
            Self::Environment(variable) => write!(f, "environment variable {variable}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// A position in a file, written as compilers do: `classifyd.toml:3:1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    file: Arc<PathBuf>,
    line: usize,
    column: usize,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

/// The text of a file, to find the line and column of a byte.
#[derive(Debug)]
pub(super) struct Source<'a> {
    file: Arc<PathBuf>,
    text: &'a str,
}

impl<'a> Source<'a> {
    pub(super) fn new(file: &Path, text: &'a str) -> Self {
        Self {
            file: Arc::new(file.to_path_buf()),
            text,
        }
    }

    pub(super) fn location(&self, offset: usize) -> Location {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Location {
            file: Arc::clone(&self.file),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }
}

/// A key of the file, with the bytes from its name to the end of its value.
#[derive(Debug)]
struct Entry {
    key: String,
    location: Location,
    start: usize,
    end: usize,
}

/// Every key of a file, nested tables included: `model.digits.lanes`, `api_keys[0].name`.
#[derive(Debug, Default)]
pub(super) struct Locations(Vec<Entry>);

impl Locations {
    pub(super) fn of(table: &DeTable<'_>, source: &Source<'_>) -> Self {
        let mut entries = Vec::new();
        collect(table, "", source, &mut entries);
        Self(entries)
    }

    /// The innermost key that this byte belongs to.
    pub(super) fn key_at(&self, offset: usize) -> Option<&str> {
        let around = self
            .0
            .iter()
            .filter(|entry| (entry.start..entry.end).contains(&offset));
        around
            .max_by_key(|entry| entry.start)
            .map(|entry| entry.key.as_str())
    }
}

fn collect(table: &DeTable<'_>, parent: &str, source: &Source<'_>, entries: &mut Vec<Entry>) {
    for (name, value) in table {
        let key = match parent {
            "" => name.get_ref().to_string(),
            parent => format!("{parent}.{}", name.get_ref()),
        };
        entries.push(Entry {
            location: source.location(name.span().start),
            start: name.span().start,
            end: value.span().end.max(name.span().end),
            key: key.clone(),
        });
        match value.get_ref() {
            DeValue::Table(table) => collect(table, &key, source, entries),
            DeValue::Array(items) => collect_items(items, &key, source, entries),
            _ => {}
        }
    }
}

fn collect_items(items: &DeArray<'_>, parent: &str, source: &Source<'_>, entries: &mut Vec<Entry>) {
    for (at, item) in items.iter().enumerate() {
        let DeValue::Table(table) = item.get_ref() else {
            continue;
        };
        let key = format!("{parent}[{at}]");
        entries.push(Entry {
            location: source.location(item.span().start),
            start: item.span().start,
            end: item.span().end,
            key: key.clone(),
        });
        collect(table, &key, source, entries);
    }
}

/// The origin of each key. A key that is missing here has its default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins(BTreeMap<String, Origin>);

impl Origins {
    /// The flags and environment variables that clap found for these keys.
    pub(super) fn of_command_line(matches: &ArgMatches, keys: &[Key]) -> Self {
        let origin = |key: &Key| {
            let origin = match matches.value_source(key.name)? {
                ValueSource::CommandLine => Origin::Flag(key.flag()),
                ValueSource::EnvVariable => Origin::Environment(key.variable),
                _ => return None,
            };
            Some((key.name.to_owned(), origin))
        };
        Self(keys.iter().filter_map(origin).collect())
    }

    /// Adds the keys of a file, except those that a flag or variable overrides.
    pub(super) fn add_file(&mut self, locations: Locations) {
        for Entry { key, location, .. } in locations.0 {
            self.0.entry(key).or_insert(Origin::File(location));
        }
    }

    pub fn of(&self, key: &str) -> &Origin {
        self.0.get(key).unwrap_or(&Origin::Default)
    }
}
