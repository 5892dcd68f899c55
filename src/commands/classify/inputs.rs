//! The arguments as a list of inputs: files, patterns, directories, standard input, texts.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use classifier::InputKind;
use classifier::image::EXTENSIONS as IMAGES;
use walkdir::WalkDir;

const TEXTS: [&str; 1] = ["txt"];
/// A message about skipped files names this many of them.
const MOST_NAMES: usize = 5;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedInput {
    /// Printed beside the result.
    pub name: String,
    /// Where to read the input, or why that is impossible.
    pub source: Result<Source, String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    File(PathBuf),
    StandardInput,
    /// The name is the text.
    Text,
}

impl NamedInput {
    pub fn read(&self) -> Result<Vec<u8>> {
        match &self.source {
            Ok(Source::File(path)) => Ok(std::fs::read(path)?),
            Ok(Source::StandardInput) => {
                let mut bytes = Vec::new();
                std::io::stdin()
                    .read_to_end(&mut bytes)
                    .context("standard input")?;
                Ok(bytes)
            }
            Ok(Source::Text) => Ok(self.name.clone().into_bytes()),
            Err(reason) => Err(anyhow!("{reason}")),
        }
    }

    fn new(name: impl Into<String>, source: Source) -> Self {
        Self {
            name: name.into(),
            source: Ok(source),
        }
    }

    pub fn text(text: impl Into<String>) -> Self {
        Self::new(text, Source::Text)
    }

    fn file(path: PathBuf) -> Self {
        Self::new(path.display().to_string(), Source::File(path))
    }

    fn missing(name: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            source: Err(reason.into()),
        }
    }
}

/// What the arguments stand for.
#[derive(Debug, Default)]
pub struct Expanded {
    /// In the order of the arguments. Those of a directory or pattern are sorted by name.
    pub inputs: Vec<NamedInput>,
    /// Files in directories whose extension says that the model does not take them.
    pub skipped: Vec<PathBuf>,
}

impl Expanded {
    /// How many files were skipped, and the names of the first ones.
    pub fn describe_skipped(&self, takes: Option<InputKind>) -> Option<String> {
        if self.skipped.is_empty() {
            return None;
        }
        let first = self.skipped.iter().take(MOST_NAMES);
        let names: Vec<String> = first.map(|path| path.display().to_string()).collect();
        let more = match self.skipped.len() - names.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let files = match self.skipped.len() {
            1 => "1 file whose name does not end in".to_owned(),
            count => format!("{count} files whose names do not end in"),
        };
        let (extensions, names) = (extensions(takes), names.join(", "));
        Some(format!("skipped {files} {extensions}: {names}{more}"))
    }
}

/// Finds the files and texts that the arguments stand for.
///
/// `takes` is the kind of input of the model, if it is known. Directories are searched for files of
/// that kind. For a text classifier, an argument that is not the name of a file is a text, unless
/// it looks like a file name: a mistyped name must not be classified.
pub fn expand(arguments: &[OsString], takes: Option<InputKind>) -> Expanded {
    let mut expanded = Expanded::default();
    for argument in arguments {
        let path = Path::new(argument);
        let name = path.display().to_string();
        if name == "-" {
            expanded.inputs.push(NamedInput::new(name, Source::StandardInput));
        } else if path.exists() {
            add_path(path, takes, &mut expanded);
        } else if add_matches(&name, takes, &mut expanded) {
        } else if takes == Some(InputKind::Text) && !looks_like_a_path(&name) {
            expanded.inputs.push(NamedInput::text(name));
        } else {
            expanded
                .inputs
                .push(NamedInput::missing(name, no_such_file(takes)));
        }
    }
    expanded
}

/// Whether an argument is more likely a file name than a text: it has the extension of an image or
/// text file, begins as only a path does, or is a single word with a `/`.
fn looks_like_a_path(argument: &str) -> bool {
    kind_of(Path::new(argument)).is_some()
        || ["/", "./", "../", "~/"]
            .iter()
            .any(|start| argument.starts_with(start))
        || (argument.contains('/') && !argument.contains(char::is_whitespace))
}

fn no_such_file(takes: Option<InputKind>) -> String {
    let expected = match takes {
        Some(InputKind::Image) => "an image file".to_owned(),
        Some(InputKind::Text) => "a file, as the name looks like one (--text takes it as a text)".to_owned(),
        None => {
            "a file (a text needs --text, or --model with the name of a model that takes texts)".to_owned()
        }
    };
    format!("expected {expected}, found no such file")
}

fn add_path(path: &Path, takes: Option<InputKind>, expanded: &mut Expanded) {
    if path.is_dir() {
        add_directory(path, takes, expanded);
    } else {
        expanded.inputs.push(NamedInput::file(path.to_owned()));
    }
}

