//! The program `classifyd`, which serves ONNX classifiers over HTTP. The library exists for
//! [`run`], which `src/main.rs` calls; everything else is private.
//!
//! A request takes this path. `http::server` accepts the connection, `http::observe` gives the
//! request an ID, and `http::classify` reads the body in one of three forms. `model` decodes the
//! images or tokenises the texts (short ones at once, the others on the threads of `cpu::Pool`) and
//! submits the rows to the model's queue, which is a service of the crate [`batching`]. A lane of
//! `engine` runs the next batch. `model` turns the outputs into scores, and `http::classify` writes
//! the response.
//!
//! | module | responsibility |
//! |---|---|
//! | `cli`, `config` | the command line; the configuration from file, environment and flags |
//! | `commands` | one file for each subcommand |
//! | `startup`, `listen`, `shutdown` | the order in which the server's parts start and stop |
//! | `catalog`, `model` | loading models, the set of loaded models, and one of them |
//! | `engine` | lanes: threads that own an ONNX Runtime session |
//! | `cpu`, `budget`, `fair` | how many CPUs there are, the pool for decoding, and memory limits |
//! | `http` | routes, middleware and connections |
//! | `repoll` | keeps a connection on its thread |
//! | `code` | the error codes of the API |
//! | `metrics`, `telemetry`, `gpu` | metrics, log lines and traces; memory of GPUs |
//! | `reload` | what SIGHUP changes |

#![allow(
    unreachable_pub,
    reason = "`pub` in a private module means: for the rest of the crate"
)]

mod budget;
mod catalog;
mod cli;
mod code;
mod commands;
mod config;
mod cpu;
mod cure;
mod engine;
mod fair;
mod fmt;
mod gpu;
mod http;
mod listen;
mod metrics;
mod model;
mod priority;
mod reload;
mod repoll;
mod shutdown;
mod startup;
mod table;
mod telemetry;

pub use commands::run;

/// What `fuzz/` feeds with input. Not an interface: it can change at any time.
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::budget::Budget;
    pub use crate::cpu::{Pool, Workers};
    pub use crate::http::payload;
}

/// Compiles the program of docs/clients.md.
#[cfg(doctest)]
#[doc = include_str!("../docs/clients.md")]
struct Clients;
