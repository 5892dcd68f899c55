//! Batches single requests for a service that is cheaper by the batch.
//!
//! ```text
//! BatchService --push--> Queue (policy) <--take-- Worker --Batch--> inner service (a lane)
//!      ^                                            |
//!      +----------------- answer -------------------+
//! ```
//!
//! * Work-conserving: a [`Worker`] forms a batch when its inner service is ready, out of whatever waits then. A lone
//!   request never waits, unless [`Limits::max_wait`] asks it to.
//! * Several workers may share one queue, one for each lane. A worker is a plain future; a lane that blocks while it runs
//!   drives its worker on a thread of its own, so that a batch costs no hop between threads.
//! * A [`LentWorker`] lets callers run small batches on their own tasks while it is idle: for runs that take less than waking
//!   its thread does.
//! * A queue that is full refuses at once, instead of blocking: [`BatchService`] is always ready.
//! * Requests have a flow, which says whose they are: within a priority flows share equally, in batches and in a full queue.
//! * Requests have a priority and a bucket; a batch holds one bucket, see [`Priority`] and [`Submission`].
//! * Every request has an absolute deadline. One that expires is answered at its deadline whatever the workers do; it and
//!   one whose caller has gone are not computed. When every member of a running batch has gone, [`Batch::on_abandoned`]
//!   tells the inner service.
//!
//! Nothing here knows HTTP, models or ONNX Runtime.

#![warn(missing_docs)]

mod error;
mod fair;
mod future;
mod layer;
mod message;
mod policy;
mod service;
mod worker;

pub use error::{Error, Refusal};
pub use fair::{FairQueue, Flow};
pub use future::ResponseFuture;
pub use layer::BatchLayer;
pub use message::{Answer, Batch, Submission};
pub use policy::{Limits, Priority};
pub use service::{BatchService, GiveWay, Permit, Queue, QueueBuilder};
pub use worker::{LentWorker, Worker};

#[cfg(test)]
mod tests;
