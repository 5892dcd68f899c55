//! The file: read, and every mistake in it told with its place.

use std::path::Path;

use toml::de::DeTable;

use super::Settings;
use super::place::{Places, Source};

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

/// `FILE:LINE:COLUMN: KEY: what was expected and what came`. The library's own text would repeat the line, which is nothing for a
/// log where the line holds a secret.
fn explain(error: &toml::de::Error, places: &Places, source: &Source<'_>) -> String {
    let offset = error.span().map_or(0, |span| span.start);
    let place = source.place(offset);
    let message = error.message().replace('\n', ", ");
    match places.key_at(offset) {
        Some("models") if message.contains("map") => {
            format!("{place}: models: {message}; what holds for one model stands in [model.NAME]")
        }
        Some(key) => format!("{place}: {key}: {message}"),
        None => format!("{place}: {message}"),
    }
}
