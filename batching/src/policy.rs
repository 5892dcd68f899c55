//! Who is admitted, and who goes into the next batch. Pure: it knows no threads, no wakers and no clock.

use std::time::Duration;

use tokio::time::Instant;

use super::Refusal;
use crate::fair::{FairQueue, Flow};

/// Limits of a queue and of the batches that are taken from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest weight of a batch, and so of a request.
    pub max_weight: u32,
    /// A batch that weighs this much takes no other request. 1 where batches are not faster than their members one by one: a
    /// small batch answers earlier.
    pub fill_weight: u32,
    /// Largest weight that waits in the queue.
    pub capacity: u32,
    /// How long a batch that is not full may wait for more, from when its first member was queued. Zero: not at all.
    pub max_wait: Duration,
    /// Largest weight of a batch that a caller runs on its own task, in a worker that has nothing to do, see
    /// [`LentWorker`](super::LentWorker). Zero: callers run nothing.
    pub caller_weight: u32,
}

/// Who goes first. Within a priority flows share equally, and within a flow it is whoever came first.
///
/// The order is strict: under lasting overload a low request waits until its deadline. In a full queue a request takes the
/// place of the youngest ones of a lower priority.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// After all others.
    Low,
    /// What a request has that does not say.
    #[default]
    Normal,
    /// Before all others.
    High,
}

impl Priority {
    /// How many of the lines, which begin with the first to go, hold what goes before or with this.
    pub(super) fn lines(self) -> usize {
        match self {
            Self::High => 1,
            Self::Normal => 2,
            Self::Low => 3,
        }
    }
}

/// How long the inner service takes, out of the runs so far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RunTimes {
    /// Seconds of a run for each unit of weight in it, and seconds of a whole run; moving averages.
    averages: Option<(f64, f64)>,
}

/// Weight of the latest run in the moving averages.
const LATEST: f64 = 0.1;

/// A queue is expected to need this much longer than its average: a request that is run and then expires is work for nothing,
/// while one that is refused can go to another server at once.
const CAUTION: f64 = 1.25;

impl RunTimes {
    pub(super) fn add(&mut self, ran: Duration, weight: u32) {
        let whole = ran.as_secs_f64();
        let unit = whole / f64::from(weight.max(1));
        let (old_unit, old_whole) = self.averages.unwrap_or((unit, whole));
        self.averages = Some((
            old_unit + LATEST * (unit - old_unit),
            old_whole + LATEST * (whole - old_whole),
        ));
    }

    /// How long a run of this weight takes.
    fn run(&self, weight: u32) -> Option<Duration> {
        let (unit, _) = self.averages?;
        Duration::try_from_secs_f64(unit * f64::from(weight) * CAUTION).ok()
    }

    /// How long a request takes from now on that has this weight before it, if `workers` share the work.
    fn expected(&self, weight_before: u32, workers: usize) -> Option<Duration> {
        let (unit, whole) = self.averages?;
        let seconds = unit * f64::from(weight_before) / workers.max(1) as f64 + whole;
        Duration::try_from_secs_f64(seconds * CAUTION).ok()
    }
}

/// A request that waits.
#[derive(Debug)]
pub(super) struct Waiting<M> {
    pub(super) id: u64,
    pub(super) weight: u32,
    pub(super) bucket: u32,
    pub(super) priority: Priority,
    pub(super) flow: Flow,
    pub(super) queued: Instant,
    pub(super) deadline: Instant,
    pub(super) message: M,
}

/// What a worker finds in the queue.
#[derive(Debug)]
pub(super) enum Taken<M> {
    /// Requests to run together, at least one.
    Batch(Vec<Waiting<M>>),
    /// More may come: look again at this time, or when a request is added.
    NotBefore(Instant),
    /// Nothing waits.
    Nothing,
}

/// Weight that was admitted and is yet to be queued.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ToCome {
    /// Of higher priorities.
    pub(super) higher: u32,
    /// Of the same priority.
    pub(super) same: u32,
    /// Of the same flow, whatever its priority.
    pub(super) own: u32,
    /// How many flows it is of.
    pub(super) flows: u32,
}

/// Requests by priority, and then so that flows share equally.
#[derive(Debug)]
pub(super) struct WaitingList<M> {
    limits: Limits,
    /// High, normal, low.
    lines: [FairQueue<Waiting<M>>; 3],
    pub(super) run_times: RunTimes,
}

