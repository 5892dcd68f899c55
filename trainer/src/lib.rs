//! Makes the classifiers that classifyd serves: fetches the published data, trains, exports a model directory and
//! measures it through the `classifier` crate, the one that serves it.

pub mod onnx;
