//! A load generator for HTTP/1.1 servers.
//!
//! [`Target`] builds requests once, [`run`] sends them over plain connections and reads the responses
//! on one thread, in a closed loop or at a fixed rate, and counts them in a [`Tally`]; [`Report`] shows
//! the results. It costs a fraction of the server's CPU time, so that both can share a machine.

#![warn(missing_docs)]

mod report;
mod response;
mod run;
mod schedule;
mod tally;
mod target;
mod usage;

#[cfg(test)]
mod tests;

pub use report::{Answered, Percentiles, Report, Step};
pub use response::{Malformed, Response, ResponseReader};
pub use run::{Arrivals, LoadSpec, Observer, Outcome, reachable, run};
pub use tally::{Answers, Ended, Failure, Latencies, Tally, Window};
pub use target::{RequestBody, Target, exchange, read_files};
pub use usage::{cpu, own_cpu};
