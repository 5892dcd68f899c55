//! A classifier's graph without its last dense layer, and the same graph with another one.

mod constants;
mod external;
mod prune;
mod walk;

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::Path;

use prost::Message as _;
use prost::bytes::Bytes;

use self::walk::Walk;
use crate::builder::{Attribute, Dim, ElementType, metadata_props, tensor, value_info};
use crate::error::OnnxError;
use crate::proto::{GraphProto, ModelProto, NodeProto, OperatorSetIdProto};

/// From this version of the operator set on, `Gemm` broadcasts its bias without an attribute.
const OLDEST_OPSET: i64 = 7;

/// A classifier's graph up to the input of its last dense layer, for training another last layer.
///
/// The last dense layer is a `Gemm`, `MatMul` or 1 x 1 `Conv` with constant weights. It is found by
/// walking from the output towards the input. Operators on the way are handled in one of two ways:
///
/// * Those that belong to the scores (softmax, temperature, bias) are removed together with the
///   layer.
/// * Those that do not depend on the classes (pooling, reshaping, the mean over mirror images)
///   stay, and are applied to the features instead. The scores stay the same, because a dense layer
///   may follow a mean as well as precede it.
///
/// Clones share the memory of the weights.
#[derive(Debug, Clone)]
pub struct Backbone {
    model: ModelProto,
    /// Name of the value that the layer took, `[batch, width]`.
    features: String,
    width: usize,
    layer: String,
}

impl Backbone {
    /// Reads the file at `path` and cuts off the last dense layer before `output`, by default the
    /// graph's first output. Weights in files beside the model become part of it.
    ///
    /// # Errors
    ///
    /// Fails if a file cannot be read, if it is not an ONNX model, or if no such layer is found.
    pub fn read(path: &Path, output: Option<&str>) -> Result<Self, OnnxError> {
        let bytes = fs::read(path).map_err(|source| OnnxError::Read {
            path: path.to_path_buf(),
            source,
        })?;
        let mut model = ModelProto::decode(Bytes::from(bytes)).map_err(|source| OnnxError::Decode {
            path: path.to_path_buf(),
            source,
        })?;
        external::load(&mut model, path)?;
        Self::new(model, output).map_err(|problem| OnnxError::Cut {
            path: path.to_path_buf(),
            problem,
        })
    }

    fn new(mut model: ModelProto, output: Option<&str>) -> Result<Self, String> {
        let opset = model
            .opset_import
            .iter()
            .find(|opset| is_standard(opset.domain()))
            .map_or(1, OperatorSetIdProto::version);
        if opset < OLDEST_OPSET {
            return Err(format!(
                "expected operator set {OLDEST_OPSET} or newer, found {opset}"
            ));
        }
        let mut graph = model.graph.take().ok_or("expected a graph, found none")?;
        let output = match output {
            Some(name) => name.to_owned(),
            None => graph
                .output
                .first()
                .map(|output| output.name().to_owned())
                .ok_or("expected an output, found none")?,
        };
        let walk = Walk::new(&graph, &output)?;
        let features = walk.cut(&mut graph);
        prune::prune(&mut graph, &features)?;
        let features = name_features(&mut graph, features);
        model.graph = Some(graph);
        Ok(Self {
            model,
            features,
            width: walk.width,
            layer: walk.layer,
        })
    }

    /// Number of features per sample.
    pub fn width(&self) -> usize {
        self.width
    }

    /// A description of the layer that was cut off, such as ``Gemm `fc` of 512 features and 1000
    /// classes``.
    pub fn layer(&self) -> &str {
        &self.layer
    }

    /// The bytes of a model whose only output are the features, `float32 [batch, width]`.
    pub fn features(&self) -> Vec<u8> {
        let mut model = self.model.clone();
        if let Some(graph) = &mut model.graph {
            graph.output = vec![value_info(
                &self.features,
                ElementType::Float,
                &[Dim::BATCH, Dim::Fixed(self.width)],
            )];
        }
        model.encode_to_vec()
    }

    /// The bytes of a classifier with a new last layer, and the name of its output.
    ///
    /// `weights` has one row of [`Self::width`] numbers per class, `bias` one number per class.
    /// Entries of `metadata` replace those of the original file with the same key.
    ///
    /// # Errors
    ///
    /// Fails if the number of weights is not the number of classes times [`Self::width`].
    pub fn with_head(
        &self,
        weights: &[f32],
        bias: &[f32],
        description: &str,
        metadata: &BTreeMap<String, String>,
    ) -> Result<(Vec<u8>, String), OnnxError> {
        if weights.len() != bias.len() * self.width {
            return Err(OnnxError::Head {
                classes: bias.len(),
                width: self.width,
                found: weights.len(),
            });
        }
        let mut model = self.model.clone();
        let graph = model.graph.get_or_insert_default();
        let logits = self.push_head(graph, weights, bias);
        model.doc_string = Some(description.to_owned());
        model
            .metadata_props
            .retain(|pair| !metadata.contains_key(pair.key()));
        model.metadata_props.extend(metadata_props(metadata));
        Ok((model.encode_to_vec(), logits))
    }

    /// Adds a dense layer after the features and makes it the only output. Returns its name.
    fn push_head(&self, graph: &mut GraphProto, weights: &[f32], bias: &[f32]) -> String {
        let mut taken = names(graph);
        let mut unused = |wish: &str| {
            let name = unused_name(&taken, wish);
            taken.insert(name.clone());
            name
        };
        let (weight_name, bias_name, logits) = (unused("head.weight"), unused("head.bias"), unused("logits"));
        let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let classes = bias.len();
        let float = ElementType::Float;
        graph.initializer.extend([
            tensor(&weight_name, float, &[classes, self.width], bytes(weights)),
            tensor(&bias_name, float, &[classes], bytes(bias)),
        ]);
        graph.node.push(NodeProto {
            name: Some(format!("{logits}/Gemm")),
            op_type: Some("Gemm".to_owned()),
            input: vec![self.features.clone(), weight_name, bias_name],
            output: vec![logits.clone()],
            attribute: vec![Attribute::int("transB", 1).into()],
            ..NodeProto::default()
        });
        graph.output = vec![value_info(&logits, float, &[Dim::BATCH, Dim::Fixed(classes)])];
        logits
    }
}

/// Renames the value `value` to `features`, which frees the name that the scores had. Returns the
/// new name.
fn name_features(graph: &mut GraphProto, value: String) -> String {
    let name = unused_name(&names(graph), "features");
    let mut outputs = graph.node.iter_mut().flat_map(|node| &mut node.output);
    match outputs.find(|output| **output == value) {
        Some(output) => {
            output.clone_from(&name);
            name
        }
        // The layer took the graph's input directly.
        None => value,
    }
}

/// The names of all values.
fn names(graph: &GraphProto) -> HashSet<String> {
    let made = graph.node.iter().flat_map(|node| &node.output).cloned();
    let constants = graph
        .initializer
        .iter()
        .map(|constant| constant.name().to_owned());
    let inputs = graph.input.iter().map(|input| input.name().to_owned());
    made.chain(constants).chain(inputs).collect()
}

/// `wish`, with underscores appended until it is not in `taken`.
fn unused_name(taken: &HashSet<String>, wish: &str) -> String {
    let mut name = wish.to_owned();
    while taken.contains(&name) {
        name.push('_');
    }
    name
}

/// Whether a domain is that of ONNX's standard operators.
fn is_standard(domain: &str) -> bool {
    matches!(domain, "" | "ai.onnx")
}
