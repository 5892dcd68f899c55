//! Tests of classifyd with the programs that surround it in production. `make test-system` installs
//! and runs them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

#[path = "../server/busy.rs"]
mod busy;
mod clients;
#[path = "../server/documents.rs"]
mod documents;
#[allow(dead_code, reason = "the tests of the server use the rest of it")]
#[path = "../server/harness.rs"]
mod harness;
mod load_balancer;
mod pooling;
mod privacy;
mod prometheus;
