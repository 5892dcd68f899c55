//! A load generator for HTTP/1.1 servers that runs on the server's own machine.
//!
//! It is the library behind `classifyd bench` and knows nothing of that server: it posts bytes to a
//! URL and measures the responses.
//!
//! * A [`Target`] builds requests, a [`LoadSpec`] says how they are sent, [`run`](fn@run) sends
//!   them and counts the responses in a [`Tally`], and a [`Report`] shows the results as a table or
//!   JSON.
//! * Requests are bytes that are built before a load starts, and responses are only read as far as
//!   needed (see [`ResponseReader`]), on one thread unless more are asked for. With 64 connections
//!   a request costs the load generator about 8.5 µs of CPU time, so both can share a machine.
//! * Load is sent in a *closed* loop, which finds the capacity of a server, or in an *open* loop at
//!   a fixed rate, which finds its latency under that rate. The latencies of an open loop count
//!   from the time a request was due, so they include the wait while the server stalls (they do not
//!   suffer from *coordinated omission*). See [`Arrivals`].
//!
//! ```no_run
//! use std::time::Duration;
//! use load::{Arrivals, LoadSpec, Target, run};
//!
//! let target = Target::parse("http://localhost:8080/v1/classify?model=digits")?;
//! let address = load::reachable(&target.addresses()?, Duration::from_secs(1))?;
//! let image = std::fs::read("7.png")?;
//! let spec = LoadSpec {
//!     arrivals: Arrivals::Open { rate: 500.0, max_connections: 64 },
//!     warmup: Duration::from_secs(2),
//!     ..LoadSpec::new(address, [target.post("image/png", &image)])
//! };
//! let outcome = run(&spec, &mut ())?;
//! let good = outcome.tally.good();
//! println!("{} errors, p99 {:.0} us", outcome.tally.errors(), good.latency.percentile(99.0));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![warn(missing_docs)]

mod connection;
mod error;
mod exchange;
mod files;
mod report;
mod response;
mod run;
mod schedule;
mod spec;
mod tally;
mod target;
mod usage;
mod worker;

#[cfg(test)]
mod tests;

pub use error::Error;
pub use exchange::{exchange, exchange_on, receive};
pub use files::{RequestBody, read_files};
pub use report::{Percentiles, Report, StatusReport, Step};
pub use response::{Malformed, Response, ResponseReader};
pub use run::{Observer, Outcome, reachable, run};
pub use spec::{Arrivals, LoadSpec};
pub use tally::{Failure, Latencies, StatusTally, Tally};
pub use target::Target;
pub use usage::own_cpu;
