//! Tables that show some figures of a measurement on other pages.

use anyhow::{Context, Result};

use super::attack::AttackFigures;
use super::comparison::Comparison;
use super::{table, thousands};

/// Share of the CPUs that may be busy at the peak. See docs/operations.md.
const BUSY: f64 = 0.65;

/// The loads of the guide to sizing: name of the model, load, number of connections.
const SIZES: [(&str, &str, usize); 3] = [
    ("small MLP", "mlp", 64),
    ("`digits`", "digits", 64),
    ("ResNet-18, 224 x 224", "resnet18", 16),
];

/// The servers of README.md, from the fastest to the slowest.
const SERVERS: [(&str, &str); 7] = [
    ("classifyd", "classifyd"),
    ("hand-written axum server", "floor1"),
    ("mosec", "mosec"),
    ("FastAPI, uvicorn", "fastapi"),
    ("MLServer", "mlserver"),
    ("BentoML", "bentoml"),
    ("LitServe", "litserve"),
];

/// What takes memory, and the load that shows how much.
const MEMORY: [(&str, &str); 7] = [
    ("bodies", "64 uploads of 16 MiB that stop before the end"),
    ("bodies and decoding", "1,000 clients with a photo of 1.4 MB"),
    ("decoding", "32 connections x 8 images of 28 bytes"),
    ("texts", "60 texts of 205 KB without a blank, client gone"),
    ("bodies and reading", "12 x 15 MB of JSON, timeout_ms=1"),
    ("connections", "500 slow heads"),
    (
        "all of it, and 4,000 connections that each send 15 KB of a head",
        "all kinds of memory at once",
    ),
];

/// The guide to sizing, with a worked example.
pub(super) fn sizing(figures: &Comparison) -> Result<String> {
    let mut rows = Vec::new();
    let mut seconds = Vec::new();
    for (name, load, connections) in SIZES {
        let server = figures.server(load, connections, "classifyd").context(load)?;
        let start = figures.start(load, "classifyd").context(load)?;
        rows.push(vec![
            name.to_owned(),
            cpu_time(server.cpu_us),
            thousands(server.throughput),
            format!("{:.0} ms", start.ready_ms),
            format!("{:.0} MB", start.resident_mb),
        ]);
        seconds.push(server.cpu_us / 1e6);
    }
    let header = [
        "model",
        "CPU time per request",
        "responses/s on 2 cores",
        "start to ready",
        "memory after the load",
    ];
    Ok(format!(
        "{}\nSo 2,000 requests per second for `digits` take 2,000 x {:.4} ms / {BUSY} = {:.2} CPUs, and 100 per second \
         for ResNet-18 take {:.1}.\n",
        table(&header, 1..5, rows),
        seconds[1] * 1e3,
        2000.0 * seconds[1] / BUSY,
        100.0 * seconds[2] / BUSY,
    ))
}

/// What the kinds of memory add at most.
pub(super) fn memory(figures: &AttackFigures) -> Result<String> {
    let mut rows = Vec::new();
    for (what, load) in MEMORY {
        let cost = figures
            .loads
            .iter()
            .find(|cost| cost.name == load)
            .context(load)?;
        rows.push(vec![
            what.to_owned(),
            load.to_owned(),
            format!("{} MiB", cost.added_mib()),
        ]);
    }
    Ok(table(&["what", "load", "added"], 2..3, rows))
}

/// The comparison with other servers.
pub(super) fn servers(figures: &Comparison) -> Result<String> {
    let mut rows = Vec::new();
    for (name, server) in SERVERS {
        let find = |load, connections| figures.server(load, connections, server).context(server);
        let start = figures.start("mlp", server).context(server)?;
        rows.push(vec![
            name.to_owned(),
            thousands(find("mlp", 64)?.throughput),
            format!("{:.2} ms", find("mlp", 1)?.p50_ms),
            format!("{:.0}", find("resnet18", 16)?.throughput),
            format!("{:.1} ms", find("resnet18", 1)?.p50_ms),
            format!("{:.2} s", start.ready_ms / 1e3),
            format!("{:.0} MB", start.resident_mb),
        ]);
    }
    let header = [
        "server",
        "small network, 64 connections: responses/s",
        "one connection, p50",
        "ResNet-18, 16 connections: responses/s",
        "one connection, p50",
        "ready after",
        "memory",
    ];
    Ok(table(&header, 1..7, rows))
}

fn cpu_time(microseconds: f64) -> String {
    if microseconds < 1e3 {
        format!("{microseconds:.1} us")
    } else {
        format!("{:.1} ms", microseconds / 1e3)
    }
}
