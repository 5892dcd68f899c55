//! What hostile loads cost the server, and what is expected.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::{table, thousands};

/// Largest memory of the server under any load, in MiB.
const MOST_MEMORY: u64 = 1024;
/// Longest wait of a probe and of a small request, in milliseconds.
const LONGEST_PROBE: u64 = 250;
const LONGEST_REQUEST: u64 = 1000;
/// Memory in MiB that the first load may add.
const MOST_ADDED: (&str, u64) = ("24 images of 28 bytes", 500);

/// The costs of all loads.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AttackFigures {
    pub cpus: usize,
    pub loads: Vec<Cost>,
}

/// What the server used under a load, and how long other clients waited meanwhile.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cost {
    pub name: String,
    /// Peak of the resident memory before the load and up to its end.
    pub before_mib: u64,
    pub peak_mib: u64,
    /// `/livez` on `admin_listen`.
    pub probe: Waits,
    /// A small request of another client.
    pub request: Waits,
    pub cpu_s: f64,
    pub threads_before: usize,
    pub threads: usize,
    /// Whether the server was still alive afterwards.
    pub alive: bool,
    /// The attacker's responses by status, as text.
    pub responses: String,
}

/// The requests that a client sends one after the other while a load runs.
#[derive(Debug, Default, Clone, Copy, Serialize, Deserialize)]
pub struct Waits {
    pub longest_ms: u64,
    pub sent: u64,
    /// Requests without a response of status 200.
    pub failed: u64,
}

impl AttackFigures {
    /// The table, for docs/threat-model.md.
    pub fn markdown(&self) -> String {
        let header = [
            "load",
            "memory",
            "added",
            "`/livez`",
            "a small request of another client",
            "CPU s",
            "threads",
            "alive",
            "responses",
        ];
        let mut text = format!(
            "Measured by `make attack` with the shipped models and `classifyd.toml`, {} CPUs, the server and its \
             clients on one machine, the attacker's threads at nice 10. Memory is the peak (`VmHWM`) in MiB, and how \
             much of it the load added. Waits are the longest, in milliseconds.\n\n{}\n\
             Goals of each load: alive, under {} MiB, `/livez` under {LONGEST_PROBE} ms, a small request \
             under {} ms; {} add under {} MiB. ",
            self.cpus,
            table(&header, 1..6, self.loads.iter().map(Cost::cells)),
            thousands(MOST_MEMORY as f64),
            thousands(LONGEST_REQUEST as f64),
            MOST_ADDED.0,
            MOST_ADDED.1,
        );
        let missed = self.missed();
        if missed.is_empty() {
            text.push_str("All are met.\n");
        } else {
            let _ = writeln!(text, "Not met:\n\n{}", missed.join("\n"));
        }
        text
    }

    /// The goals that were missed, as lines of a list.
    pub fn missed(&self) -> Vec<String> {
        self.loads.iter().flat_map(Cost::missed).collect()
    }
}

impl Cost {
    pub fn added_mib(&self) -> u64 {
        self.peak_mib.saturating_sub(self.before_mib)
    }

    /// The cells of its row.
    pub fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.peak_mib.to_string(),
            format!("+{}", self.added_mib()),
            self.probe.cell(),
            self.request.cell(),
            format!("{:.1}", self.cpu_s),
            format!("{} -> {}", self.threads_before, self.threads),
            if self.alive { "yes" } else { "**no**" }.to_owned(),
            self.responses.clone(),
        ]
    }

    fn missed(&self) -> Vec<String> {
        let mut missed = Vec::new();
        let mut expect = |held: bool, what: String| {
            if !held {
                missed.push(format!("* {}: {what}", self.name));
            }
        };
        expect(self.alive, "the server has ended".to_owned());
        expect(
            self.peak_mib < MOST_MEMORY,
            format!("expected less than {MOST_MEMORY} MiB, found {}", self.peak_mib),
        );
        let (name, most) = MOST_ADDED;
        expect(
            !self.name.starts_with(name) || self.added_mib() < most,
            format!("expected less than {most} MiB more, found {}", self.added_mib()),
        );
        for (what, waits, most) in [
            ("/livez", self.probe, LONGEST_PROBE),
            ("a small request", self.request, LONGEST_REQUEST),
        ] {
            let found = waits.longest_ms;
            expect(
                found < most,
                format!("{what}: expected a response within {most} ms, found {found} ms"),
            );
        }
        missed
    }
}

impl Waits {
    fn cell(self) -> String {
        match self.failed {
            0 => self.longest_ms.to_string(),
            failed => format!("{} ({failed} of {} failed)", self.longest_ms, self.sent),
        }
    }
}
