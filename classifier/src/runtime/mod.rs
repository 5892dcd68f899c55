//! ONNX Runtime: finding and loading its library, and sessions that run graphs.

mod inputs;
pub mod library;
pub mod session;
