//! classifyd serves ONNX classifiers over HTTP.
//!
//! The way of one request: [`http::server`] accepts the connection, [`http::observe`] gives the request an id,
//! [`http::classify`] reads it in one of three forms, [`model`] decodes its pictures or tokenises its texts (what is
//! small in place, the rest in [`cpu::Pool`]) and submits the rows to the model's [`batching`] queue; a lane of the [`engine`] takes what waits, runs
//! it, and answers; [`model`] turns outputs into scores, and [`http::classify`] writes them.
//!
//! | module | what it is for |
//! |---|---|
//! | [`cli`], [`config`] | what the operator says |
//! | [`startup`], [`listen`], [`shutdown`] | the order in which things come and go |
//! | [`catalog`], [`model`] | how models come to run, which there are now, and one of them |
//! | [`batching`] | the tower layer, a crate of its own; knows neither HTTP nor models |
//! | [`engine`] | threads that own sessions |
//! | [`cpu`] | how many CPUs there are, and the pool for decoding |
//! | [`http`] | what a client sees |
//! | [`repoll`] | keeps a connection on its thread |
//! | [`error`] | every reason for which a request can fail |
//! | [`metrics`], [`telemetry`], [`gpu`] | what the operator sees |
//! | [`reload`] | what SIGHUP changes |
//! | [`commands`], [`classify`], [`models`], [`check`], [`warm`], [`api_key`], [`shell`] | the commands that need no server |
//! | [`healthcheck`] | asks a running server whether it is ready |

pub mod api_key;
pub mod budget;
pub mod catalog;
pub mod check;
pub mod classify;
pub mod cli;
pub mod commands;
pub mod config;
pub mod cpu;
pub mod engine;
pub mod error;
pub mod fair;
mod fmt;
pub mod gpu;
pub mod healthcheck;
pub mod http;
pub mod listen;
pub mod metrics;
pub mod model;
pub mod models;
pub mod reload;
pub mod repoll;
pub mod shell;
pub mod shutdown;
pub mod startup;
mod table;
pub mod telemetry;
pub mod warm;

/// Compiles the program of docs/clients.md.
#[cfg(doctest)]
#[doc = include_str!("../docs/clients.md")]
struct Clients;
