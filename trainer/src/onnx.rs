//! Networks as ONNX files: the format's protobuf types and a small graph writer.

mod cut;
mod graph;
#[rustfmt::skip]
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod proto;

pub use cut::Backbone;
pub use graph::{Attribute, Dim, ElementType, Graph, IR_VERSION, Model, OPSET_VERSION, metadata};
