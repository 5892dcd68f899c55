use super::*;

struct List {
    waiting: WaitingList<&'static str>,
    start: Instant,
    next_id: u64,
}

/// What the tests vary about a request.
#[derive(Clone, Copy)]
struct Request {
    weight: u32,
    timeout_ms: u64,
    bucket: u32,
    priority: Priority,
    flow: u64,
}

const ONE: Request = Request {
    weight: 1,
    timeout_ms: 1000,
    bucket: 0,
    priority: Priority::Normal,
    flow: 0,
};

fn weighing(weight: u32) -> Request {
    Request { weight, ..ONE }
}

fn of(priority: Priority) -> Request {
    Request { priority, ..ONE }
}

fn from(flow: u64) -> Request {
    Request { flow, ..ONE }
}

fn list(max_weight: u32, capacity: u32, max_wait_ms: u64) -> List {
    let limits = Limits::new(max_weight, capacity).max_wait(Duration::from_millis(max_wait_ms));
    List {
        waiting: WaitingList::new(limits),
        start: Instant::now(),
        next_id: 0,
    }
}

impl List {
    /// Names of those that it displaced.
    fn push(&mut self, name: &'static str, request: Request) -> Result<Vec<&'static str>, Refusal> {
        let mut displaced = Vec::new();
        let waiting = Waiting {
            id: self.next_id,
            weight: request.weight,
            bucket: request.bucket,
            priority: request.priority,
            flow: Flow(request.flow),
            queued: self.start,
            deadline: self.start + Duration::from_millis(request.timeout_ms),
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
fn requests_that_never_fit_and_that_do_not_fit_now_are_refused() {
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
    let heavy = Request {
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
        "no request is displaced for one that is refused all the same"
    );
    assert_eq!(list.take(0).0, ["high", "normal 1"]);
}

#[test]
fn a_request_expected_to_expire_in_the_queue_is_refused() {
    let mut list = list(1, 100, 0);
    for _ in 0..50 {
        list.waiting.run_times.add(Duration::from_millis(100), 1);
    }
    let within = |timeout_ms| Request { timeout_ms, ..ONE };
    list.push("first", within(1))
        .expect("nothing waits, so the averages do not count");
    // One before it, its own unit and its own run: 300 ms, and a quarter for caution.
    let refused = list.push("second", within(370)).unwrap_err();
    assert!(
        matches!(refused, Refusal::TooLate { wait } if wait > Duration::from_millis(370) && wait < Duration::from_millis(380)),
        "{refused}"
    );
    list.push("second", within(380)).unwrap();
    let high = Request {
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
            Request {
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
        "the heavy request is left to a worker, and none overtakes it"
    );
    assert_eq!(list.take(0).0, ["heavy", "d"]);
}

#[test]
fn a_batch_is_filled_up_to_its_fill_weight() {
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
        list.push(name, Request { bucket, ..ONE }).unwrap();
    }
    assert_eq!(list.take(0).0, ["a", "c", "e"]);
    assert_eq!(list.take(0).0, ["b", "d"]);
    assert_eq!(list.take(0).0, ["f"]);
}

#[test]
fn expired_requests_take_no_room_in_a_batch() {
    let mut list = list(2, 100, 0);
    let late = |weight, timeout_ms| Request {
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
        Request {
            priority: Priority::High,
            ..from(1)
        },
    )
    .unwrap();
    list.push(
        "a high 2",
        Request {
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
        let reserved = Reserved {
            higher: 0,
            same: 2,
            own,
            flows,
        };
        let terms = Terms {
            weight: 1,
            flow: Flow(flow),
            priority: Priority::Normal,
            timeout: Duration::from_secs(1),
        };
        list.waiting.admit(terms, reserved, 1)
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
    let soon = |flow| Request {
        timeout_ms: 100,
        ..from(flow)
    };
    let refused = list.push("a late", soon(1)).unwrap_err();
    assert!(matches!(refused, Refusal::TooLate { .. }), "{refused}");
    list.push("b", soon(2)).unwrap();
}
