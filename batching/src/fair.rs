use std::collections::VecDeque;

use foldhash::HashMap;

/// Who a request belongs to, for fairness: a number that stands for a client, an API key, an
/// address. Flows share the service equally.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Flow(pub u64);

/// A queue that shares the service equally between [`Flow`]s, in weight: start-time fair queueing.
///
/// Each entry has a *start tag*: how much service its flow has had when the entry is served.
/// Entries are kept and served in the order of their tags. A flow that becomes active starts at the
/// tag that was served last, so it owes nothing for the time in which it was idle, is owed nothing,
/// and is ahead of another flow's long backlog. Within a flow the order is that of arrival; with
/// one flow this is a plain queue.
///
/// With one flow, adding an entry and serving the first one take constant time. Adding an entry
/// that goes ahead of others takes time in proportion to their number.
///
/// ```
/// use batching::{FairQueue, Flow};
///
/// let mut queue = FairQueue::default();
/// for name in ["a1", "a2", "a3"] {
///     queue.push(Flow(1), 1, name);
/// }
/// queue.push(Flow(2), 1, "b1");
/// let served: Vec<_> = std::iter::from_fn(|| queue.serve(0)).collect();
/// assert_eq!(served, ["a1", "b1", "a2", "a3"]);
/// ```
///
/// The algorithm is that of Goyal, Vin and Cheng, "Start-time fair queueing", IEEE/ACM Transactions
/// on Networking 5(5), 1997.
#[derive(Debug)]
pub struct FairQueue<T> {
    entries: VecDeque<Entry<T>>,
    /// Of the flows that have an entry, and of those that had more service than others since the
    /// queue was empty.
    flows: HashMap<Flow, Share>,
    /// How many flows have an entry.
    active: u32,
    /// The largest start tag that was served.
    now: u64,
    weight: u32,
    /// Shares are looked through for ones to forget when there are this many.
    look_through_at: usize,
}

#[derive(Debug)]
struct Entry<T> {
    start: u64,
    flow: Flow,
    weight: u32,
    item: T,
}

#[derive(Debug, Default)]
struct Share {
    /// Start tag of its next entry, unless other flows have had more service.
    next: u64,
    /// Start tag of its newest entry.
    newest: u64,
    waiting: u32,
    entries: u32,
}

/// This many shares are kept without looking for ones to forget.
const FEW_SHARES: usize = 64;

/// Beyond this number the shares of all flows without an entry are forgotten.
const MOST_SHARES: usize = 8192;

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        Self {
            entries: VecDeque::new(),
            flows: HashMap::default(),
            active: 0,
            now: 0,
            weight: 0,
            look_through_at: FEW_SHARES,
        }
    }
}

impl<T> FairQueue<T> {
    /// Weight of all entries.
    pub fn weight(&self) -> u32 {
        self.weight
    }

    /// Weight of the entries of one flow.
    pub fn weight_of(&self, flow: Flow) -> u32 {
        self.flows.get(&flow).map_or(0, |share| share.waiting)
    }

    /// How many flows have an entry.
    pub fn flows(&self) -> u32 {
        self.active
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the queue has no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entry at this position. Position 0 is served next.
    pub fn get(&self, at: usize) -> Option<&T> {
        self.entries.get(at).map(|entry| &entry.item)
    }

    /// All entries in the order in which they will be served.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().map(|entry| &entry.item)
    }

    /// How much service the flow gets from now until an entry that is added now is served, in
    /// weight.
    pub fn backlog_of(&self, flow: Flow) -> u64 {
        self.start_of(flow) - self.now
    }

    fn start_of(&self, flow: Flow) -> u64 {
        let own = self.flows.get(&flow).map_or(0, |share| {
            // A removed entry must not let a new one overtake older entries of its flow.
            let newest = if share.entries > 0 { share.newest } else { 0 };
            share.next.max(newest)
        });
        own.max(self.now)
    }

    /// Adds an entry behind those of its flow.
    pub fn push(&mut self, flow: Flow, weight: u32, item: T) {
        let start = self.start_of(flow);
        if self.flows.len() >= self.look_through_at && !self.flows.contains_key(&flow) {
            self.forget();
        }
        let share = self.flows.entry(flow).or_default();
        share.next = start + u64::from(weight);
        share.newest = start;
        share.waiting += weight;
        share.entries += 1;
        if share.entries == 1 {
            self.active += 1;
        }
        self.weight += weight;
        let entry = Entry {
            start,
            flow,
            weight,
            item,
        };
        if self.entries.back().is_none_or(|last| last.start <= start) {
            self.entries.push_back(entry);
        } else {
            let at = self.entries.partition_point(|other| other.start <= start);
            self.entries.insert(at, entry);
        }
    }

    /// Takes out an entry to serve it: its weight counts as service of its flow.
    pub fn serve(&mut self, at: usize) -> Option<T> {
        let entry = self.take(at)?;
        self.now = self.now.max(entry.start);
        self.rest_if_empty();
        Some(entry.item)
    }

    /// Takes out an entry without serving it.
    pub fn remove(&mut self, at: usize) -> Option<T> {
        let entry = self.take(at)?;
        if let Some(share) = self.flows.get_mut(&entry.flow) {
            share.next = share.next.saturating_sub(u64::from(entry.weight));
        }
        self.rest_if_empty();
        Some(entry.item)
    }

    /// Takes out the last entry without serving it: the newest entry of the flow with the largest
    /// backlog.
    pub fn remove_last(&mut self) -> Option<T> {
        self.remove(self.entries.len().checked_sub(1)?)
    }

