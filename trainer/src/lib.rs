//! Makes the classifiers that classifyd serves: fetches the published data, trains, exports a model
//! directory and measures it through the `classifier` crate, the one that serves it.

pub mod augment;
pub mod cli;
pub mod data;
pub mod download;
pub mod evaluate;
pub mod export;
pub mod files;
pub mod folder;
pub mod network;
pub mod numbers;
pub mod optimizer;
pub mod parallel;
pub mod photo;
pub mod pipeline;
pub mod progress;
pub mod recipe;
pub mod report;
pub mod samples;
pub mod search;
pub mod sentiment;
pub mod training;
pub mod transform;
