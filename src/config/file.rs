//! The file: read, and every mistake in it told with its place.

use std::path::Path;

use toml::de::DeTable;

use super::Settings;
use super::place::{Places, Source};

/// Name of the file in documents.
const USUAL: &str = "classifyd.toml";
/// Keys that an error may list.
const FEW: usize = 20;
/// Likeness of two keys, between 0 and 1, from which on one may be meant by the other.
const ALIKE: f64 = 0.85;

/// What the file says, and where.
pub(super) fn read(path: &Path) -> Result<(Settings, Places), String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let source = Source::new(path, &text);
    let places = match DeTable::parse(&text) {
        Ok(table) => Places::of(table.get_ref(), &source),
        Err(error) => return Err(explain(&error, &Places::default(), &source)),
    };
    match toml::from_str(&text) {
        Ok(settings) => Ok((settings, places)),
        Err(error) => Err(explain(&error, &places, &source)),
    }
}

/// The file that lies in the working directory, if it has the usual name and nobody has named it. It is not read by itself: a
/// configuration can name a library that is loaded into the process, and a folder need not belong to whoever stands in it.
pub fn unread(named: Option<&Path>) -> Option<String> {
    let lies_here = named.is_none() && Path::new(USUAL).is_file();
    lies_here.then(|| format!("./{USUAL} is not read: name it with --config {USUAL} or CLASSIFYD_CONFIG"))
}

/// What is wrong with an unknown key: the known one that is most like it; without one all that there are, if those are few.
fn unknown_key(message: &str) -> Option<String> {
    let (unknown, rest) = message.strip_prefix("unknown field `")?.split_once('`')?;
    let known: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
    let alike = known
        .iter()
        .map(|key| (strsim::jaro_winkler(unknown, key), *key))
        .filter(|(likeness, _)| *likeness > ALIKE)
        .max_by(|one, other| one.0.total_cmp(&other.0));
    let expected = match alike {
        Some((_, key)) => format!("did you mean {key}?"),
        None if known.len() > FEW => "`classifyd serve --print-config` lists them all".to_owned(),
        None => format!("expected one of {}", known.join(", ")),
    };
    Some(format!("unknown key; {expected}"))
}

/// `FILE:LINE:COLUMN: KEY: what was expected and what came`. The library's own text would repeat the line, which is nothing for a
/// log where the line holds a secret.
fn explain(error: &toml::de::Error, places: &Places, source: &Source<'_>) -> String {
    let offset = error.span().map_or(0, |span| span.start);
    let place = source.place(offset);
    let message = error.message().replace('\n', ", ");
    let message = unknown_key(&message).unwrap_or(message);
    match places.key_at(offset) {
        Some("models") if message.contains("map") => {
            format!("{place}: models: {message}; what holds for one model stands in [model.NAME]")
        }
        Some(key) => format!("{place}: {key}: {message}"),
        None => format!("{place}: {message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_does_not_repeat_the_line_it_is_in() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("classifyd.toml");
        let secret = "cfd_0123456789";
        for file in [
            format!("[[api_keys]]\nname = \"a\"\nsha256 = \"{secret}\""),
            format!("[[api_keys]]\nname = \"a\"\nsha256 = {secret}"),
            format!("[[api_keys]]\nname = \"a\"\nsha256 = \"{secret}"),
            format!("[[api_keys]]\nname = \"a\" sha256 = \"{secret}\""),
            format!("[[api_keys]]\nname = \"a\"\nkey = \"{secret}\""),
        ] {
            std::fs::write(&path, &file).unwrap();
            let error = read(&path).unwrap_err();
            assert!(!error.contains("0123"), "{file}: {error}");
            assert!(error.contains("classifyd.toml:"), "{file}: {error}");
        }
    }
}
