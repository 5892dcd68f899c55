//! Where a value came from: what a person must change to change it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::ArgMatches;
use clap::parser::ValueSource;
use toml::de::{DeTable, DeValue};

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nothing was said.
    Default,
    /// A key of the file.
    File(Place),
    /// An environment variable of this name.
    Environment(&'static str),
    /// A flag of this name.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(place) => write!(f, "{}:{}", place.file.display(), place.line),
            Self::Environment(variable) => write!(f, "environment variable {variable}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// A place in the file, as editors and compilers write it: `classifyd.toml:3:1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    file: Arc<PathBuf>,
    line: usize,
    column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

/// The text of a file, which knows the line of each byte.
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

    pub(super) fn place(&self, offset: usize) -> Place {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Place {
            file: Arc::clone(&self.file),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }
}

/// A key in the file, where it stands, and the bytes that belong to it.
#[derive(Debug)]
struct Entry {
    key: String,
    place: Place,
    start: usize,
    end: usize,
}

/// Every key of a file, tables inside tables included: `model.digits.lanes`, `api_keys[0].name`.
#[derive(Debug, Default)]
pub(super) struct Places(Vec<Entry>);

impl Places {
    pub(super) fn of(table: &DeTable<'_>, source: &Source<'_>) -> Self {
        let mut entries = Vec::new();
        collect(table, "", source, &mut entries);
        Self(entries)
    }

    /// The innermost key to which this byte belongs.
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
            place: source.place(name.span().start),
            start: name.span().start,
            end: value.span().end.max(name.span().end),
            key: key.clone(),
        });
        match value.get_ref() {
            DeValue::Table(table) => collect(table, &key, source, entries),
            DeValue::Array(items) => {
                for (at, item) in items.iter().enumerate() {
                    if let DeValue::Table(table) = item.get_ref() {
                        let key = format!("{key}[{at}]");
                        entries.push(Entry {
                            place: source.place(item.span().start),
                            start: item.span().start,
                            end: item.span().end,
                            key: key.clone(),
                        });
                        collect(table, &key, source, entries);
                    }
                }
            }
            _ => {}
        }
    }
}

/// Where each key came from; a key that is not there has its default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins(BTreeMap<String, Origin>);

impl Origins {
    /// The flags and environment variables that the command line found, for these keys and their variables.
    pub fn of_command_line(matches: &ArgMatches, keys: &[(&'static str, &'static str)]) -> Self {
        let origin = |&(key, variable): &(&'static str, &'static str)| {
            let origin = match matches.value_source(key)? {
                ValueSource::CommandLine => Origin::Flag(format!("--{}", key.replace('_', "-"))),
                ValueSource::EnvVariable => Origin::Environment(variable),
                _ => return None,
            };
            Some((key.to_owned(), origin))
        };
        Self(keys.iter().filter_map(origin).collect())
    }

    /// Takes the places of those keys that no stronger source has.
    pub(super) fn add_file(&mut self, places: Places) {
        for Entry { key, place, .. } in places.0 {
            self.0.entry(key).or_insert(Origin::File(place));
        }
    }

    /// Where this key came from.
    pub fn of(&self, key: &str) -> &Origin {
        self.0.get(key).unwrap_or(&Origin::Default)
    }

    /// `message`, which begins with the key, behind the place where the key was said.
    pub fn explain(&self, key: &str, message: &str) -> String {
        match self.of(key) {
            Origin::Default => format!("{key}: {message}"),
            Origin::File(place) => format!("{place}: {key}: {message}"),
            origin => format!("{origin}: {key}: {message}"),
        }
    }
}
