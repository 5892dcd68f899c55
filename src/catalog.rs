//! The models that are found on disk, and the running models by name.

pub mod loading;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use classifier::{Bundle, BundleError, InputKind};

use crate::model::Model;

/// The model directory that is used for a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub name: String,
    pub version: u64,
    /// `models/<name>/<version>`
    pub directory: PathBuf,
}

/// Finds the version of each model in `models/<name>/<version>/`: the pinned one, else the highest.
///
/// Names that begin with a dot are skipped silently. `left_out` is called for each directory that
/// contains no version.
pub fn find(
    models: &Path,
    pinned: &Pinned,
    mut left_out: impl FnMut(&BundleError),
) -> Result<Vec<Found>, BundleError> {
    let mut found = Vec::new();
    for (name, directory) in directories(models)? {
        let inside = directories(&directory)?;
        let names = inside.keys().cloned().collect::<Vec<_>>().join(", ");
        let mut versions: BTreeMap<u64, PathBuf> = inside
            .into_iter()
            .filter_map(|(version, directory)| Some((parse_version(&version)?, directory)))
            .collect();
        if let Some(version) = pinned.get(&name) {
            let there = versions.keys().map(u64::to_string).collect::<Vec<_>>().join(", ");
            versions.retain(|found, _| found == version);
            if versions.is_empty() {
                return Err(BundleError {
                    file: directory,
                    key: None,
                    expected: format!("version {version}, set by model.{name}.version in the configuration"),
                    found: if there.is_empty() { "none".into() } else { there },
                });
            }
        }
        let Some((version, directory)) = versions.pop_last() else {
            left_out(&BundleError {
                file: directory,
                key: None,
                expected: "a directory named after a version (1, 2, ...)".into(),
                found: if names.is_empty() { "none".into() } else { names },
            });
            continue;
        };
        found.push(Found {
            name,
            version,
            directory,
        });
    }
    Ok(found)
}

/// Prints what [`find`] leaves out to standard error.
pub fn tell(left_out: &BundleError) {
    eprintln!("classifyd: left out: {left_out}");
}

/// The versions that the configuration sets, by model name.
pub type Pinned = BTreeMap<String, u64>;

/// Accepts `1` but not `01` or `+1`, so that a version has only one name.
fn parse_version(name: &str) -> Option<u64> {
    let version: u64 = name.parse().ok()?;
    (version > 0 && version.to_string() == name).then_some(version)
}

/// The subdirectories of `parent` by name.
fn directories(parent: &Path) -> Result<BTreeMap<String, PathBuf>, BundleError> {
    let unreadable = |error: std::io::Error| BundleError {
        file: parent.to_path_buf(),
        key: None,
        expected: "a readable directory".into(),
        found: error.to_string(),
    };
    let mut directories = BTreeMap::new();
    for entry in fs::read_dir(parent).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        if !name.starts_with('.') && path.is_dir() {
            directories.insert(name.to_owned(), path);
        }
    }
    Ok(directories)
}

/// Opens every model that is found. Reports all errors, not only the first.
pub fn open(models: &Path, pinned: &Pinned) -> Result<Vec<(Found, Bundle)>, Vec<BundleError>> {
    let warn = |reason: &BundleError| tracing::warn!("left out: {reason}");
    let found = find(models, pinned, warn).map_err(|error| vec![error])?;
    if found.is_empty() {
        return Err(vec![BundleError {
            file: models.to_path_buf(),
            key: None,
            expected: "at least one model as <name>/<version>/model.onnx".into(),
            found: "none".into(),
        }]);
    }
    let mut opened = Vec::new();
    let mut errors = Vec::new();
    for found in found {
        match Bundle::open(&found.directory) {
            Ok(bundle) => opened.push((found, bundle)),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() {
        Ok(opened)
    } else {
        Err(errors)
    }
}

/// The models that are served. A catalog is immutable: a reload replaces it by another.
#[derive(Debug, Default)]
pub struct Catalog {
    models: BTreeMap<String, Arc<Model>>,
    defaults: Defaults,
}

/// Names of the models used by requests that do not name one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Defaults {
    pub image: Option<String>,
    pub text: Option<String>,
}

impl Defaults {
    fn of(&self, kind: InputKind) -> Option<&str> {
        match kind {
            InputKind::Image => self.image.as_deref(),
            InputKind::Text => self.text.as_deref(),
        }
    }
}

/// Why no model was selected for a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SelectError {
    Unknown {
        name: String,
        loaded: String,
    },
    /// Several models take this kind of input, and none of them is the default.
    Ambiguous {
        kind: InputKind,
        candidates: String,
    },
}

/// A default model that does not exist or does not take its kind of input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultError {
    /// The configuration key.
    pub key: &'static str,
    pub message: String,
}

