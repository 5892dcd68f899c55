//! What `make bench` and the other measurements share.
//!
//! * `floor0` sends a fixed text for every request: the cost of HTTP with axum.
//! * `floor1` is the server that an engineer writes by hand in an afternoon. Batching, limits and
//!   metrics must not cost more than they save.
//! * `compare` runs them, classifyd and the peers ([`server`]) under the same loads ([`setting`]),
//!   and ONNX Runtime alone ([`raw`]). [`results`] turns the samples into [`figures`].
//! * `attack` sends files ([`evil`]) and requests that are made to hurt.
//! * `figures` renders the measured figures into the pages that show them.

use std::fmt::Display;

use load::Target;

mod cpu;
pub mod evil;
pub mod figures;
pub mod floor;
pub mod page;
pub mod process;
pub mod raw;
pub mod results;
pub mod server;
pub mod setting;

pub use cpu::CpuMeter;

/// A target that posts to `/v1/classify` of the server at `address`.
pub fn classify_target(address: impl Display, model: Option<&str>) -> Result<Target, load::Error> {
    let target = Target::parse(&address.to_string())?.with_default_path("/v1/classify");
    Ok(match model {
        Some(model) => target.with_query("model", model),
        None => target,
    })
}

/// The middle one of the values, or the mean of the two in the middle. `None` if there are no
/// values.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        length if length % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median([]), None);
    }
}
