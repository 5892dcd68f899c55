//! Constant load of small and large requests, and what its clients got.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use load::{Arrivals, LoadSpec, Tally, Target};

use crate::harness::{encode, root};

/// Requests per second that fit into one buffer of HAProxy, and so can be sent again.
const SMALL_RATE: f64 = 300.0;

/// Requests per second that do not.
const LARGE_RATE: f64 = 10.0;

/// Most connections with large requests. No accident can hurt more of them at once.
const LARGE_CONNECTIONS: usize = 8;

/// One piece of the load; it goes on, piece after piece, until the test has done what it wants to do.
const PIECE: Duration = Duration::from_secs(5);

/// Longer than that, and a client notices.
const SLOW: Duration = Duration::from_secs(1);

/// A picture in colours of which no two are alike, so that it does not get small by compression.
fn large_picture() -> Vec<u8> {
    let mut state = 1_u32;
    let picture = image::RgbImage::from_fn(180, 180, |_, _| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let [_, a, b, c] = state.to_le_bytes();
        image::Rgb([a, b, c])
    });
    encode(&picture.into(), image::ImageFormat::Png)
}

/// What the clients got.
pub(super) struct Seen {
    pub(super) small: Tally,
    pub(super) large: Tally,
}

impl Seen {
    /// Sends requests until `scenario` is through.
    pub(super) fn during(address: SocketAddr, scenario: impl FnOnce()) -> Self {
        let target = Target::parse(&format!("http://{address}/v1/classify?model=digits")).unwrap();
        let golden = root().join("models/digits/1/golden");
        let small = load::read_files(&[golden]).unwrap();
        let small = small
            .iter()
            .map(|input| target.post(input.content_type, &input.body));
        let large_body = large_picture();
        assert!(large_body.len() > 65536, "{} bytes", large_body.len());
        let plan = |requests, rate, max_connections| LoadSpec {
            address,
            requests,
            arrivals: Arrivals::Open {
                rate,
                max_connections,
            },
            warmup: Duration::ZERO,
            duration: PIECE,
            timeout: Duration::from_secs(20),
            threads: 1,
        };
        let small = plan(small.collect(), SMALL_RATE, 128);
        let large = plan(
            Arc::new([target.post("image/png", &large_body)]),
            LARGE_RATE,
            LARGE_CONNECTIONS,
        );
        let over = Arc::new(AtomicBool::new(false));
        let [small, large] = [small, large].map(|plan| {
            let over = Arc::clone(&over);
            thread::spawn(move || {
                let mut tally = Tally::default();
                while !over.load(Ordering::Acquire) {
                    tally.add(&load::run(&plan, &mut ()).unwrap().tally);
                }
                tally
            })
        });
        // Not before there is load, and not without a look at what comes after.
        thread::sleep(Duration::from_secs(1));
        scenario();
        thread::sleep(Duration::from_secs(1));
        over.store(true, Ordering::Release);
        let [small, large] = [small, large].map(|load| load.join().unwrap());
        Self { small, large }
    }

    pub(super) fn show(&self, title: &str) {
        let mut text = format!("\n{title}");
        for (name, tally) in [("small", &self.small), ("large", &self.large)] {
            let statuses: BTreeMap<_, _> = tally
                .statuses
                .iter()
                .map(|(status, answers)| (status, answers.latency.count()))
                .collect();
            let latency = tally.good().latency;
            let _ = write!(
                text,
                "\n  {name}: {} requests, {} failed, {} unsent, statuses {statuses:?}, without answer {:?}, p50 {:.1} ms, p99 {:.1} ms, \
                 slowest {:.0} ms, over {SLOW:?}: {}",
                tally.requests(),
                failed(tally),
                tally.unsent,
                tally.failures,
                latency.percentile(50.0) / 1e3,
                latency.percentile(99.0) / 1e3,
                latency.max() / 1e3,
                latency.longer_than(SLOW),
            );
        }
        eprintln!("{text}");
    }
}

/// Requests that were sent and got no answer, or another than status 200. Those that a slow machine kept the load generator
/// from sending are no failures of anybody.
fn failed(tally: &Tally) -> u64 {
    tally.errors() - tally.unsent
}

/// No client got anything but an answer.
pub(super) fn nothing_failed(tally: &Tally) {
    assert!(tally.good().latency.count() > 0);
    assert_eq!(
        failed(tally),
        0,
        "{:?}, {:?}",
        tally.statuses.keys(),
        tally.failures
    );
}

/// Only requests too large to be sent again may fail, and no more of them than can be on their way at once.
pub(super) fn only_large_ones_failed(seen: &Seen) {
    nothing_failed(&seen.small);
    let failed = failed(&seen.large);
    assert!(
        failed <= LARGE_CONNECTIONS as u64,
        "{failed} large requests failed"
    );
}