impl Catalog {
    /// Each default must name one of `models`, and that model must take that kind of input.
    pub fn new(models: Vec<Arc<Model>>, defaults: Defaults) -> Result<Self, DefaultError> {
        let models: BTreeMap<String, Arc<Model>> = models
            .into_iter()
            .map(|model| (model.name.clone(), model))
            .collect();
        let catalog = Self { models, defaults };
        for (key, kind) in [
            ("default_image_model", InputKind::Image),
            ("default_text_model", InputKind::Text),
        ] {
            let Some(name) = catalog.defaults.of(kind) else {
                continue;
            };
            if catalog.models.get(name).is_none_or(|model| model.kind() != kind) {
                let taking: Vec<&Arc<Model>> = catalog.taking(kind).collect();
                let message = format!(
                    "expected one of the loaded models that take {kind} ({}), found {name:?}",
                    names(&taking)
                );
                return Err(DefaultError { key, message });
            }
        }
        Ok(catalog)
    }

    /// All models in the order of their names.
    pub fn models(&self) -> impl Iterator<Item = &Arc<Model>> {
        self.models.values()
    }

    pub fn get(&self, name: &str) -> Result<&Arc<Model>, SelectError> {
        self.models.get(name).ok_or_else(|| SelectError::Unknown {
            name: name.to_owned(),
            loaded: self.names(),
        })
    }

    /// The model for requests that do not name one: the default for this kind of input, or the only
    /// model that takes it. `None` if no model takes it.
    pub fn for_kind(&self, kind: InputKind) -> Result<Option<&Arc<Model>>, SelectError> {
        if let Some(name) = self.defaults.of(kind) {
            return self.get(name).map(Some);
        }
        let taking: Vec<&Arc<Model>> = self.taking(kind).collect();
        match taking.as_slice() {
            [] => Ok(None),
            [only] => Ok(Some(only)),
            _ => Err(SelectError::Ambiguous {
                kind,
                candidates: names(&taking),
            }),
        }
    }

    fn taking(&self, kind: InputKind) -> impl Iterator<Item = &Arc<Model>> {
        self.models.values().filter(move |model| model.kind() == kind)
    }

    pub fn names(&self) -> String {
        names(&self.models().collect::<Vec<_>>())
    }

    /// The model of this name, if it is served in this version.
    pub fn served(&self, name: &str, version: u64) -> Option<&Arc<Model>> {
        let model = self.models.get(name)?;
        (model.version == version.to_string()).then_some(model)
    }

    /// Takes no more requests, and waits until the lanes of all models have finished the ones they
    /// have.
    pub fn join(&self) {
        for model in self.models.values() {
            model.join();
        }
    }
}

fn names(models: &[&Arc<Model>]) -> String {
    models
        .iter()
        .map(|model| model.name.as_str())
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_version_is_found_by_number() {
        let models = tempfile::tempdir().unwrap();
        for directory in [
            "a/2",
            "a/10",
            "a/9",
            "a/latest",
            "a/011",
            "b/1",
            ".hidden/1",
            "empty",
            "c/0",
        ] {
            fs::create_dir_all(models.path().join(directory)).unwrap();
        }
        fs::write(models.path().join("README.md"), "not a model").unwrap();
        let versions = |pinned: &Pinned| {
            let found = find(models.path(), pinned, |_| {})?;
            Ok::<_, BundleError>(
                found
                    .into_iter()
                    .map(|found| (found.name, found.version))
                    .collect::<Vec<_>>(),
            )
        };
        let pinned = |version| Pinned::from([("a".to_owned(), version)]);
        let both = |version| vec![("a".to_owned(), version), ("b".to_owned(), 1)];
        assert_eq!(versions(&Pinned::new()).unwrap(), both(10));
        assert_eq!(versions(&pinned(2)).unwrap(), both(2), "a version that is pinned");
        let mut left_out = Vec::new();
        find(models.path(), &Pinned::new(), |reason| {
            left_out.push(reason.to_string())
        })
        .unwrap();
        assert_eq!(left_out.len(), 2, "{left_out:?}");
        assert!(
            left_out[0].contains("/c: ") && left_out[0].ends_with("found 0"),
            "{left_out:?}"
        );
        assert!(
            left_out[1].contains("/empty: ") && left_out[1].ends_with("found none"),
            "{left_out:?}"
        );
        let error = versions(&pinned(3)).unwrap_err();
        assert!(error.expected.contains("version 3"), "{error}");
        assert_eq!(error.found, "2, 9, 10");
    }

    #[test]
    fn a_directory_without_models_is_an_error() {
        let models = tempfile::tempdir().unwrap();
        let errors = open(models.path(), &Pinned::new()).unwrap_err();
        assert_eq!(errors[0].found, "none");
        let errors = open(&models.path().join("missing"), &Pinned::new()).unwrap_err();
        assert_eq!(errors[0].expected, "a readable directory");
    }
}
