//! Tests of the real binary: started like an operator starts it, and used like a client uses it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod accuracy;
mod bodies;
mod busy;
mod clients;
mod commands;
mod connections;
mod decoding;
mod devices;
mod disconnected;
mod documents;
mod drain;
mod fairness;
mod figures;
mod harness;
mod healthcheck;
mod hostile;
mod hostile_images;
mod models_reload;
mod observability;
mod openapi;
mod overload;
mod pages;
mod privacy;
mod refusals;
mod responses;
mod security;
mod startup;
mod streams;
mod telemetry;
mod texts;
mod tls;
mod unreadable;
