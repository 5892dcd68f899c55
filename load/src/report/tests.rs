use std::time::{Duration, Instant};

use super::table::duration;
use super::{Report, Step};
use crate::response::Response;
use crate::run::Outcome;
use crate::spec::Arrivals;
use crate::tally::{Ended, Failure, Tally, Window};

fn step() -> Step {
    let start = Instant::now();
    let window = Window {
        start,
        end: start + Duration::from_secs(2),
    };
    let mut tally = Tally::default();
    let mut record = |microseconds: u64, outcome| {
        let ended = Ended {
            due: start,
            sent: start,
            end: start + Duration::from_micros(microseconds),
            bytes: 300,
            outcome,
        };
        tally.record(&ended, &window, false);
    };
    let response = |status| {
        Ok(Response {
            status,
            bytes: 200,
            reusable: true,
            body: bytes::Bytes::new(),
        })
    };
    for latency in 1..=1000 {
        record(latency, response(200));
    }
    record(3000, response(503));
    record(4000, Err(Failure::Closed));
    let outcome = Outcome {
        tally,
        measured: Duration::from_secs(2),
        interrupted: false,
    };
    let cpu = Some(Duration::from_millis(10));
    let mut step = Step::new(Arrivals::Closed { connections: 8 }, &outcome, cpu);
    step.mean_batch_size = Some(4.0);
    step
}

fn report() -> Report {
    Report {
        url: "http://h/v1/classify".into(),
        inputs: 1,
        warmup_s: 1.0,
        timeout_s: 30.0,
        threads: 1,
        interrupted: false,
        steps: vec![step()],
    }
}

#[test]
fn a_step_sums_up_the_tally() {
    let step = step();
    assert_eq!((step.requests, step.errors()), (1002, 2));
    assert!((step.throughput - 500.0).abs() < 1e-9);
    let latency = step.latency.unwrap();
    assert!(
        (latency.p50 - 500.0).abs() < 1.0 && (latency.p999 - 999.0).abs() < 2.0,
        "{latency:?}"
    );
    assert!((step.client_cpu_us.unwrap() - 10_000.0 / 1001.0).abs() < 1e-9);
}

#[test]
fn the_table_has_a_row_for_each_step() {
    let table = report().table();
    let lines: Vec<Vec<&str>> = table
        .lines()
        .map(|line| {
            line.split("  ")
                .map(str::trim)
                .filter(|cell| !cell.is_empty())
                .collect()
        })
        .collect();
    assert_eq!(lines[0][..3], ["load", "responses/s", "p50"]);
    assert_eq!(lines[1][..3], ["8 conn", "500.0", "500 us"]);
    assert!(table.contains("503: 1, closed: 1"), "{table}");
    assert!(table.contains("status 503 took 3.00 ms (p50)"), "{table}");
}

#[test]
fn json_names_the_percentiles() {
    let json = serde_json::to_value(report()).unwrap();
    let step = &json["steps"][0];
    assert!(step["latency"]["p99.9"].as_f64().unwrap() > 990.0, "{json}");
    assert_eq!(step["statuses"]["503"]["count"], 1);
    assert_eq!(step["failures"]["closed"], 1);
    assert!(step.get("rate").is_none() && step.get("mean_queue_us").is_none());
}

#[test]
fn a_duration_is_shown_in_the_unit_that_reads_best() {
    assert_eq!(duration(80.4), "80 us");
    assert_eq!(duration(1234.0), "1.23 ms");
    assert_eq!(duration(2_500_000.0), "2.50 s");
}