impl<M> WaitingList<M> {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            lines: Default::default(),
            run_times: RunTimes::default(),
        }
    }

    /// Weight of all that waits.
    pub(super) fn weight(&self) -> u32 {
        self.lines.iter().map(FairQueue::weight).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lines.iter().all(FairQueue::is_empty)
    }

    /// Whether a request would be taken now that may take so long, if `workers` share the work.
    ///
    /// Where the queue is full, a flow that has less than an equal share of it is admitted all the same: when its request is queued, it
    /// takes the place of another flow's.
    pub(super) fn admit(
        &self,
        weight: u32,
        flow: Flow,
        to_come: ToCome,
        priority: Priority,
        timeout: Duration,
        workers: usize,
    ) -> Result<(), Refusal> {
        let capacity = self.limits.capacity;
        self.check(weight, flow, to_come, priority, timeout, workers)?;
        if self.up_to(priority) + to_come.higher + to_come.same + weight > capacity {
            let lines = &self.lines[..priority.lines()];
            let flows = lines.iter().map(|line| Self::flows_with(line, flow, to_come));
            let waiting: u32 = lines.iter().map(|line| line.weight_of(flow)).sum();
            if waiting + to_come.own + weight > capacity / flows.max().unwrap_or(1) {
                return Err(Refusal::Full { capacity });
            }
        }
        Ok(())
    }

    /// How many flows share a line, with this one; at least.
    fn flows_with(line: &FairQueue<Waiting<M>>, flow: Flow, to_come: ToCome) -> u32 {
        let waiting = line.flows() + u32::from(line.weight_of(flow) == 0);
        let admitted = to_come.flows + u32::from(to_come.own == 0);
        waiting.max(admitted)
    }

    /// Weight of what goes before or with this priority.
    fn up_to(&self, priority: Priority) -> u32 {
        self.lines[..priority.lines()].iter().map(FairQueue::weight).sum()
    }

    /// Whether it fits into a batch, and whether its turn would come in time.
    fn check(
        &self,
        weight: u32,
        flow: Flow,
        to_come: ToCome,
        priority: Priority,
        timeout: Duration,
        workers: usize,
    ) -> Result<(), Refusal> {
        let max_weight = self.limits.max_weight;
        if weight > max_weight {
            return Err(Refusal::TooLarge { weight, max_weight });
        }
        let line = &self.lines[priority.lines() - 1];
        let higher = self.up_to(priority) - line.weight() + to_come.higher;
        let same = line.weight() + to_come.same;
        if higher + same == 0 {
            // With nothing before it a request is always taken, whatever the averages say: they must be able to recover.
            return Ok(());
        }
        // No flow is served more before its turn than its own flow.
        let turn = line.backlog_of(flow) + u64::from(to_come.own) + u64::from(weight);
        let turns = turn * u64::from(Self::flows_with(line, flow, to_come));
        let same = same.min(u32::try_from(turns).unwrap_or(u32::MAX));
        match self.run_times.expected(higher + same + weight, workers) {
            Some(wait) if wait > timeout => Err(Refusal::TooLate { wait }),
            _ => Ok(()),
        }
    }

    /// Adds a request, or says why not. What it takes the place of is moved to `displaced`: in a full queue that is the youngest of
    /// the lowest priority, and within its own priority the newest of the flow that has most waiting, if its own flow has less than
    /// an equal share.
    pub(super) fn push(
        &mut self,
        waiting: Waiting<M>,
        workers: usize,
        displaced: &mut Vec<Waiting<M>>,
    ) -> Result<(), Refusal> {
        let Waiting {
            weight,
            flow,
            priority,
            ..
        } = waiting;
        let timeout = waiting.deadline.saturating_duration_since(waiting.queued);
        self.check(weight, flow, ToCome::default(), priority, timeout, workers)?;
        let capacity = self.limits.capacity;
        let own = priority.lines() - 1;
        let needed = (self.up_to(priority) + weight).saturating_sub(capacity);
        if needed > 0 && !self.lines[own].would_yield(needed, flow, weight) {
            return Err(Refusal::Full { capacity });
        }
        while self.weight() + weight > capacity {
            let Some(youngest) = self.lines[own..]
                .iter_mut()
                .rev()
                .find_map(FairQueue::remove_last)
            else {
                break;
            };
            displaced.push(youngest);
        }
        self.lines[own].push(flow, weight, waiting);
        Ok(())
    }

    /// Takes the requests for one batch: the first to go, and those of its bucket that fit beside it, in their order. None
    /// is added that would make the run outlast the deadline of another. Those whose deadline has passed are moved to
    /// `expired` instead. With `flush`, `max_wait` does not count.
    pub(super) fn take(&mut self, now: Instant, flush: bool, expired: &mut Vec<Waiting<M>>) -> Taken<M> {
        if !flush && let Some(at) = self.not_before(now) {
            return Taken::NotBefore(at);
        }
        self.take_up_to(self.limits.max_weight, now, expired)
    }

    /// A batch that a caller may run: nothing, if the first to go is too heavy for that.
    pub(super) fn take_for_caller(
        &mut self,
        now: Instant,
        expired: &mut Vec<Waiting<M>>,
    ) -> Option<Vec<Waiting<M>>> {
        match self.take_up_to(self.limits.caller_weight, now, expired) {
            Taken::Batch(batch) => Some(batch),
            Taken::NotBefore(_) | Taken::Nothing => None,
        }
    }

    fn take_up_to(&mut self, max_weight: u32, now: Instant, expired: &mut Vec<Waiting<M>>) -> Taken<M> {
        let fill_weight = self.limits.fill_weight.min(max_weight);
        let mut batch: Vec<Waiting<M>> = Vec::new();
        let mut weight = 0;
        let mut earliest = None;
        'lines: for line in &mut self.lines {
            let mut at = 0;
            while let Some(next) = line.get(at) {
                let is_expired = next.deadline <= now;
                if batch.is_empty() && !is_expired && next.weight > max_weight {
                    break 'lines;
                }
                if let Some(first) = batch.first()
                    && !is_expired
                {
                    if weight >= fill_weight {
                        break 'lines;
                    }
                    if first.bucket != next.bucket {
                        at += 1;
                        continue;
                    }
                    let earliest =
                        earliest.map_or(next.deadline, |earliest: Instant| earliest.min(next.deadline));
                    let outlasts = |run| now + run > earliest;
                    // Nobody of its own bucket may overtake it, or a heavy request would wait for ever.
                    if weight + next.weight > max_weight
                        || self.run_times.run(weight + next.weight).is_some_and(outlasts)
                    {
                        break 'lines;
                    }
                }
                if is_expired {
                    expired.extend(line.remove(at));
                } else {
                    let Some(next) = line.serve(at) else { break };
                    weight += next.weight;
                    earliest = Some(earliest.map_or(next.deadline, |earliest| earliest.min(next.deadline)));
                    batch.push(next);
                }
            }
        }
        if batch.is_empty() {
            Taken::Nothing
        } else {
            Taken::Batch(batch)
        }
    }

    /// When the oldest request has waited long enough, if that is still to come and there is no full batch.
    fn not_before(&self, now: Instant) -> Option<Instant> {
        if self.limits.max_wait.is_zero() || self.weight() >= self.limits.max_weight {
            return None;
        }
        // There are fewer than a batch holds.
        let waiting = self.lines.iter().flat_map(FairQueue::iter);
        let at = waiting.map(|waiting| waiting.queued).min()? + self.limits.max_wait;
        (at > now).then_some(at)
    }

    /// Takes out one request.
    pub(super) fn remove(&mut self, id: u64) -> Option<Waiting<M>> {
        self.lines.iter_mut().find_map(|line| {
            let at = line.iter().position(|waiting| waiting.id == id)?;
            line.remove(at)
        })
    }

    /// Takes out all.
    pub(super) fn drain(&mut self) -> Vec<Waiting<M>> {
        self.lines.iter_mut().flat_map(FairQueue::drain).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct List {
        waiting: WaitingList<&'static str>,
        start: Instant,
        next_id: u64,
    }

    /// What a test says of a request; the rest has defaults.
    struct Ask {
        weight: u32,
        timeout_ms: u64,
        bucket: u32,
        priority: Priority,
        flow: u64,
    }

    const ONE: Ask = Ask {
        weight: 1,
        timeout_ms: 1000,
        bucket: 0,
        priority: Priority::Normal,
        flow: 0,
    };

    fn weighing(weight: u32) -> Ask {
        Ask { weight, ..ONE }
    }

    fn of(priority: Priority) -> Ask {
        Ask { priority, ..ONE }
    }

    fn from(flow: u64) -> Ask {
        Ask { flow, ..ONE }
    }

    fn list(max_weight: u32, capacity: u32, max_wait_ms: u64) -> List {
        let limits = Limits {
            max_weight,
            fill_weight: max_weight,
            capacity,
            max_wait: Duration::from_millis(max_wait_ms),
            caller_weight: 0,
        };
        List {
            waiting: WaitingList::new(limits),
            start: Instant::now(),
            next_id: 0,
        }
    }

    impl List {
        /// Names of those that it displaced.
        fn push(&mut self, name: &'static str, ask: Ask) -> Result<Vec<&'static str>, Refusal> {
            let mut displaced = Vec::new();
            let waiting = Waiting {
                id: self.next_id,
                weight: ask.weight,
                bucket: ask.bucket,
                priority: ask.priority,
                flow: Flow(ask.flow),
                queued: self.start,
                deadline: self.start + Duration::from_millis(ask.timeout_ms),
                message: name,
            };
            self.next_id += 1;
            self.waiting.push(waiting, 1, &mut displaced)?;
            Ok(names(displaced))
        }

        /// Names of the batch, names of the expired.
        fn take(&mut self, after_ms: u64) -> (Vec<&'static str>, Vec<&'static str>) {
            let mut expired = Vec::new();
            let now = self.start + Duration::from_millis(after_ms);
            let batch = match self.waiting.take(now, false, &mut expired) {
                Taken::Batch(batch) => names(batch),
                Taken::NotBefore(_) | Taken::Nothing => Vec::new(),
            };
            (batch, names(expired))
        }
    }

    fn names(waiting: Vec<Waiting<&'static str>>) -> Vec<&'static str> {
        waiting.into_iter().map(|waiting| waiting.message).collect()
    }

    #[test]
    fn a_batch_is_as_full_as_its_weight_allows_and_keeps_the_order() {
        let mut list = list(4, 100, 0);
        for (name, weight) in [("a", 1), ("b", 2), ("c", 2), ("d", 1)] {
            list.push(name, weighing(weight)).unwrap();
        }
        // d would fit beside a and b, but must not overtake c.
        assert_eq!(list.take(0).0, ["a", "b"]);
        assert_eq!(list.take(0).0, ["c", "d"]);
        assert_eq!(list.waiting.weight(), 0);
    }

    #[test]
    fn what_can_never_fit_and_what_does_not_fit_now_are_refused() {
        let mut list = list(4, 6, 0);
        let too_large = Refusal::TooLarge {
            weight: 5,
            max_weight: 4,
        };
        assert_eq!(list.push("x", weighing(5)), Err(too_large));
        list.push("a", weighing(4)).unwrap();
        assert_eq!(list.push("x", weighing(3)), Err(Refusal::Full { capacity: 6 }));
        assert_eq!(list.push("b", weighing(2)), Ok(vec![]));
    }

    #[test]
    fn higher_priorities_go_first_and_each_in_its_order() {
        let mut list = list(2, 100, 0);
        for (name, priority) in [
            ("low 1", Priority::Low),
            ("normal 1", Priority::Normal),
            ("high 1", Priority::High),
            ("normal 2", Priority::Normal),
            ("high 2", Priority::High),
        ] {
            list.push(name, of(priority)).unwrap();
        }
        assert_eq!(list.take(0).0, ["high 1", "high 2"]);
        assert_eq!(list.take(0).0, ["normal 1", "normal 2"]);
        assert_eq!(list.take(0).0, ["low 1"]);
    }

    #[test]
    fn in_a_full_queue_the_youngest_of_the_lowest_priority_makes_room() {
        let mut list = list(4, 4, 0);
        for (name, priority) in [
            ("low 1", Priority::Low),
            ("low 2", Priority::Low),
            ("normal 1", Priority::Normal),
            ("normal 2", Priority::Normal),
        ] {
            list.push(name, of(priority)).unwrap();
        }
        let full = Err(Refusal::Full { capacity: 4 });
        assert_eq!(list.push("low 3", of(Priority::Low)), full);
        assert_eq!(list.push("normal 3", of(Priority::Normal)), Ok(vec!["low 2"]));
        let heavy = Ask {
            weight: 3,
            ..of(Priority::High)
        };
        assert_eq!(
            list.push("high", heavy),
            Ok(vec!["low 1", "normal 3", "normal 2"])
        );
        assert_eq!(
            list.push("high 2", weighing(4)),
            full,
            "nobody is displaced in vain"
        );
        assert_eq!(list.take(0).0, ["high", "normal 1"]);
    }

    #[test]
    fn what_would_expire_before_its_turn_is_refused() {
        let mut list = list(1, 100, 0);
        for _ in 0..50 {
            list.waiting.run_times.add(Duration::from_millis(100), 1);
        }
        let within = |timeout_ms| Ask { timeout_ms, ..ONE };
        list.push("first", within(1))
            .expect("nothing waits, so the averages do not count");
        // One before it, its own unit and its own run: 300 ms, and a quarter for caution.
        let refused = list.push("second", within(370)).unwrap_err();
        assert!(
            matches!(refused, Refusal::TooLate { wait } if wait > Duration::from_millis(370) && wait < Duration::from_millis(380)),
            "{refused}"
        );
        list.push("second", within(380)).unwrap();
        let high = Ask {
            priority: Priority::High,
            ..within(10)
        };
        list.push("high", high).expect("nothing waits before it");
    }

    #[test]
    fn a_batch_does_not_grow_until_it_outlasts_a_deadline() {
        let mut list = list(10, 100, 0);
        for _ in 0..50 {
            list.waiting.run_times.add(Duration::from_millis(100), 1);
        }
        for name in ["a", "b", "c"] {
            list.push(
                name,
                Ask {
                    timeout_ms: 600,
                    ..ONE
                },
            )
            .unwrap();
        }
        // 125 ms for each, with caution: after 300 ms two of them fit before the deadline.
        assert_eq!(list.take(300).0, ["a", "b"]);
        assert_eq!(
            list.take(590).0,
            ["c"],
            "the first to go is tried whatever the averages say"
        );
    }

    #[test]
    fn a_caller_takes_no_more_than_it_may_run() {
        let mut list = list(4, 100, 0);
        list.waiting.limits.caller_weight = 2;
        let take = |list: &mut List| {
            let mut expired = Vec::new();
            list.waiting.take_for_caller(list.start, &mut expired).map(names)
        };
        for (name, weight) in [("a", 1), ("b", 1), ("c", 1), ("heavy", 3), ("d", 1)] {
            list.push(name, weighing(weight)).unwrap();
        }
        assert_eq!(take(&mut list), Some(vec!["a", "b"]));
        assert_eq!(take(&mut list), Some(vec!["c"]));
        assert_eq!(
            take(&mut list),
            None,
            "the heavy one is a worker's, and nobody overtakes it"
        );
        assert_eq!(list.take(0).0, ["heavy", "d"]);
    }

    #[test]
    fn a_batch_is_filled_no_further_than_it_pays() {
        let mut list = list(4, 100, 0);
        list.waiting.limits.fill_weight = 1;
        for (name, weight) in [("a", 1), ("b", 3), ("c", 1)] {
            list.push(name, weighing(weight)).unwrap();
        }
        assert_eq!(list.take(0).0, ["a"]);
        assert_eq!(list.take(0).0, ["b"], "a request of several is not split");
        assert_eq!(list.take(0).0, ["c"]);
    }

    #[test]
    fn a_batch_holds_one_bucket_and_the_oldest_decides_which() {
        let mut list = list(3, 100, 0);
        for (name, bucket) in [("a", 64), ("b", 128), ("c", 64), ("d", 128), ("e", 64), ("f", 64)] {
            list.push(name, Ask { bucket, ..ONE }).unwrap();
        }
        assert_eq!(list.take(0).0, ["a", "c", "e"]);
        assert_eq!(list.take(0).0, ["b", "d"]);
        assert_eq!(list.take(0).0, ["f"]);
    }

    #[test]
    fn expired_requests_take_no_room_in_a_batch() {
        let mut list = list(2, 100, 0);
        let late = |weight, timeout_ms| Ask {
            weight,
            timeout_ms,
            ..ONE
        };
        list.push("late", late(2, 10)).unwrap();
        list.push("a", ONE).unwrap();
        list.push("later", late(1, 20)).unwrap();
        list.push("b", ONE).unwrap();
        assert_eq!(list.take(50), (vec!["a", "b"], vec!["late", "later"]));
    }

    #[test]
    fn max_wait_holds_a_batch_back_until_it_is_full_or_old() {
        let mut list = list(2, 100, 5);
        list.push("a", ONE).unwrap();
        let held = list.waiting.take(list.start, false, &mut Vec::new());
        assert!(matches!(held, Taken::NotBefore(at) if at == list.start + Duration::from_millis(5)));
        assert_eq!(list.take(5).0, ["a"], "old");
        list.push("b", ONE).unwrap();
        list.push("c", ONE).unwrap();
        assert_eq!(list.take(0).0, ["b", "c"], "full");
        list.push("d", ONE).unwrap();
        let flushed = list.waiting.take(list.start, true, &mut Vec::new());
        assert!(
            matches!(flushed, Taken::Batch(batch) if batch.len() == 1),
            "flushed"
        );
    }

    #[test]
    fn a_removed_request_gives_its_room_back() {
        let mut list = list(4, 4, 0);
        list.push("a", weighing(2)).unwrap();
        list.push("b", weighing(2)).unwrap();
        assert!(list.push("x", ONE).is_err());
        assert_eq!(list.waiting.remove(0).map(|waiting| waiting.message), Some("a"));
        assert_eq!(list.push("c", weighing(2)), Ok(vec![]));
        assert!(list.waiting.remove(0).is_none(), "once");
    }

    #[test]
    fn flows_share_the_batches_and_each_keeps_its_order() {
        let mut list = list(4, 100, 0);
        for name in ["a1", "a2", "a3", "a4", "a5", "a6"] {
            list.push(name, from(1)).unwrap();
        }
        list.push("b1", from(2)).unwrap();
        list.push("b2", from(2)).unwrap();
        assert_eq!(list.take(0).0, ["a1", "b1", "a2", "b2"]);
        assert_eq!(list.take(0).0, ["a3", "a4", "a5", "a6"]);
    }

    #[test]
    fn a_flow_comes_before_no_higher_priority() {
        let mut list = list(1, 100, 0);
        list.push(
            "a high 1",
            Ask {
                priority: Priority::High,
                ..from(1)
            },
        )
        .unwrap();
        list.push(
            "a high 2",
            Ask {
                priority: Priority::High,
                ..from(1)
            },
        )
        .unwrap();
        list.push("b", from(2)).unwrap();
        let order: Vec<_> = (0..3).flat_map(|_| list.take(0).0).collect();
        assert_eq!(order, ["a high 1", "a high 2", "b"]);
    }

    #[test]
    fn in_a_full_queue_a_flow_gets_its_share_from_the_largest() {
        let mut list = list(4, 4, 0);
        for name in ["a1", "a2", "a3", "a4"] {
            list.push(name, from(1)).unwrap();
        }
        let full = Err(Refusal::Full { capacity: 4 });
        assert_eq!(list.push("a5", from(1)), full);
        assert_eq!(list.push("b1", from(2)), Ok(vec!["a4"]));
        assert_eq!(list.push("b2", from(2)), Ok(vec!["a3"]));
        assert_eq!(list.push("b3", from(2)), full, "it has an equal share");
        assert_eq!(list.push("a6", from(1)), full, "so has the other");
        assert_eq!(list.take(0).0, ["a1", "b1", "a2", "b2"]);
    }

    #[test]
    fn a_flow_with_less_than_its_share_is_admitted_to_a_full_queue() {
        let mut list = list(4, 4, 0);
        for name in ["a1", "a2"] {
            list.push(name, from(1)).unwrap();
        }
        let admit = |flow, own, flows| {
            let to_come = ToCome {
                higher: 0,
                same: 2,
                own,
                flows,
            };
            let timeout = Duration::from_secs(1);
            list.waiting
                .admit(1, Flow(flow), to_come, Priority::Normal, timeout, 1)
        };
        assert_eq!(admit(2, 0, 1), Ok(()));
        assert_eq!(admit(2, 1, 2), Ok(()));
        assert_eq!(admit(2, 2, 2), Err(Refusal::Full { capacity: 4 }));
        assert_eq!(admit(1, 2, 1), Err(Refusal::Full { capacity: 4 }));
    }

    #[test]
    fn how_long_a_flow_waits_depends_on_its_own_backlog() {
        let mut list = list(1, 1000, 0);
        for _ in 0..50 {
            list.waiting.run_times.add(Duration::from_millis(10), 1);
        }
        for _ in 0..50 {
            list.push("a", from(1)).unwrap();
        }
        let soon = |flow| Ask {
            timeout_ms: 100,
            ..from(flow)
        };
        let refused = list.push("a late", soon(1)).unwrap_err();
        assert!(matches!(refused, Refusal::TooLate { .. }), "{refused}");
        list.push("b", soon(2)).unwrap();
    }
}
