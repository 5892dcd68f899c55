use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::error::Error;

/// The body of a request, read from a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestBody {
    /// Value of the `Content-Type` header.
    pub content_type: &'static str,
    /// Content of the file.
    pub body: Bytes,
}

/// Reads request bodies from image and `.txt` files.
///
/// For a directory, its files of these types are read in the order of their names, and other files
/// and subdirectories are skipped.
///
/// # Errors
///
/// If a file cannot be read, if the extension of a named file is not that of an image (`.png`,
/// `.jpg`, `.jpeg`, `.webp`, `.gif`, `.bmp`) or `.txt`, or if a directory has no such file.
pub fn read_files(paths: &[PathBuf]) -> Result<Vec<RequestBody>, Error> {
    let mut bodies = Vec::new();
    for path in paths {
        if path.is_dir() {
            for (file, content_type) in files_of(path)? {
                bodies.push(read_file(&file, content_type)?);
            }
        } else {
            let content_type = content_type(path).ok_or_else(|| Error::FileType(path.clone()))?;
            bodies.push(read_file(path, content_type)?);
        }
    }
    Ok(bodies)
}

/// The files of a directory whose type is known, sorted.
fn files_of(directory: &Path) -> Result<Vec<(PathBuf, &'static str)>, Error> {
    let mut files: Vec<_> = std::fs::read_dir(directory)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|source| Error::File {
            path: directory.to_owned(),
            source,
        })?
        .into_iter()
        .map(|entry| entry.path())
        .filter(|file| file.is_file())
        .filter_map(|file| content_type(&file).map(|content_type| (file, content_type)))
        .collect();
    if files.is_empty() {
        return Err(Error::NoFiles(directory.to_owned()));
    }
    files.sort();
    Ok(files)
}

fn read_file(path: &Path, content_type: &'static str) -> Result<RequestBody, Error> {
    let body = std::fs::read(path).map_err(|source| Error::File {
        path: path.to_owned(),
        source,
    })?;
    Ok(RequestBody {
        content_type,
        body: body.into(),
    })
}

fn content_type(file: &Path) -> Option<&'static str> {
    let extension = file.extension()?.to_str()?.to_ascii_lowercase();
    Some(match extension.as_str() {
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "webp" => "image/webp",
        "gif" => "image/gif",
        "bmp" => "image/bmp",
        "txt" => "text/plain; charset=utf-8",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_gives_its_images_and_texts_in_order() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["b.txt", "a.PNG", "c.jpeg", "notes.md"] {
            std::fs::write(directory.path().join(name), name).unwrap();
        }
        let bodies = read_files(&[directory.path().to_path_buf()]).unwrap();
        let found: Vec<_> = bodies
            .iter()
            .map(|body| (&body.body[..], body.content_type))
            .collect();
        assert_eq!(
            found,
            [
                (&b"a.PNG"[..], "image/png"),
                (b"b.txt", "text/plain; charset=utf-8"),
                (b"c.jpeg", "image/jpeg")
            ]
        );
        assert!(read_files(&[directory.path().join("notes.md")]).is_err());
        assert!(read_files(&[directory.path().join("missing.png")]).is_err());
    }
}
