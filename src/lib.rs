//! x
pub mod batch;
pub mod bench;
