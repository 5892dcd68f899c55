//! Runs ONNX image and text classifiers: from a model directory and the bytes of an input to labels
//! with scores.
//!
//! ```
//! # let models = concat!(env!("CARGO_MANIFEST_DIR"), "/../models");
//! # let image = std::fs::read(format!("{models}/digits/1/golden/7_0.png"))?;
//! # let directory = format!("{models}/digits/1");
//! let mut classifier = classifier::open(directory)?;
//! let prediction = classifier.classify_image(&image)?;
//! assert_eq!(prediction.best().label, "7");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # A model directory
//!
//! A classifier is a directory in the layout of Hugging Face Optimum: the graph (`model.onnx`), the
//! labels (`config.json`) and the preprocessing (`preprocessor_config.json` for images,
//! `tokenizer.json` for texts). Two more files are optional: `serving.toml` with settings for
//! running it, and `golden.json` with samples and the scores that their trainer recorded, which a
//! program can compare with its own. [`bundle`] describes every file.
//!
//! # The steps
//!
//! [`Classifier`] does all of this for one input at a time. A server that batches calls the steps
//! itself:
//!
//! 1. [`Bundle::open`] reads the directory and checks that its files are consistent.
//! 2. [`runtime::library::load`] loads ONNX Runtime, once per process.
//! 3. [`Session::load`] hands the graph to ONNX Runtime, on the device of [`SessionOptions`]. A
//!    session runs one batch at a time; several sessions can be made of one bundle.
//! 4. [`golden::Proof`] checks that a session reproduces the golden samples.
//! 5. [`Preprocessor::prepare`] turns the bytes of an input into a [`Row`]. For images from
//!    strangers, [`image::Header`] tells the memory that decoding takes before anything is decoded.
//! 6. [`Session::run`] runs a batch of rows. An [`Interrupt`](runtime::session::Interrupt) ends it
//!    from another thread.
//! 7. [`output::scores`] turns the outputs of each row into scores, and [`Prediction::from_scores`]
//!    into labels.
//!
//! ```
//! use classifier::{Bundle, ImageLimits, Prediction, Session, SessionOptions, output};
//!
//! # let models = concat!(env!("CARGO_MANIFEST_DIR"), "/../models");
//! # let directory = format!("{models}/digits/1");
//! classifier::runtime::library::load(None)?;
//! let bundle = Bundle::open(&directory)?;
//! let mut session = Session::load(&bundle, &SessionOptions::default())?;
//!
//! let mut rows = Vec::new();
//! for name in ["7_0", "3_30"] {
//!     let bytes = std::fs::read(format!("{directory}/golden/{name}.png"))?;
//!     rows.push(bundle.preprocessor.prepare(&bytes, &ImageLimits::default())?.row);
//! }
//! let outputs = session.run(rows.iter(), |_interrupt| {})?;
//! for (outputs, expected) in outputs.chunks(bundle.labels.len()).zip(["7", "3"]) {
//!     let scores = output::scores(outputs, bundle.activation)?;
//!     let prediction = Prediction::from_scores(&scores, &bundle.labels, 1);
//!     assert_eq!(prediction.best().label, expected);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # ONNX Runtime
//!
//! The crate loads the shared library of ONNX Runtime at run time and links nothing.
//! [`runtime::library::load`] says where it looks. The library sends telemetry to Microsoft unless
//! an environment variable is set before it is loaded, so `load` fails if the variable is not set;
//! [`runtime::environment::without_telemetry`] sets it.
//!
//! # Features
//!
//! | feature | default | adds |
//! |---|---|---|
//! | `text` | yes | text classifiers, through the `tokenizers` crate |
//! | `gpu` | yes | CUDA and TensorRT, and loading their libraries |
//!
//! Without a feature the API stays the same: opening a text classifier, or asking for a GPU, is
//! then an error.

#![warn(missing_docs)]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod bundle;
mod classifier;
mod device;
pub mod error;
mod files;
mod formats;
pub mod golden;
pub mod image;
mod input;
mod kind;
pub mod output;
pub mod runtime;
pub mod text;

pub use self::bundle::Bundle;
pub use self::classifier::{Classifier, open};
pub use self::device::{Device, DeviceOptions, Placement, Provider};
pub use self::error::{
    BundleError, ClassifierError, DeviceCure, DeviceError, GoldenError, ImageError, LibraryError, LoadError,
    RunError, TextError, WrongKind,
};
pub use self::image::ImageLimits;
pub use self::input::{Prepared, Preprocessor, Row};
pub use self::kind::InputKind;
pub use self::output::{LabelScore, Prediction};
pub use self::runtime::session::{Session, SessionOptions};
