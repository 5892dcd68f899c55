//! ONNX Runtime: finding and loading its library, and sessions that run graphs.

pub mod graph;
mod inputs;
pub mod library;
pub mod session;
