//! Lets clients take turns before a model's queue.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use batching::{FairQueue, Flow};
use tokio::sync::oneshot;

/// Lets so many requests work at a time, in turns between their flows; any number as long as they are all of one flow.
///
/// Work that is ready waits in the runtime's queue of tasks, in which each connection has its turn, and so a client with a thousand
/// connections a thousand turns. Where clients meet, requests wait here instead.
#[derive(Debug)]
pub struct Turns {
    most: u32,
    state: Mutex<TurnsState>,
}

#[derive(Debug, Default)]
struct TurnsState {
    working: u32,
    waiting: FairQueue<Waiter>,
    next_id: u64,
    /// Whose request came last.
    latest: Flow,
    /// When the latest request came that was of another flow than the one before.
    met: Option<Instant>,
}

#[derive(Debug)]
struct Waiter {
    id: u64,
    granted: oneshot::Sender<()>,
}

/// For so long after two flows have met, they share.
const SHARES_FOR: Duration = Duration::from_secs(1);

impl Turns {
    /// At most so many work at a time where flows share.
    pub fn new(most: u32) -> Self {
        Self {
            most,
            state: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, TurnsState> {
        // Every change under it is complete.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the turn of a request of this flow, which lasts until the answer is dropped.
    pub async fn wait(&self, flow: Flow, weight: u32) -> Turn<'_> {
        let (id, granted) = {
            let mut state = self.lock();
            if flow != state.latest {
                state.latest = flow;
                state.met = Some(Instant::now());
            }
            if state.waiting.is_empty() && state.has_room(self.most) {
                state.working += 1;
                return Turn(self);
            }
            let (granted, is_granted) = oneshot::channel();
            let id = state.next_id;
            state.next_id += 1;
            state.waiting.push(flow, weight, Waiter { id, granted });
            (id, is_granted)
        };
        let mut waiting = Waiting {
            turns: self,
            id,
            granted,
            done: false,
        };
        // The sender is not dropped before it has sent.
        let _ = (&mut waiting.granted).await;
        waiting.done = true;
        Turn(self)
    }

    fn end(&self) {
        let mut state = self.lock();
        state.working -= 1;
        while !state.waiting.is_empty() && state.has_room(self.most) {
            let Some(next) = state.waiting.serve(0) else { break };
            state.working += 1;
            // Whoever has gone meanwhile ends the turn.
            let _ = next.granted.send(());
        }
    }
}

impl TurnsState {
    fn has_room(&self, most: u32) -> bool {
        self.working < most || self.met.is_none_or(|met| met.elapsed() > SHARES_FOR)
    }
}

/// A request that works.
#[derive(Debug)]
pub struct Turn<'a>(&'a Turns);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

struct Waiting<'a> {
    turns: &'a Turns,
    id: u64,
    granted: oneshot::Receiver<()>,
    done: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let mut state = self.turns.lock();
        let at = state.waiting.iter().position(|waiter| waiter.id == self.id);
        if let Some(at) = at {
            state.waiting.remove(at);
        } else {
            drop(state);
            self.turns.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;

    const A: Flow = Flow(1);
    const B: Flow = Flow(2);

    #[test]
    fn one_flow_works_as_much_as_it_likes() {
        let turns = Turns::new(2);
        let mut many: Vec<_> = (0..10).map(|_| task::spawn(turns.wait(Flow(0), 1))).collect();
        let working: Vec<_> = many.iter_mut().map(|one| assert_ready!(one.poll())).collect();
        assert_eq!(turns.lock().working, 10);
        drop(working);
        assert_eq!(turns.lock().working, 0);
    }

    #[test]
    fn where_flows_meet_they_take_turns() {
        let turns = Turns::new(2);
        let ask = |flow| task::spawn(turns.wait(flow, 1));
        let (mut a1, mut b0) = (ask(A), ask(B));
        let mut working = vec![assert_ready!(a1.poll()), assert_ready!(b0.poll())];
        let mut of_a: Vec<_> = (0..4).map(|_| ask(A)).collect();
        for one in &mut of_a {
            assert_pending!(one.poll());
        }
        let mut b1 = ask(B);
        assert_pending!(b1.poll());
        working.pop();
        let first = assert_ready!(of_a[0].poll());
        assert_pending!(b1.poll());
        drop(first);
        let of_b = assert_ready!(b1.poll());
        assert_pending!(of_a[1].poll());
        drop(of_b);
        assert!(of_a[1].is_woken());
    }

    #[test]
    fn who_has_gone_takes_no_turn() {
        let turns = Turns::new(1);
        let ask = |flow| task::spawn(turns.wait(flow, 1));
        let mut first = ask(A);
        let working = assert_ready!(first.poll());
        let (mut gone, mut granted, mut last) = (ask(B), ask(A), ask(B));
        for waiting in [&mut gone, &mut granted, &mut last] {
            assert_pending!(waiting.poll());
        }
        drop(gone);
        drop(working);
        drop(granted);
        drop(assert_ready!(last.poll()));
        let state = turns.lock();
        assert!(state.waiting.is_empty());
        assert_eq!(state.working, 0);
    }
}
