//! Constant load of small and large requests, and its outcome for clients.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use load::{Arrivals, LoadSpec, Tally, Target};

use crate::harness::{encode, root};

/// Rate of requests that fit into one buffer of HAProxy, so that it can retry them.
const SMALL_RATE: f64 = 300.0;

/// Rate of requests that do not fit.
const LARGE_RATE: f64 = 10.0;

/// The maximum number of connections with large requests, so of requests that one failure can hurt.
const LARGE_CONNECTIONS: usize = 8;

/// The load runs in pieces of this length until the scenario ends.
const PIECE: Duration = Duration::from_secs(5);

/// A client notices a longer wait.
const SLOW: Duration = Duration::from_secs(1);

/// An image of random colours, which does not compress well.
fn large_image() -> Vec<u8> {
    let mut state = 1_u32;
    let image = image::RgbImage::from_fn(180, 180, |_, _| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let [_, a, b, c] = state.to_le_bytes();
        image::Rgb([a, b, c])
    });
    encode(&image.into(), image::ImageFormat::Png)
}

/// The responses that clients got.
pub(super) struct Seen {
    pub(super) small: Tally,
    pub(super) large: Tally,
}

impl Seen {
    /// Sends requests until `scenario` has ended.
    pub(super) fn during(address: SocketAddr, scenario: impl FnOnce()) -> Self {
        let target = Target::parse(&format!("http://{address}/v1/classify?model=digits")).unwrap();
        let golden = root().join("models/digits/1/golden");
        let small = load::read_files(&[golden]).unwrap();
        let small = small
            .iter()
            .map(|input| target.post(input.content_type, &input.body));
        let large_body = large_image();
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
        // Runs the scenario under load, and observes a while afterwards.
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

/// Requests that were sent but got no response or a status other than 200. Requests that a slow
/// machine kept the load generator from sending do not count.
fn failed(tally: &Tally) -> u64 {
    tally.errors() - tally.unsent
}

/// Asserts that every request got a successful response.
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

/// Asserts that only requests too large to retry failed, and no more than can be in flight at once.
pub(super) fn only_large_ones_failed(seen: &Seen) {
    nothing_failed(&seen.small);
    let failed = failed(&seen.large);
    assert!(
        failed <= LARGE_CONNECTIONS as u64,
        "{failed} large requests failed"
    );
}
