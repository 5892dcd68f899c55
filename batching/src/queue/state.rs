use std::sync::Arc;
use std::task::Waker;

use tokio::time::Instant;

use crate::caller_runs::{ForCallers, RunForCaller, SingleRuns};
use crate::message::{Abandonment, Message, ReplySender};
use crate::policy::{Waiting, WaitingList};
use crate::{Batch, Limits, Refusal};

/// What is under the lock of a queue.
pub(super) struct State<I, O, E> {
    pub(super) waiting: WaitingList<Message<I, O, E>>,
    pub(super) running: Vec<Running>,
    pub(super) single_runs: SingleRuns,
    /// Workers that found nothing to do. The last to become idle is at the end and is used first,
    /// because its data are still in a CPU's caches.
    pub(super) idle: Vec<Idle<I, O, E>>,
    pub(super) workers: usize,
    pub(super) next_id: u64,
    pub(super) is_closed: bool,
}

/// A worker that has nothing to do.
pub(crate) struct Idle<I, O, E> {
    pub(crate) worker: u64,
    pub(crate) waker: Waker,
    /// The worker itself, if callers may run batches in it.
    pub(crate) for_callers: Option<ForCallers<I, O, E>>,
}

/// A batch that the inner service has. Its members are the requests whose callers still wait.
pub(super) struct Running {
    pub(super) batch: u64,
    pub(super) members: Vec<u64>,
    pub(super) abandonment: Arc<Abandonment>,
}

/// A batch on its way to the inner service, and where its replies go.
pub(crate) struct Formed<I, O, E> {
    pub(crate) id: u64,
    pub(crate) batch: Batch<I>,
    /// One for each input of the batch, in the same order.
    pub(crate) recipients: Vec<Recipient<O, E>>,
}

pub(crate) struct Recipient<O, E> {
    pub(crate) reply: ReplySender<O, E>,
    pub(crate) queued: Instant,
}

/// What a worker is told to do.
pub(crate) enum Next<I, O, E> {
    Run(Formed<I, O, E>),
    Wait { until: Option<Instant> },
    Stop,
}

/// An idle worker that a caller has taken off the list, and the batch to run in it.
pub(crate) struct Claimed<I, O, E> {
    pub(crate) idle: Idle<I, O, E>,
    pub(crate) worker: Arc<dyn RunForCaller<I, O, E>>,
    pub(crate) batch: Formed<I, O, E>,
}

impl<I, O, E> State<I, O, E> {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            waiting: WaitingList::new(limits),
            running: Vec::new(),
            single_runs: SingleRuns::default(),
            idle: Vec::new(),
            workers: 0,
            next_id: 0,
            is_closed: false,
        }
    }

    pub(super) fn claim(&mut self, expired: &mut Vec<Waiting<Message<I, O, E>>>) -> Option<Claimed<I, O, E>> {
        let for_callers = |idle: &Idle<I, O, E>| idle.for_callers.as_ref()?.upgrade();
        let (at, worker) = self
            .idle
            .iter()
            .enumerate()
            .rev()
            .find_map(|(at, idle)| Some((at, for_callers(idle)?)))?;
        let batch = self.waiting.take_for_caller(Instant::now(), expired)?;
        self.single_runs.record(batch.len());
        Some(Claimed {
            idle: self.idle.remove(at),
            worker,
            batch: self.form(batch),
        })
    }

    pub(super) fn is_open(&self) -> Result<(), Refusal> {
        if self.is_closed {
            Err(Refusal::Closed)
        } else if self.workers == 0 {
            Err(Refusal::Unavailable)
        } else {
            Ok(())
        }
    }

    pub(super) fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(super) fn form(&mut self, requests: Vec<Waiting<Message<I, O, E>>>) -> Formed<I, O, E> {
        let id = self.take_id();
        let abandonment = Arc::new(Abandonment::default());
        self.running.push(Running {
            batch: id,
            members: requests.iter().map(|request| request.id).collect(),
            abandonment: Arc::clone(&abandonment),
        });
        let weight = requests.iter().map(|request| request.weight).sum();
        let mut inputs = Vec::with_capacity(requests.len());
        let mut recipients = Vec::with_capacity(requests.len());
        for request in requests {
            inputs.push(request.message.input);
            recipients.push(Recipient {
                reply: request.message.reply,
                queued: request.queued,
            });
        }
        let batch = Batch {
            inputs,
            weight,
            abandonment,
        };
        Formed {
            id,
            batch,
            recipients,
        }
    }
}
