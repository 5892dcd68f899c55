//! Batches single requests for a [tower] service that is cheaper by the batch, such as a neural
//! network.
//!
//! Callers submit one input at a time. Workers take what waits, run it as one batch in an *inner
//! service* that you write, and hand each caller its own output.
//!
//! ```text
//!   callers                                                       inner service
//!     |                                                                ^
//!     | Submission                                                     | Batch
//!     v                                                                |
//!  BatchService ----> Queue: admission, priorities, flows ----> Worker +
//!     ^                                                                |
//!     |                          BatchReply                            | Vec<Result<..>>
//!     +----------------------------------------------------------------+
//! ```
//!
//! # Example
//!
//! ```
//! use std::time::Duration;
//!
//! use batching::{Batch, BatchService, Limits, Submission};
//! use tower::{Service, ServiceExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // The inner service: takes a batch, returns one result for each input.
//! let squares = tower::service_fn(|batch: Batch<u64>| async move {
//!     let outputs = batch.inputs.iter().map(|n| n.checked_mul(*n).ok_or("too large"));
//!     Ok(outputs.collect::<Vec<_>>())
//! });
//!
//! // Batches of up to 32; at most 1,000 requests wait.
//! let (mut service, worker) = BatchService::pair(squares, Limits::new(32, 1_000));
//! tokio::spawn(worker);
//!
//! let submission = Submission::new(12).timeout(Duration::from_millis(100));
//! let reply = service.ready().await?.call(submission).await?;
//! assert_eq!(reply.output, 144);
//! # Ok(())
//! # }
//! ```
//!
//! # When a batch is formed
//!
//! A worker forms a batch when its inner service is *ready*, out of whatever waits at that moment.
//! The queue is work-conserving: a request that finds the inner service ready runs at once, alone.
//! While a batch runs, the requests that come meanwhile make the next one. Batches are small under
//! light load and large under heavy load without a timer to tune. [`Limits::max_wait`] exists for
//! inner services that gain more from larger batches than from starting early, such as a GPU; it is
//! zero by default.
//!
//! What an inner service says with [`poll_ready`](tower::Service::poll_ready) therefore matters: it
//! means "a batch could start now". A service that runs several batches at a time is ready until
//! that many run.
//!
//! # Weights, buckets, priorities and flows
//!
//! * A batch is limited by the sum of its requests' **weights**, not by their number. The weight is
//!   whatever costs the inner service: images, padded tokens.
//! * A batch holds requests of one **bucket** only, for inputs that do not run well together, such
//!   as texts of very different lengths.
//! * Requests of higher [`Priority`] go first.
//! * Requests of equal priority share the service equally between their [`Flow`]s, usually one for
//!   each client: a client with a thousand requests in the queue does not delay a client with one.
//!   See [`FairQueue`].
//!
//! # Overload
//!
//! [`BatchService`] is always ready and never makes a caller wait for room. A request is
//! [refused](Refusal) at once if the queue is full, or if it is expected to expire before it has
//! run, judging by how long runs took so far. In a full queue, a request of higher priority, or of
//! a flow with less than an equal share, displaces another one.
//!
//! A request can have a deadline. One that expires fails at its deadline, whatever the workers do,
//! and is not run. A caller that drops its [`ResponseFuture`] withdraws the request. When every
//! caller of a running batch has gone, the inner service can [hear of it](Batch::on_abandoned) and
//! stop.
//!
//! # Threads
//!
//! A [`Worker`] is a future. If the inner service is asynchronous, spawn the worker as a task;
//! [`BatchLayer`] does it for you. If the inner service blocks while it runs, drive each worker on
//! a thread of its own, for example with [`Handle::block_on`](tokio::runtime::Handle::block_on):
//! the batch is then formed, run and replied to on that thread. Several workers can share one
//! queue.
//!
//! For inner services whose batches take only microseconds, waking that thread costs more than the
//! run. A [`CallerRunsWorker`] lets callers run small batches on their own tasks while it is idle.
//! The source of `caller_runs.rs` documents this protocol, and how it is checked.
//!
//! # The runtime
//!
//! The crate needs tokio for timers and channels. A request with a deadline and a queue with
//! `max_wait` need a runtime whose time driver is enabled; nothing else needs a runtime at all.

#![warn(missing_docs)]

mod caller_runs;
mod error;
mod fair;
mod future;
mod inner;
mod layer;
mod limits;
mod message;
mod policy;
mod queue;
mod reservation;
mod service;
mod sync;
mod ticket;
mod worker;

pub use caller_runs::{CallerRunsWorker, GiveWay};
pub use error::{Error, Refusal};
pub use fair::{FairQueue, Flow};
pub use future::ResponseFuture;
pub use inner::InnerService;
pub use layer::BatchLayer;
pub use limits::{Limits, Priority};
pub use message::{Batch, BatchCallers, BatchReply, Submission};
pub use queue::{Queue, QueueBuilder};
pub use reservation::Reservation;
pub use service::BatchService;
pub use worker::Worker;

#[cfg(not(loom))]
#[cfg(test)]
mod tests;

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
