//! The goals of a comparison.

use super::{CPU, Field, P50, Results, THROUGHPUT, round};
use crate::figures::comparison::Goal;
use crate::median;
use crate::setting::PEERS;

impl Results {
    /// The goals for which something was measured.
    pub(super) fn goals(&self) -> Vec<Goal> {
        let all = [
            self.goals_to_floor(),
            self.goals_to_raw(),
            self.goals_to_peers(),
            self.goals_alone(),
        ];
        all.into_iter().flatten().flatten().collect()
    }

    fn goals_to_floor(&self) -> Vec<Option<Goal>> {
        let to_floor = |load, connections, field| self.ratio_to_floor(load, connections, "classifyd", field);
        let mut goals = vec![
            at_least(
                "mlp, 64 connections: throughput to F1",
                1.1,
                to_floor("mlp", 64, THROUGHPUT),
            ),
            at_most(
                "mlp, 64 connections: CPU per request to F1",
                0.9,
                to_floor("mlp", 64, CPU),
            ),
            at_least(
                "mlp, 8 connections: throughput to F1",
                1.0,
                to_floor("mlp", 8, THROUGHPUT),
            ),
            at_most("mlp, 1 connection: p50 to F1", 1.2, to_floor("mlp", 1, P50)),
        ];
        goals.extend([64, 8, 1].map(|connections| {
            let plural = if connections == 1 { "" } else { "s" };
            let what = format!("digits, {connections} connection{plural}: throughput to F1");
            at_least(what, 1.0, to_floor("digits", connections, THROUGHPUT))
        }));
        goals.push(at_most(
            "digits, 1 connection: p50 to F1",
            1.1,
            to_floor("digits", 1, P50),
        ));
        goals
    }

    fn goals_to_raw(&self) -> Vec<Option<Goal>> {
        let spread = self
            .of("resnet18", 16, "classifyd")
            .map(|sample| sample.p99 / sample.p50);
        vec![
            at_least(
                "resnet18, 16 connections: throughput to ONNX Runtime on all cores, decoding included",
                0.95,
                self.ratio_to_raw("resnet18", 16, THROUGHPUT, |raw| raw.all_cores),
            ),
            at_most("resnet18, 16 connections: p99 to p50", 1.5, median(spread)),
            at_most(
                "resnet18, 1 connection: p50 to the fastest run and decoding",
                1.1,
                self.ratio_to_raw("resnet18", 1, P50, |raw| raw.fastest() + raw.decode_us),
            ),
        ]
    }

    fn goals_to_peers(&self) -> Vec<Option<Goal>> {
        let to_best = |load, connections, field, better| {
            let best = self.best_peer(load, connections, field, better)?;
            Some(self.median(load, connections, "classifyd", field)? / best)
        };
        let mut goals: Vec<_> = [("mlp", 64, 4.0), ("mlp", 8, 3.0), ("resnet18", 16, 1.1)]
            .map(|(load, connections, limit)| {
                let what = format!("{load}, {connections} connections: throughput to the best peer");
                at_least(what, limit, to_best(load, connections, THROUGHPUT, f64::max))
            })
            .into();
        let times_lower = to_best("mlp", 1, P50, f64::min).map(|ratio| 1.0 / ratio);
        goals.push(at_least(
            "mlp, 1 connection: p50 of the best peer to ours",
            3.0,
            times_lower,
        ));
        goals
    }

    fn goals_alone(&self) -> Vec<Option<Goal>> {
        let samples = || self.with("digits", "classifyd");
        let resident = samples().map(|sample| sample.resident).max();
        let mut goals = vec![
            at_most(
                "digits: start to ready, ms",
                300.0,
                median(samples().map(|sample| sample.ready_ms)),
            ),
            at_most(
                "digits: resident memory, MB",
                60.0,
                resident.map(|bytes| bytes as f64 / 1e6),
            ),
        ];
        for overload in &self.overloads {
            // A load that could not be sent says nothing about the server.
            if overload.unsent as f64 > 0.01 * overload.rate * overload.duration_s {
                continue;
            }
            let of = |what: &str| format!("{}, overload: {what}", overload.load);
            let part = overload.goodput / overload.capacity;
            goals.extend([
                at_least(of("successful responses to capacity"), 0.9, Some(part)),
                at_most(of("p99 of a refusal, ms"), 10.0, overload.refusal_p99_ms),
                at_most(
                    of("responses past their deadline"),
                    0.0,
                    Some(overload.late as f64),
                ),
            ]);
        }
        goals
    }

    fn best_peer(
        &self,
        load: &str,
        connections: usize,
        field: Field,
        better: fn(f64, f64) -> f64,
    ) -> Option<f64> {
        let peers = PEERS.iter();
        peers
            .filter_map(|peer| self.median(load, connections, peer, field))
            .reduce(better)
    }
}

fn at_least(what: impl Into<String>, limit: f64, measured: Option<f64>) -> Option<Goal> {
    let measured = measured?;
    Some(Goal {
        what: what.into(),
        at_least: true,
        limit,
        measured: round(measured, 2),
        reached: measured >= limit,
    })
}

fn at_most(what: impl Into<String>, limit: f64, measured: Option<f64>) -> Option<Goal> {
    Some(Goal {
        at_least: false,
        reached: measured? <= limit,
        ..at_least(what, limit, measured)?
    })
}
