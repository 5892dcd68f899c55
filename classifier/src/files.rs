//! Reads the files of a model directory, which others may be writing.

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path};

use serde::de::DeserializeOwned;

use crate::error::BundleError;

/// Name of the file that [`Serving`](crate::bundle::Serving) describes.
pub const SERVING: &str = "serving.toml";

/// Whether a path that a file of a model directory names stays inside of that directory. A model
/// directory may come from anywhere.
pub(crate) fn is_inside(path: &str) -> bool {
    let mut parts = Path::new(path).components();
    parts.all(|part| matches!(part, Component::Normal(_)))
}

/// Reads a UTF-8 file.
pub(crate) fn read_text(file: &Path) -> Result<String, BundleError> {
    let unreadable =
        |found: &dyn ToString| BundleError::new(file, None, "a readable UTF-8 file", found.to_string());
    let bytes = read(file).map_err(|error| unreadable(&error))?;
    String::from_utf8(bytes).map_err(|error| unreadable(&error))
}

/// Reads one JSON value. Errors name the key.
pub(crate) fn read_json<T: DeserializeOwned>(file: &Path) -> Result<T, BundleError> {
    let text = read_text(file)?;
    let mut deserializer = serde_json::Deserializer::from_str(&text);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let key = error.path().to_string();
        BundleError::new(
            file,
            (key != ".").then_some(key),
            "a valid value",
            error.into_inner(),
        )
    })?;
    deserializer
        .end()
        .map_err(|error| BundleError::new(file, None, "one JSON value", error))?;
    Ok(value)
}

/// Reads a TOML file. Errors name the key.
pub(crate) fn read_toml<T: DeserializeOwned>(file: &Path) -> Result<T, BundleError> {
    let text = read_text(file)?;
    let invalid =
        |key: Option<String>, message: String| BundleError::new(file, key, "valid keys and values", message);
    let deserializer = toml::Deserializer::parse(&text).map_err(|error| invalid(None, error.to_string()))?;
    serde_path_to_error::deserialize(deserializer).map_err(|error| {
        let key = error.path().to_string();
        invalid(
            (key != ".").then_some(key),
            error.into_inner().message().to_owned(),
        )
    })
}

/// Reads a whole file, as it was at one moment.
///
/// # Errors
///
/// Fails with the system's error, or with [`io::ErrorKind::ResourceBusy`] if the file was changed
/// or replaced while it was read.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    // Checked before the file is opened, because opening a pipe without a writer blocks.
    if !path.metadata()?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "expected a regular file",
        ));
    }
    let mut file = File::open(path)?;
    let before = file.metadata()?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(usize::try_from(before.len()).unwrap_or(usize::MAX))?;
    file.read_to_end(&mut bytes)?;
    let unchanged = state(&before) == state(&file.metadata()?) && state(&before) == state(&path.metadata()?);
    if !unchanged || bytes.len() as u64 != before.len() {
        return Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            "the file was changed while it was read",
        ));
    }
    Ok(bytes)
}

/// Identifies a file and its last change.
fn state(metadata: &Metadata) -> (u64, u64, u64, [(i64, i64); 2]) {
    let modified = (metadata.mtime(), metadata.mtime_nsec());
    let changed = (metadata.ctime(), metadata.ctime_nsec());
    (
        metadata.dev(),
        metadata.ino(),
        metadata.len(),
        [modified, changed],
    )
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_is_read_completely() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, b"content").unwrap();
        assert_eq!(read(&path).unwrap(), b"content");
    }

    #[test]
    fn a_change_shows_in_the_state() {
        let directory = tempfile::tempdir().unwrap();
        let (path, other) = (directory.path().join("file"), directory.path().join("other"));
        fs::write(&path, b"content").unwrap();
        let before = state(&path.metadata().unwrap());
        assert_eq!(before, state(&path.metadata().unwrap()));
        fs::write(&path, b"CONTENT").unwrap();
        let written = state(&path.metadata().unwrap());
        assert_ne!(before, written);
        fs::write(&other, b"CONTENT").unwrap();
        fs::rename(&other, &path).unwrap();
        assert_ne!(written, state(&path.metadata().unwrap()));
    }
}
