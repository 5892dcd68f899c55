//! ONNX files: the protobuf types of the format, a builder for new graphs, and the classifier that is
//! left when the last layer of a graph is cut off. Nothing here runs a graph.

#![warn(missing_docs)]

mod backbone;
mod builder;
mod outline;
#[rustfmt::skip]
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod proto;

pub use backbone::Backbone;
pub use builder::{
    Attribute, Dim, ElementType, GraphBuilder, IR_VERSION, ModelFile, OPSET_VERSION, metadata,
};
pub use outline::Outline;