/// Adds what a pattern matches, as in the shell. Returns false if it is not a pattern or matches
/// nothing.
fn add_matches(pattern: &str, takes: Option<InputKind>, expanded: &mut Expanded) -> bool {
    if !pattern.contains(['*', '?', '[']) {
        return false;
    }
    let options = glob::MatchOptions {
        require_literal_leading_dot: true,
        require_literal_separator: true,
        ..glob::MatchOptions::new()
    };
    let Ok(paths) = glob::glob_with(pattern, options) else {
        return false;
    };
    let mut found = false;
    for path in paths {
        found = true;
        match path {
            Ok(path) => add_path(&path, takes, expanded),
            Err(error) => expanded.inputs.push(NamedInput::missing(
                error.path().display().to_string(),
                error.error().to_string(),
            )),
        }
    }
    found
}

/// Adds the files of a directory and its subdirectories whose extension fits the model. Hidden ones
/// are skipped.
fn add_directory(directory: &Path, takes: Option<InputKind>, expanded: &mut Expanded) {
    let wanted = |path: &Path| kind_of(path).is_some_and(|kind| takes.is_none_or(|takes| takes == kind));
    let before = expanded.inputs.len();
    let entries = WalkDir::new(directory)
        .follow_links(true)
        .sort_by_file_name()
        .into_iter()
        .filter_entry(|entry| entry.depth() == 0 || !entry.file_name().as_encoded_bytes().starts_with(b"."));
    for entry in entries {
        match entry {
            Ok(entry) if !entry.file_type().is_file() => {}
            Ok(entry) if wanted(entry.path()) => expanded.inputs.push(NamedInput::file(entry.into_path())),
            Ok(entry) => expanded.skipped.push(entry.into_path()),
            Err(error) => {
                let path = error.path().unwrap_or(directory).display().to_string();
                expanded.inputs.push(NamedInput::missing(path, error.to_string()));
            }
        }
    }
    if expanded.inputs.len() == before {
        expanded.inputs.push(NamedInput::missing(
            directory.display().to_string(),
            format!(
                "expected files whose names end in {}, found none",
                extensions(takes)
            ),
        ));
    }
}

/// The extensions of the files that such a model takes.
fn extensions(takes: Option<InputKind>) -> String {
    let extensions = match takes {
        Some(InputKind::Image) => IMAGES.to_vec(),
        Some(InputKind::Text) => TEXTS.to_vec(),
        None => [&IMAGES[..], &TEXTS].concat(),
    };
    format!(".{}", extensions.join(", ."))
}

/// The kind of a file, by its extension.
pub fn kind_of(path: &Path) -> Option<InputKind> {
    if has_extension(path, &IMAGES) {
        Some(InputKind::Image)
    } else {
        has_extension(path, &TEXTS).then_some(InputKind::Text)
    }
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| {
        extensions
            .iter()
            .any(|known| known.eq_ignore_ascii_case(extension))
    })
}

