//! Reads training and test data: published data sets, which it also fetches and verifies, and image
//! folders.

pub mod cifar10;
mod data_set;
pub mod fashion_mnist;
mod fetch_target;
pub mod files;
pub mod glove;
mod idx;
pub mod image_folder;
mod images;
pub mod imdb;
pub mod mnist;

pub use data_set::{DataSet, LoadedDataSet, check_classes};
pub use fetch_target::FetchTarget;
pub use files::{File, Sums};
pub use images::{Images, TestImages, sheet};
