//! Arguments -> a list of inputs: files, patterns, folders, standard input, texts.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use classifier::InputKind;
use classifier::image::EXTENSIONS as IMAGES;
use walkdir::WalkDir;

const TEXTS: [&str; 1] = ["txt"];
/// Files that are named of those that are left out.
const MOST_NAMES: usize = 5;

/// One input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// How it is called in what is printed.
    pub name: String,
    /// Where it is, or why it cannot be had.
    pub source: Result<Source, String>,
}

/// Where an input is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// In a file.
    File(PathBuf),
    /// `-`.
    StandardInput,
    /// The argument itself is the text.
    Text,
}

impl Input {
    /// Its bytes.
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

    /// The text itself.
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

/// The inputs that the arguments stand for, and the files that are none.
#[derive(Debug, Default)]
pub struct Expanded {
    /// In the order of the arguments; those of a folder or a pattern sorted by name.
    pub inputs: Vec<Input>,
    /// Files in folders whose names say that the model cannot take them.
    pub left_out: Vec<PathBuf>,
}

impl Expanded {
    /// How many files were left out, and which; nothing if there are none.
    pub fn tell_left_out(&self, takes: Option<InputKind>) -> Option<String> {
        if self.left_out.is_empty() {
            return None;
        }
        let first = self.left_out.iter().take(MOST_NAMES);
        let names: Vec<String> = first.map(|path| path.display().to_string()).collect();
        let more = match self.left_out.len() - names.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        Some(format!(
            "left out, as their names do not end in {}: {} of the files, {}{more}",
            extensions(takes),
            self.left_out.len(),
            names.join(", ")
        ))
    }
}

/// Finds the files and texts that the arguments mean.
///
/// `takes` is what the model takes, if it is known: folders are searched for files of that kind, and for a text classifier an
/// argument that names no file is a text, unless it looks like the name of one: a mistyped name must not be taken for a text.
pub fn expand(arguments: &[OsString], takes: Option<InputKind>) -> Expanded {
    let mut expanded = Expanded::default();
    for argument in arguments {
        let path = Path::new(argument);
        let name = path.display().to_string();
        if name == "-" {
            expanded.inputs.push(Input::new(name, Source::StandardInput));
        } else if path.exists() {
            add_path(path, takes, &mut expanded);
        } else if add_matches(&name, takes, &mut expanded) {
        } else if takes == Some(InputKind::Text) && !looks_like_a_path(&name) {
            expanded.inputs.push(Input::text(name));
        } else {
            expanded.inputs.push(Input::missing(name, no_such_file(takes)));
        }
    }
    expanded
}

/// Whether an argument is more likely the name of a file than a text: it ends as the names of pictures and texts do, begins as
/// only a path does, or is a single word with a `/`.
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
        add_folder(path, takes, expanded);
    } else {
        expanded.inputs.push(Input::file(path.to_owned()));
    }
}

/// What a pattern matches, as the shell would read it. False if it is no pattern, or matches nothing.
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
            Err(error) => expanded.inputs.push(Input::missing(
                error.path().display().to_string(),
                error.error().to_string(),
            )),
        }
    }
    found
}

/// The files of a folder and of those below that a model of this kind can take, by their names. Hidden ones are passed over.
fn add_folder(folder: &Path, takes: Option<InputKind>, expanded: &mut Expanded) {
    let wanted = |path: &Path| kind_of(path).is_some_and(|kind| takes.is_none_or(|takes| takes == kind));
    let before = expanded.inputs.len();
    let entries = WalkDir::new(folder)
        .follow_links(true)
        .sort_by_file_name()
        .into_iter()
        .filter_entry(|entry| entry.depth() == 0 || !entry.file_name().as_encoded_bytes().starts_with(b"."));
    for entry in entries {
        match entry {
            Ok(entry) if !entry.file_type().is_file() => {}
            Ok(entry) if wanted(entry.path()) => expanded.inputs.push(Input::file(entry.into_path())),
            Ok(entry) => expanded.left_out.push(entry.into_path()),
            Err(error) => {
                let path = error.path().unwrap_or(folder).display().to_string();
                expanded.inputs.push(Input::missing(path, error.to_string()));
            }
        }
    }
    if expanded.inputs.len() == before {
        expanded.inputs.push(Input::missing(
            folder.display().to_string(),
            format!(
                "expected files whose names end in {}, found none",
                extensions(takes)
            ),
        ));
    }
}

