//! Reads files that others may be writing.

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// The whole file, as it was at one moment.
///
/// # Errors
///
/// What the system says; or [`io::ErrorKind::ResourceBusy`] if the file was changed or replaced while it was read.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    // Before it is opened, which a pipe without a writer would never end.
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

/// Which file it is, and when it was changed last.
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
    fn a_file_is_read_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, b"content").unwrap();
        assert_eq!(read(&path).unwrap(), b"content");
    }

    #[test]
    fn a_change_shows_in_the_state() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("file"), folder.path().join("other"));
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
