//! `config.json`: the labels.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::CONFIG;
use crate::error::BundleError;

/// The keys of `config.json` that are used here. Others belong to other programs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct LabelConfig {
    /// The label of each output. Keys are the positions of the outputs, written as strings:
    /// `{"0": "cat", "1": "dog"}`.
    pub id2label: BTreeMap<String, String>,
    /// Default: [`ProblemType::SingleLabelClassification`].
    #[serde(default)]
    pub problem_type: Option<ProblemType>,
}

/// How many labels of an input are right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemType {
    /// Exactly one.
    SingleLabelClassification,
    /// Any number.
    MultiLabelClassification,
}

/// The labels in the order of the outputs. The keys of `id2label` must be 0, 1, 2, ... without a
/// gap.
pub(super) fn labels(directory: &Path, config: &LabelConfig) -> Result<Vec<String>, BundleError> {
    let count = config.id2label.len();
    let wrong = |key: String, expected: &str, found: String| {
        Err(BundleError::new(directory.join(CONFIG), key, expected, found))
    };
    if count == 0 {
        return wrong("id2label".into(), "at least one label", "none".into());
    }
    let mut labels = vec![None; count];
    for (id, label) in &config.id2label {
        let Some(slot) = id.parse::<usize>().ok().and_then(|id| labels.get_mut(id)) else {
            let expected = format!("the keys \"0\" to \"{}\" for {count} labels", count - 1);
            return wrong("id2label".into(), &expected, format!("{id:?}"));
        };
        *slot = Some(label.clone());
    }
    let mut seen = BTreeMap::new();
    for (id, label) in labels.iter().enumerate() {
        let Some(label) = label else {
            let found = format!("no {id}, and another one twice");
            return wrong("id2label".into(), "every position once", found);
        };
        if let Some(first) = seen.insert(label, id) {
            let found = format!("{label:?}, which is also the label of {first}");
            return wrong(format!("id2label.{id}"), "a label of its own", found);
        }
    }
    Ok(labels.into_iter().flatten().collect())
}