/// How the names of files end that a model of this kind takes.
fn extensions(takes: Option<InputKind>) -> String {
    let extensions = match takes {
        Some(InputKind::Image) => IMAGES.to_vec(),
        Some(InputKind::Text) => TEXTS.to_vec(),
        None => [&IMAGES[..], &TEXTS].concat(),
    };
    format!(".{}", extensions.join(", ."))
}

/// What a file holds, by its name.
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

/// The name of the folder that holds the input, which must be one of the labels, if they are known.
pub fn expected_label(input: &Input, labels: &[String]) -> Result<String> {
    let folder = match &input.source {
        Ok(Source::File(path)) => std::path::absolute(path)?
            .parent()
            .and_then(Path::file_name)
            .map(|name| name.to_string_lossy().into_owned()),
        _ => None,
    };
    let known = || labels.join(", ");
    match folder {
        Some(folder) if labels.is_empty() || labels.contains(&folder) => Ok(folder),
        Some(folder) => bail!(
            "--labels-from-folders: expected it in a folder that has the name of a label ({}), found {folder:?}",
            known()
        ),
        None => bail!("--labels-from-folders: expected a file in a folder, found none"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
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
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        folder
    }

    /// Names relative to the folder; `!` before those that cannot be had.
    fn names(folder: &Path, arguments: &[&str], takes: Option<InputKind>) -> Vec<String> {
        let arguments: Vec<OsString> = arguments
            .iter()
            .map(|argument| folder.join(argument).into_os_string())
            .collect();
        let prefix = format!("{}/", folder.display());
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
    fn a_folder_gives_what_the_model_takes_sorted_and_not_what_is_hidden() {
        let folder = folder();
        assert_eq!(
            names(folder.path(), &[""], Some(InputKind::Image)),
            ["cat/a.JPG", "cat/b.png", "cat/deep/c.webp", "dog/e[1].bmp"]
        );
        assert_eq!(
            names(folder.path(), &[""], Some(InputKind::Text)),
            ["dog/review.txt"]
        );
        assert_eq!(
            names(folder.path(), &["dog"], None),
            ["dog/e[1].bmp", "dog/review.txt"]
        );
        let inputs = expand(&[folder.path().join("empty").into()], Some(InputKind::Image)).inputs;
        let reason = inputs[0].source.clone().unwrap_err();
        assert!(reason.contains(".png, .jpg"), "{reason}");
    }

    #[test]
    fn what_a_folder_holds_besides_is_counted_and_named() {
        let folder = folder();
        let told = |folder: &str, takes| {
            expand(&[folder.into()], takes)
                .tell_left_out(takes)
                .map(|told| told.replace(folder, ""))
        };
        let cats = folder.path().join("cat");
        let cats = cats.to_str().unwrap();
        assert_eq!(
            told(cats, Some(InputKind::Image)).unwrap(),
            "left out, as their names do not end in .png, .jpg, .jpeg, .webp, .gif, .bmp: 1 of the files, /notes.md"
        );
        let told_all = told(folder.path().to_str().unwrap(), Some(InputKind::Text)).unwrap();
        assert!(
            told_all.contains(".txt: 6 of the files, /cat/a.JPG") && told_all.ends_with(" and 1 more"),
            "{told_all}"
        );
        fs::remove_file(folder.path().join("cat/notes.md")).unwrap();
        assert_eq!(told(cats, Some(InputKind::Image)), None);
    }

    #[test]
    fn patterns_are_those_of_the_shell() {
        let folder = folder();
        let found = |pattern| names(folder.path(), &[pattern], Some(InputKind::Image));
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
    fn only_a_text_classifier_takes_an_argument_as_text() {
        let texts = |takes| expand(&["Was it *good*?".into(), "-".into()], takes).inputs;
        assert_eq!(texts(Some(InputKind::Text))[0].source, Ok(Source::Text));
        assert_eq!(texts(Some(InputKind::Text))[1].source, Ok(Source::StandardInput));
        for takes in [None, Some(InputKind::Image)] {
            let reason = texts(takes)[0].source.clone().unwrap_err();
            assert!(reason.contains("no such file"), "{reason}");
        }
    }

    #[test]
    fn what_looks_like_the_name_of_a_file_is_no_text() {
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
    fn the_folder_is_the_expected_label() {
        let labels = ["cat".to_owned(), "dog".to_owned()];
        let of = |path: &str| expected_label(&Input::file(path.into()), &labels);
        assert_eq!(of("/x/cat/1.png").unwrap(), "cat");
        let error = of("/x/bird/1.png").unwrap_err().to_string();
        assert!(error.contains("(cat, dog), found \"bird\""), "{error}");
        assert!(expected_label(&Input::new("-", Source::StandardInput), &labels).is_err());
    }
}
