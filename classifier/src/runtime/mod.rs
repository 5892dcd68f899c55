//! ONNX Runtime: finding and loading its library, and sessions that run graphs.

mod elf;
pub mod environment;
mod gpu_libraries;
mod inputs;
pub mod library;
mod placement;
pub mod provider;
pub mod session;