    /// Whether a new entry of this flow and weight may displace entries at the end that weigh
    /// `needed` together: each of them belongs to another flow and would be served after the new
    /// entry.
    pub fn would_yield(&self, needed: u32, flow: Flow, weight: u32) -> bool {
        let end = self.start_of(flow) + u64::from(weight);
        let mut yielded = 0;
        for entry in self.entries.iter().rev() {
            if yielded >= needed {
                break;
            }
            if entry.start < end || entry.flow == flow {
                return false;
            }
            yielded += entry.weight;
        }
        yielded >= needed
    }

    /// Takes out all entries without serving them.
    pub fn drain(&mut self) -> impl Iterator<Item = T> + use<T> {
        std::mem::take(self).entries.into_iter().map(|entry| entry.item)
    }

    fn take(&mut self, at: usize) -> Option<Entry<T>> {
        let entry = self.entries.remove(at)?;
        self.weight -= entry.weight;
        if let Some(share) = self.flows.get_mut(&entry.flow) {
            share.waiting -= entry.weight;
            share.entries -= 1;
            if share.entries == 0 {
                self.active -= 1;
            }
        }
        Some(entry)
    }

    /// An empty queue owes no flow anything.
    fn rest_if_empty(&mut self) {
        if self.entries.is_empty() {
            self.now = 0;
            if self.flows.len() > FEW_SHARES {
                self.flows = HashMap::default();
            } else {
                self.flows.clear();
            }
            self.look_through_at = FEW_SHARES;
        }
    }

    fn forget(&mut self) {
        let now = self.now;
        self.flows
            .retain(|_, share| share.entries > 0 || share.next > now);
        if self.flows.len() > MOST_SHARES {
            self.flows.retain(|_, share| share.entries > 0);
        }
        self.look_through_at = (2 * self.flows.len()).max(FEW_SHARES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Flow = Flow(1);
    const B: Flow = Flow(2);

    fn served(queue: &mut FairQueue<&'static str>) -> Vec<&'static str> {
        std::iter::from_fn(|| queue.serve(0)).collect()
    }

    #[test]
    fn one_flow_is_served_in_its_order() {
        let mut queue = FairQueue::default();
        for (name, weight) in [("1", 3), ("2", 1), ("3", 2)] {
            queue.push(A, weight, name);
        }
        assert_eq!(queue.remove(0), Some("1"));
        queue.push(A, 1, "4");
        assert_eq!(served(&mut queue), ["2", "3", "4"]);
    }

    #[test]
    fn flows_share_equally_however_much_each_has_waiting() {
        let mut queue = FairQueue::default();
        for name in ["a1", "a2", "a3", "a4"] {
            queue.push(A, 1, name);
        }
        queue.push(B, 1, "b1");
        queue.push(B, 1, "b2");
        assert_eq!(served(&mut queue), ["a1", "b1", "a2", "b2", "a3", "a4"]);
    }

    #[test]
    fn shares_are_counted_in_weight() {
        let mut queue = FairQueue::default();
        queue.push(A, 4, "a1");
        queue.push(A, 4, "a2");
        for name in ["b1", "b2", "b3", "b4", "b5"] {
            queue.push(B, 1, name);
        }
        assert_eq!(served(&mut queue), ["a1", "b1", "b2", "b3", "b4", "a2", "b5"]);
    }

    #[test]
    fn a_flow_with_one_entry_at_a_time_neither_waits_behind_a_backlog_nor_stops_it() {
        let mut queue = FairQueue::default();
        for _ in 0..100 {
            queue.push(A, 1, "a");
        }
        let mut order = Vec::new();
        for _ in 0..10 {
            if queue.weight_of(B) == 0 {
                queue.push(B, 1, "b");
            }
            order.extend(queue.serve(0));
        }
        let of_b = order.iter().filter(|name| **name == "b").count();
        assert!((4..=6).contains(&of_b), "{order:?}");
    }

    #[test]
    fn removing_entries_gains_a_flow_nothing() {
        let mut queue = FairQueue::default();
        for _ in 0..100 {
            queue.push(A, 1, "a");
        }
        let mut of_b = 0;
        for _ in 0..20 {
            queue.push(B, 1, "b");
            of_b += usize::from(queue.serve(0) == Some("b"));
            queue.push(B, 1, "taken back");
            let at = queue.iter().position(|name| *name == "taken back").unwrap();
            queue.remove(at);
        }
        assert!(of_b <= 11, "{of_b} of 20");
    }

    #[test]
    fn the_end_of_the_largest_backlog_yields() {
        let mut queue = FairQueue::default();
        for name in ["a1", "a2", "a3", "a4"] {
            queue.push(A, 1, name);
        }
        assert!(!queue.would_yield(1, A, 1), "its own");
        assert!(queue.would_yield(1, B, 1));
        assert!(queue.would_yield(2, B, 2));
        assert!(!queue.would_yield(3, B, 3), "more than an equal share");
        assert_eq!(queue.remove_last(), Some("a4"));
        queue.push(B, 1, "b1");
        queue.push(B, 1, "b2");
        assert!(!queue.would_yield(1, B, 1), "it has its share");
        assert_eq!(queue.flows(), 2);
        assert_eq!(
            (queue.weight(), queue.weight_of(A), queue.weight_of(B)),
            (5, 3, 2)
        );
    }

    #[test]
    fn flows_that_have_gone_are_forgotten() {
        let mut queue = FairQueue::default();
        queue.push(A, 1, "stays");
        for number in 10..100_000 {
            queue.push(Flow(number), 1, "goes");
            queue.serve(1);
        }
        assert!(queue.flows.len() <= 2 * MOST_SHARES + 1, "{}", queue.flows.len());
        queue.serve(0);
        assert!(queue.flows.is_empty());
    }
}
