//! One thread of the load generator: its connections, and the requests that it sends on them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::connection::Connection;
use crate::spec::{Arrivals, LoadSpec};
use crate::tally::{Ended, Tally, Window};

/// Pause of a connection after a failure, so that a server that is down is not called in a busy
/// loop.
const PAUSE: Duration = Duration::from_millis(10);

/// What the connections of a thread share.
#[derive(Debug, Clone)]
pub(crate) struct Worker {
    spec: LoadSpec,
    window: Window,
    tally: Arc<Mutex<Tally>>,
    /// Index of the next request; counts up and wraps around [`LoadSpec::requests`].
    next: Arc<AtomicU64>,
}

impl Worker {
    pub(crate) fn new(spec: LoadSpec, window: Window, tally: Arc<Mutex<Tally>>) -> Self {
        Self {
            spec,
            window,
            tally,
            next: Arc::default(),
        }
    }

    /// Sends requests until the end of the window, and waits for those under way. An open loop
    /// sends one for each of the `arrivals`.
    pub(crate) async fn run(self, connections: usize, arrivals: mpsc::UnboundedReceiver<Instant>) {
        match self.spec.arrivals {
            Arrivals::Closed { .. } => self.closed_loop(connections).await,
            Arrivals::Open { .. } => self.open_loop(connections, arrivals).await,
        }
    }

    async fn closed_loop(self, connections: usize) {
        let mut tasks = JoinSet::new();
        for _ in 0..connections {
            let worker = self.clone();
            tasks.spawn(async move {
                let mut connection = worker.connection();
                while Instant::now() < worker.window.end {
                    worker.send(&mut connection, None).await;
                }
            });
        }
        while tasks.join_next().await.is_some() {}
    }

    async fn open_loop(self, max_connections: usize, mut arrivals: mpsc::UnboundedReceiver<Instant>) {
        let pool = Arc::new(Mutex::new(Pool::default()));
        let mut tasks = JoinSet::new();
        while let Some(due) = arrivals.recv().await {
            let mut pooled = lock(&pool);
            // The most recently used connection first, so that no more are open than are needed.
            if let Some(idle) = pooled.idle.pop() {
                let _ = idle.send(due);
            } else if tasks.len() < max_connections {
                tasks.spawn(self.clone().serve_pool(Arc::clone(&pool), due));
            } else {
                pooled.backlog.push_back(due);
            }
            if Instant::now() >= self.window.end {
                break;
            }
        }
        let unsent = {
            let mut pooled = lock(&pool);
            pooled.over = true;
            pooled.idle.clear();
            std::mem::take(&mut pooled.backlog)
        };
        let mut count = unsent.iter().filter(|due| self.window.contains(**due)).count();
        while let Some(due) = arrivals.recv().await {
            count += usize::from(self.window.contains(due));
        }
        lock(&self.tally).unsent += count as u64;
        while tasks.join_next().await.is_some() {}
    }

    /// Sends the requests of a pool on one connection until the pool is over.
    async fn serve_pool(self, pool: Arc<Mutex<Pool>>, first: Instant) {
        let mut connection = self.connection();
        let mut due = first;
        loop {
            connection.drop_if_stale();
            self.send(&mut connection, Some(due)).await;
            let next = lock(&pool).next();
            due = match next {
                Next::Due(due) => due,
                Next::Wait(arrival) => match arrival.await {
                    Ok(due) => due,
                    Err(_) => return,
                },
                Next::Over => return,
            };
        }
    }

    fn connection(&self) -> Connection {
        Connection::new(self.spec.address, self.spec.timeout)
    }

    /// Sends the next request, waits until it ends and counts it. In a closed loop, where `due` is
    /// not given, a request is due when it is sent.
    async fn send(&self, connection: &mut Connection, due: Option<Instant>) {
        let requests = &self.spec.requests;
        let index = self.next.fetch_add(1, Ordering::Relaxed) as usize % requests.len();
        let request = &requests[index];
        let sent = Instant::now();
        let outcome = connection.exchange(request).await;
        let failed = outcome.is_err();
        let ended = Ended {
            due: due.unwrap_or(sent),
            sent,
            end: Instant::now(),
            bytes: request.len() as u64,
            outcome,
        };
        lock(&self.tally).record(&ended, &self.window, due.is_some());
        if failed {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// The connections of an open loop that wait for a request, or the requests that wait for one.
#[derive(Debug, Default)]
struct Pool {
    idle: Vec<oneshot::Sender<Instant>>,
    backlog: VecDeque<Instant>,
    over: bool,
}

/// What a connection of a pool does next.
enum Next {
    /// Sends a request that was due at this time.
    Due(Instant),
    /// Waits for a request.
    Wait(oneshot::Receiver<Instant>),
    Over,
}

impl Pool {
    fn next(&mut self) -> Next {
        if let Some(due) = self.backlog.pop_front() {
            return Next::Due(due);
        }
        if self.over {
            return Next::Over;
        }
        let (idle, arrival) = oneshot::channel();
        self.idle.push(idle);
        Next::Wait(arrival)
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
