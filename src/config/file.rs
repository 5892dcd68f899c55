//! Reads the file. Every mistake in it is reported with its line and column.

use std::path::Path;

use toml::de::DeTable;

use super::origin::{Locations, Source};
use super::{ConfigError, Settings};

/// The name that the documentation uses for the file.
const USUAL_NAME: &str = "classifyd.toml";
/// An error lists the known keys if there are at most this many.
const MOST_LISTED: usize = 20;
/// Similarity (0 to 1) above which a known key is suggested for an unknown one.
const SIMILAR: f64 = 0.85;

pub(super) fn read(path: &Path) -> Result<(Settings, Locations), ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable {
        path: path.to_owned(),
        error,
    })?;
    let source = Source::new(path, &text);
    let locations = match DeTable::parse(&text) {
        Ok(table) => Locations::of(table.get_ref(), &source),
        Err(error) => return Err(explain(&error, &Locations::default(), &source)),
    };
    match toml::from_str(&text) {
        Ok(settings) => Ok((settings, locations)),
        Err(error) => Err(explain(&error, &locations, &source)),
    }
}

/// A hint, if no file is named but one with the usual name is in the working directory.
///
/// Such a file is not read on its own: a configuration can name a library to load into the process,
/// and the working directory may belong to somebody else.
pub fn unread(named: Option<&Path>) -> Option<String> {
    let is_here = named.is_none() && Path::new(USUAL_NAME).is_file();
    is_here.then(|| {
        format!("./{USUAL_NAME} is not read: name it with --config {USUAL_NAME} or CLASSIFYD_CONFIG")
    })
}

/// Turns serde's message about an unknown key into one that suggests the most similar known key. If
/// none is similar, it lists the known keys, unless there are many.
fn unknown_key(message: &str) -> Option<String> {
    let (unknown, rest) = message.strip_prefix("unknown field `")?.split_once('`')?;
    let known: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
    let similar = known
        .iter()
        .map(|key| (strsim::jaro_winkler(unknown, key), *key))
        .filter(|(similarity, _)| *similarity > SIMILAR)
        .max_by(|one, other| one.0.total_cmp(&other.0));
    let expected = match similar {
        Some((_, key)) => format!("did you mean {key}?"),
        None if known.len() > MOST_LISTED => "`classifyd serve --print-config` lists them all".to_owned(),
        None => format!("expected one of {}", known.join(", ")),
    };
    Some(format!("unknown key; {expected}"))
}

/// Builds the message from the error's parts. The library's own text would quote the line, which
/// can hold a secret.
fn explain(error: &toml::de::Error, locations: &Locations, source: &Source<'_>) -> ConfigError {
    let offset = error.span().map_or(0, |span| span.start);
    let message = error.message().replace('\n', ", ");
    let mut message = unknown_key(&message).unwrap_or(message);
    let key = locations.key_at(offset).map(str::to_owned);
    if key.as_deref() == Some("models") && message.contains("map") {
        message.push_str("; keys of one model belong in [model.NAME]");
    }
    ConfigError::Syntax {
        location: source.location(offset),
        key,
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_does_not_repeat_the_line_it_is_in() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("classifyd.toml");
        let secret = "cfd_0123456789";
        for file in [
            format!("[[api_keys]]\nname = \"a\"\nsha256 = \"{secret}\""),
            format!("[[api_keys]]\nname = \"a\"\nsha256 = {secret}"),
            format!("[[api_keys]]\nname = \"a\"\nsha256 = \"{secret}"),
            format!("[[api_keys]]\nname = \"a\" sha256 = \"{secret}\""),
            format!("[[api_keys]]\nname = \"a\"\nkey = \"{secret}\""),
        ] {
            std::fs::write(&path, &file).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(!error.contains("0123"), "{file}: {error}");
            assert!(error.contains("classifyd.toml:"), "{file}: {error}");
        }
    }
}
