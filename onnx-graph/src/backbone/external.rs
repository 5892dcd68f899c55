//! Weights in files beside the model.

use std::fs;
use std::path::{Component, Path};

use prost::bytes::Bytes;

use crate::error::OnnxError;
use crate::proto::{ModelProto, TensorProto, tensor_proto::DataLocation};

/// Moves weights from files beside the model into it.
pub(super) fn load(model: &mut ModelProto, path: &Path) -> Result<(), OnnxError> {
    let directory = path.parent().unwrap_or(Path::new(""));
    for constant in model.graph.iter_mut().flat_map(|graph| &mut graph.initializer) {
        if constant.data_location.unwrap_or_default() != DataLocation::External as i32 {
            continue;
        }
        let wrong = |path: &Path, problem: String| OnnxError::Weights {
            path: path.to_path_buf(),
            constant: constant.name().to_owned(),
            problem,
        };
        let location = entry(constant, "location").unwrap_or_default();
        // A model may come from anywhere; it must not name files outside its own directory.
        let mut parts = Path::new(location).components();
        if location.is_empty() || !parts.all(|part| matches!(part, Component::Normal(_))) {
            let problem = format!("expected weights in a file beside the model, found {location:?}");
            return Err(wrong(path, problem));
        }
        let file = directory.join(location);
        let bytes = fs::read(&file).map_err(|source| OnnxError::Read {
            path: file.clone(),
            source,
        })?;
        let bytes = Bytes::from(bytes);
        let number = |key| number(constant, key).map_err(|problem| wrong(path, problem));
        let start = number("offset")?.unwrap_or(0);
        let end = number("length")?.map_or(Some(bytes.len()), |length| start.checked_add(length));
        let part = end
            .and_then(|end| bytes.get(start..end))
            .ok_or_else(|| wrong(&file, "lies beyond the end of the file".to_owned()))?;
        constant.raw_data = Some(bytes.slice_ref(part));
        constant.data_location = None;
        constant.external_data.clear();
    }
    Ok(())
}

fn entry<'a>(constant: &'a TensorProto, key: &str) -> Option<&'a str> {
    let mut entries = constant.external_data.iter();
    entries
        .find(|entry| entry.key() == key)
        .map(crate::proto::StringStringEntryProto::value)
}

fn number(constant: &TensorProto, key: &str) -> Result<Option<usize>, String> {
    let parse = |text: &str| {
        text.parse()
            .map_err(|_| format!("`{key}`: expected a number, found {text:?}"))
    };
    entry(constant, key).map(parse).transpose()
}
