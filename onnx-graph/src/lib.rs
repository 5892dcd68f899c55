//! ONNX files without a runtime: read, build and cut them.
//!
//! * [`Outline`] reads the inputs and operators of a graph and skips its weights.
//! * [`GraphBuilder`] builds a graph, [`ModelFile`] writes it.
//! * [`Backbone`] cuts the last dense layer off a classifier and puts another one in its place.
//! * [`proto`] has the types of the whole format, generated from `onnx.proto` by
//!   `scripts/onnx-proto.sh`.
//!
//! ```
//! # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/digits/1/model.onnx");
//! let outline = onnx_graph::Outline::read(&std::fs::read(path)?)?;
//! assert_eq!(outline.inputs, ["pixel_values"]);
//! assert!(outline.convolutions > 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![warn(missing_docs)]

mod backbone;
mod builder;
mod error;
mod outline;
#[rustfmt::skip]
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod proto;

pub use backbone::Backbone;
pub use builder::{
    Attribute, Dim, ElementType, GraphBuilder, IR_VERSION, ModelFile, OPSET_VERSION, metadata,
};
pub use error::OnnxError;
pub use outline::Outline;
