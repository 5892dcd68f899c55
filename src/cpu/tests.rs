use std::sync::mpsc;

use tokio_test::{assert_pending, task};

use super::*;

fn memory(memory: u64) -> Cost {
    Cost { work: 0, memory }
}

fn workers(cpus: usize) -> Workers {
    Workers::start(cpus, 1000).unwrap()
}

/// Work that reports when it has begun and runs until it is released.
fn held() -> (impl FnOnce() -> bool + Send, mpsc::Sender<()>, mpsc::Receiver<()>) {
    let (release, released) = mpsc::channel::<()>();
    let (started, is_started) = mpsc::channel();
    let work = move || {
        let _ = started.send(());
        released.recv().is_ok()
    };
    (work, release, is_started)
}

fn wait(begun: &mpsc::Receiver<()>) {
    begun.recv_timeout(Duration::from_secs(20)).unwrap();
}

async fn wait_for(workers: &Workers, found: impl Fn(Usage) -> bool) {
    let started = std::time::Instant::now();
    while !found(workers.usage()) {
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "{:?}",
            workers.usage()
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn work_beyond_the_limit_is_refused_and_the_pool_keeps_working() {
    let pool = workers(1).pool(1);
    let (work, release, begun) = held();
    let mut first = task::spawn(pool.run(work));
    assert_pending!(first.poll());
    wait(&begun);
    let mut second = task::spawn(pool.run(|| 2));
    assert_pending!(second.poll());
    assert_eq!(pool.run(|| 3).await, Err(PoolError::Full));
    release.send(()).unwrap();
    assert_eq!(first.await, Ok(true));
    assert_eq!(second.await, Ok(2));
    assert_eq!(pool.run(|| 4).await, Ok(4));
}

#[tokio::test]
async fn a_panic_fails_only_its_own_work() {
    let pool = workers(1).pool(1);
    assert_eq!(
        pool.run(|| panic!("asked to panic")).await,
        Err::<(), _>(PoolError::Panicked)
    );
    assert_eq!(pool.run(|| 1).await, Ok(1));
}

#[tokio::test]
async fn waiting_work_is_withdrawn_when_its_caller_is_dropped() {
    let pool = workers(1).pool(1);
    let (work, release, begun) = held();
    let mut first = task::spawn(pool.run(work));
    assert_pending!(first.poll());
    wait(&begun);
    let mut gone = task::spawn(pool.run(|| panic!("nobody waits for this")));
    assert_pending!(gone.poll());
    drop(gone);
    let mut next = task::spawn(pool.run(|| 1));
    assert_pending!(next.poll());
    release.send(()).unwrap();
    assert_eq!(next.await, Ok(1));
}

#[tokio::test]
async fn running_work_keeps_its_thread_and_memory_when_its_caller_is_dropped() {
    let workers = workers(1);
    let pool = workers.pool(8);
    let (work, release, begun) = held();
    let mut gone = task::spawn(pool.run_at(memory(600), work));
    assert_pending!(gone.poll());
    wait(&begun);
    drop(gone);
    let mut next = task::spawn(pool.run_at(memory(600), || 1));
    assert_pending!(next.poll());
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_pending!(next.poll());
    let usage = Usage {
        running: 1,
        waiting: 1,
        memory: 600,
        memory_limit: 1000,
    };
    assert_eq!(workers.usage(), usage);
    release.send(()).unwrap();
    assert_eq!(next.await, Ok(1));
    wait_for(&workers, |usage| usage.running == 0 && usage.memory == 0).await;
}

#[tokio::test]
async fn a_pool_that_uses_all_cpus_does_not_block_the_others() {
    let workers = workers(2);
    let (busy, other) = (workers.pool(8), workers.pool(8));
    let held: Vec<_> = (0..4).map(|_| held()).collect();
    let mut releases = Vec::new();
    let mut running = Vec::new();
    for (work, release, _begun) in held {
        let mut one = task::spawn(busy.run(work));
        assert_pending!(one.poll());
        running.push(one);
        releases.push(release);
    }
    wait_for(&workers, |usage| usage.running == 2 && usage.waiting == 2).await;
    assert_eq!(other.run(|| 1).await, Ok(1));
    for release in &releases {
        release.send(()).unwrap();
    }
    for one in running {
        assert_eq!(one.await, Ok(true));
    }
}

#[tokio::test]
async fn work_that_waits_for_memory_is_not_overtaken_by_work_that_needs_memory() {
    let workers = workers(4);
    let (one, other) = (workers.pool(8), workers.pool(8));
    let (work, release, begun) = held();
    let mut first = task::spawn(other.run_at(memory(600), work));
    assert_pending!(first.poll());
    wait(&begun);
    let mut large = task::spawn(one.run_at(memory(1000), || 1));
    assert_pending!(large.poll());
    let mut small = task::spawn(other.run_at(memory(10), || 2));
    assert_pending!(small.poll());
    // Work that needs no memory may pass.
    assert_eq!(workers.pool(8).run(|| 3).await, Ok(3));
    wait_for(&workers, |usage| usage.running == 1).await;
    assert_eq!(workers.usage().waiting, 2);
    release.send(()).unwrap();
    assert_eq!(first.await, Ok(true));
    assert_eq!(large.await, Ok(1));
    assert_eq!(small.await, Ok(2));
    let too_large = PoolError::TooLarge {
        memory: 1001,
        limit: 1000,
    };
    assert_eq!(one.run_at(memory(1001), || 4).await, Err(too_large));
}

#[tokio::test]
async fn work_that_would_miss_its_deadline_is_refused_at_once() {
    let workers = workers(1);
    let pool = workers.pool(8);
    let work = |work: u64| Cost { work, memory: 0 };
    let within = |seconds: u64| tokio::time::Instant::now() + Duration::from_secs(seconds);
    // A thousand units take about 5 ms.
    let slow = || std::thread::sleep(Duration::from_millis(500));
    pool.run_at(work(100_000), slow).await.unwrap();
    let nothing_waits = pool.admit(&[work(10_000_000)], within(1));
    let (held, release, begun) = held();
    let mut first = task::spawn(pool.run_at(work(10_000_000), held));
    assert_pending!(first.poll());
    wait(&begun);
    let late = pool.admit(&[work(10)], within(30)).unwrap_err();
    assert!(
        matches!(late, PoolError::Late { wait } if wait >= Duration::from_secs(50)),
        "{late:?}"
    );
    assert!(pool.admit(&[work(10)], within(6000)).is_ok());
    // Another pool has a pace of its own.
    assert!(workers.pool(8).admit(&[work(10)], within(1)).is_ok());
    release.send(()).unwrap();
    first.await.unwrap();
    drop(nothing_waits);
    assert!(pool.admit(&[work(10)], within(1)).is_ok());
}
