//! What `make bench` needs: the two servers that classifyd is compared with, and the comparison.
//!
//! * `floor0` answers a fixed text: what HTTP alone costs with axum.
//! * `floor1` is the server that an engineer writes by hand in an afternoon: what batching, limits and metrics must not
//!   cost more than.
//! * `compare` runs them, classifyd and the peers ([`server`]) under the same loads ([`setting`]), and ONNX Runtime alone
//!   ([`raw`]), and writes `docs/performance.md` ([`page`]).
//! * `attack` sends what is made to hurt ([`evil`]).

pub mod evil;
pub mod floor;
pub mod page;
pub mod raw;
pub mod server;
pub mod setting;

use std::fmt::Display;

use load::Target;

/// A target that posts to `/v1/classify` of the server at `address`.
pub fn classify_target(address: impl Display, model: Option<&str>) -> anyhow::Result<Target> {
    let target = Target::parse(&address.to_string())?.with_default_path("/v1/classify");
    Ok(match model {
        Some(model) => target.with_query("model", model),
        None => target,
    })
}

/// The middle one of the values, or the mean of the two in the middle; none of none.
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
