//! `model.onnx` and the weights beside it.

use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use onnx_graph::Outline;

use super::MODEL;
use crate::error::BundleError;
use crate::files;

/// The files of a graph.
///
/// They are read once. Every session is made of the same bytes, even if the files in the directory
/// are replaced later.
#[derive(Clone)]
pub struct GraphFiles {
    /// The content of `model.onnx`.
    pub model: Arc<[u8]>,
    /// Weights in files beside it, by the names that the graph uses for them.
    pub external: Vec<(String, Arc<[u8]>)>,
    /// Inputs and operators of the graph. Empty if the file cannot be read as a graph; loading it
    /// then fails with the reason.
    pub outline: Outline,
}

impl fmt::Debug for GraphFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GraphFiles")
            .field("bytes", &self.model.len())
            .field("external", &self.external.len())
            .field("outline", &self.outline)
            .finish()
    }
}

impl GraphFiles {
    pub(super) fn read(directory: &Path) -> Result<Self, BundleError> {
        let file = directory.join(MODEL);
        let wrong = |found: &dyn ToString| BundleError::new(&file, None, "an ONNX graph", found.to_string());
        match fs::metadata(&file) {
            Ok(metadata) if metadata.is_file() && metadata.len() > 0 => {}
            Ok(metadata) if metadata.is_file() => return Err(wrong(&"an empty file")),
            Ok(_) => return Err(wrong(&"a directory")),
            Err(error) => return Err(wrong(&error)),
        }
        let model: Arc<[u8]> = files::read(&file).map_err(|error| wrong(&error))?.into();
        let outline = Outline::read(&model).unwrap_or_default();
        let external = outline.external_files.iter().map(|name| {
            if !files::is_inside(name) {
                let expected = "weights in files inside the model directory";
                return Err(BundleError::new(&file, None, expected, format!("{name:?}")));
            }
            let path = directory.join(name);
            let bytes = files::read(&path)
                .map_err(|error| BundleError::new(&path, None, "the graph's weights", error))?;
            Ok((name.clone(), bytes.into()))
        });
        Ok(Self {
            external: external.collect::<Result<_, _>>()?,
            outline,
            model,
        })
    }
}
