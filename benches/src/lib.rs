//! What `make bench` needs: the two servers that classifyd is compared with, and the comparison.
//!
//! * `floor0` answers a fixed text: what HTTP alone costs with axum.
//! * `floor1` is the server that an engineer writes by hand in an afternoon: what batching, limits and metrics must not
//!   cost more than.
//! * `compare` runs them, classifyd and the peers under the same load, and writes `docs/performance.md`.

pub mod floor;