/// The name of the directory that holds the input. It must be one of the labels, if they are known.
pub fn expected_label(input: &NamedInput, labels: &[String]) -> Result<String> {
    let directory = match &input.source {
        Ok(Source::File(path)) => std::path::absolute(path)?
            .parent()
            .and_then(Path::file_name)
            .map(|name| name.to_string_lossy().into_owned()),
        _ => None,
    };
    let known = || labels.join(", ");
    match directory {
        Some(directory) if labels.is_empty() || labels.contains(&directory) => Ok(directory),
        Some(directory) => bail!(
            "--labels-from-folders: expected the file in a directory with the name of a label ({}), found {directory:?}",
            known()
        ),
        None => bail!("--labels-from-folders: expected a file in a directory, found none"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn directory() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for file in [
            "cat/b.png",
            "cat/a.JPG",
            "cat/deep/c.webp",
            "cat/notes.md",
            "cat/.hidden.png",
            ".git/d.png",
            "dog/e[1].bmp",
            "dog/review.txt",
            "empty/readme",
        ] {
            let path = directory.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        directory
    }

    /// Names relative to the directory, with `!` before those that cannot be read.
    fn names(directory: &Path, arguments: &[&str], takes: Option<InputKind>) -> Vec<String> {
        let arguments: Vec<OsString> = arguments
            .iter()
            .map(|argument| directory.join(argument).into_os_string())
            .collect();
        let prefix = format!("{}/", directory.display());
        expand(&arguments, takes)
            .inputs
            .into_iter()
            .map(|input| {
                let name = input.name.trim_start_matches(&prefix);
                format!("{}{name}", if input.source.is_err() { "!" } else { "" })
            })
            .collect()
    }

    #[test]
    fn a_directory_gives_the_files_that_the_model_takes_sorted_and_without_hidden_ones() {
        let directory = directory();
        assert_eq!(
            names(directory.path(), &[""], Some(InputKind::Image)),
            ["cat/a.JPG", "cat/b.png", "cat/deep/c.webp", "dog/e[1].bmp"]
        );
        assert_eq!(
            names(directory.path(), &[""], Some(InputKind::Text)),
            ["dog/review.txt"]
        );
        assert_eq!(
            names(directory.path(), &["dog"], None),
            ["dog/e[1].bmp", "dog/review.txt"]
        );
        let inputs = expand(&[directory.path().join("empty").into()], Some(InputKind::Image)).inputs;
        let reason = inputs[0].source.clone().unwrap_err();
        assert!(reason.contains(".png, .jpg"), "{reason}");
    }

    #[test]
    fn other_files_of_a_directory_are_counted_and_named() {
        let directory = directory();
        let told = |directory: &str, takes| {
            expand(&[directory.into()], takes)
                .describe_skipped(takes)
                .map(|told| told.replace(directory, ""))
        };
        let cats = directory.path().join("cat");
        let cats = cats.to_str().unwrap();
        assert_eq!(
            told(cats, Some(InputKind::Image)).unwrap(),
            "skipped 1 file whose name does not end in .png, .jpg, .jpeg, .webp, .gif, .bmp: /notes.md"
        );
        let told_all = told(directory.path().to_str().unwrap(), Some(InputKind::Text)).unwrap();
        assert!(
            told_all.contains("6 files whose names do not end in .txt: /cat/a.JPG")
                && told_all.ends_with(" and 1 more"),
            "{told_all}"
        );
        fs::remove_file(directory.path().join("cat/notes.md")).unwrap();
        assert_eq!(told(cats, Some(InputKind::Image)), None);
    }

    #[test]
    fn patterns_are_those_of_the_shell() {
        let directory = directory();
        let found = |pattern| names(directory.path(), &[pattern], Some(InputKind::Image));
        assert_eq!(found("cat/*.png"), ["cat/b.png"]);
        assert_eq!(
            found("**/[ab].*"),
            ["cat/a.JPG", "cat/b.png"],
            "any depth, any extension that was asked for"
        );
        assert_eq!(found("c?t"), ["cat/a.JPG", "cat/b.png", "cat/deep/c.webp"]);
        assert_eq!(found("cat/*.gif"), ["!cat/*.gif"]);
        assert_eq!(found("dog/e[1].bmp"), ["dog/e[1].bmp"], "a file before a pattern");
    }

    #[test]
    fn only_for_a_text_classifier_is_an_argument_a_text() {
        let texts = |takes| expand(&["Was it *good*?".into(), "-".into()], takes).inputs;
        assert_eq!(texts(Some(InputKind::Text))[0].source, Ok(Source::Text));
        assert_eq!(texts(Some(InputKind::Text))[1].source, Ok(Source::StandardInput));
        for takes in [None, Some(InputKind::Image)] {
            let reason = texts(takes)[0].source.clone().unwrap_err();
            assert!(reason.contains("no such file"), "{reason}");
        }
    }

    #[test]
    fn an_argument_that_looks_like_a_file_name_is_not_a_text() {
        let source = |argument: &str| {
            expand(&[argument.into()], Some(InputKind::Text))
                .inputs
                .remove(0)
                .source
        };
        for path in [
            "nosuch.txt",
            "my review.TXT",
            "nosuch/review",
            "/nosuch/a review",
            "./nosuch",
            "~/nosuch",
            "nosuch/*",
            "photo.jpg",
        ] {
            let reason = source(path).unwrap_err();
            assert!(
                reason.contains("--text") && reason.contains("no such file"),
                "{path}: {reason}"
            );
        }
        for text in [
            "A great film.",
            "good",
            "Good and/or bad?",
            "A 10/10 film",
            "Nice.Really",
        ] {
            assert_eq!(source(text), Ok(Source::Text), "{text}");
        }
    }

    #[test]
    fn the_directory_is_the_expected_label() {
        let labels = ["cat".to_owned(), "dog".to_owned()];
        let of = |path: &str| expected_label(&NamedInput::file(path.into()), &labels);
        assert_eq!(of("/x/cat/1.png").unwrap(), "cat");
        let error = of("/x/bird/1.png").unwrap_err().to_string();
        assert!(error.contains("(cat, dog), found \"bird\""), "{error}");
        assert!(expected_label(&NamedInput::new("-", Source::StandardInput), &labels).is_err());
    }
}
