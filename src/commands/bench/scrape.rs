//! The mean batch size and the mean time in the queue, from the server's metrics at both ends of a
//! measurement.
//!
//! The text format is parsed here because the crate prometheus-parse (0.2.5) splits labels at
//! commas, `=` and `}` inside of quotes, and would bring chrono into the server's binary.

use std::collections::HashMap;

/// Sum and count of a histogram.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Total {
    sum: f64,
    count: f64,
}

impl Total {
    /// Mean of the observations since `earlier`. `None` if there were none, or if the server was
    /// restarted in between.
    fn mean_since(self, earlier: Self) -> Option<f64> {
        let count = self.count - earlier.count;
        let sum = self.sum - earlier.sum;
        (count > 0.0 && sum >= 0.0).then(|| sum / count)
    }
}

/// The two histograms at one moment. Without a model, those of all models are added up.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Snapshot {
    batch_size: Total,
    queue: Total,
}

impl Snapshot {
    /// Parses a page in the Prometheus text format. Other metrics, and lines that cannot be parsed,
    /// are skipped.
    pub(super) fn parse(page: &str, model: Option<&str>) -> Self {
        let mut snapshot = Self::default();
        for (name, labels, value) in page.lines().filter_map(sample) {
            let is = |label: &str, wanted: &str| labels.get(label).is_some_and(|value| value == wanted);
            if model.is_some_and(|model| !is("model", model)) {
                continue;
            }
            match name {
                "classifyd_batch_size_sum" => snapshot.batch_size.sum += value,
                "classifyd_batch_size_count" => snapshot.batch_size.count += value,
                "classifyd_stage_duration_seconds_sum" if is("stage", "queue") => snapshot.queue.sum += value,
                "classifyd_stage_duration_seconds_count" if is("stage", "queue") => {
                    snapshot.queue.count += value;
                }
                _ => {}
            }
        }
        snapshot
    }

    pub(super) fn batch_size_since(&self, earlier: &Self) -> Option<f64> {
        self.batch_size.mean_since(earlier.batch_size)
    }

    pub(super) fn queue_seconds_since(&self, earlier: &Self) -> Option<f64> {
        self.queue.mean_since(earlier.queue)
    }
}

/// Name, labels and value of a line. `None` if it is a comment or cannot be parsed.
fn sample(line: &str) -> Option<(&str, HashMap<&str, String>, f64)> {
    let line = line.trim();
    if line.starts_with('#') {
        return None;
    }
    let end = line.find(|c: char| c == '{' || c.is_whitespace())?;
    let (name, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (HashMap::new(), rest),
    };
    // A timestamp may follow the value.
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some((name, labels, value))
}

/// The labels up to the closing brace, and the rest of the line.
fn labels(mut rest: &str) -> Option<(HashMap<&str, String>, &str)> {
    let mut labels = HashMap::new();
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, quoted) = rest.split_once('=')?;
        let quoted = quoted.trim_start().strip_prefix('"')?;
        let mut value = String::new();
        let mut characters = quoted.char_indices();
        loop {
            match characters.next()? {
                (at, '"') => {
                    rest = &quoted[at + 1..];
                    break;
                }
                (_, '\\') => value.push(match characters.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, other) => value.push(other),
            }
        }
        labels.insert(name.trim(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = r#"
# HELP classifyd_batch_size Inputs in a run.
# TYPE classifyd_batch_size histogram
classifyd_batch_size_bucket{model="digits",le="1"} 4
classifyd_batch_size_sum{model="digits"} 10
classifyd_batch_size_count{model="digits"} 4
classifyd_batch_size_sum{model="other"} 100
classifyd_batch_size_count{model="other"} 100
classifyd_stage_duration_seconds_sum{model="digits",stage="queue"} 0.5
classifyd_stage_duration_seconds_count{model="digits",stage="queue"} 10
classifyd_stage_duration_seconds_sum{model="digits",stage="decode"} 7
process_cpu_seconds_total 3.5
"#;

    fn after() -> String {
        BEFORE
            .replace("sum{model=\"digits\"} 10", "sum{model=\"digits\"} 70")
            .replace("count{model=\"digits\"} 4", "count{model=\"digits\"} 14")
            .replace("queue\"} 0.5", "queue\"} 2.5e0 1700000000000")
            .replace("queue\"} 10", "queue\"} 50")
    }

    #[test]
    fn means_are_taken_of_what_was_observed_in_between() {
        let before = Snapshot::parse(BEFORE, Some("digits"));
        let after = Snapshot::parse(&after(), Some("digits"));
        assert_eq!(after.batch_size_since(&before), Some(6.0));
        assert_eq!(after.queue_seconds_since(&before), Some(0.05));
    }

    #[test]
    fn without_a_model_all_models_are_added_up() {
        let before = Snapshot::parse(BEFORE, None);
        assert_eq!(before.batch_size_since(&Snapshot::default()), Some(110.0 / 104.0));
    }

    #[test]
    fn there_is_no_mean_without_observations() {
        let before = Snapshot::parse(BEFORE, Some("digits"));
        assert_eq!(before.batch_size_since(&before), None, "nothing between");
        assert_eq!(Snapshot::default().batch_size_since(&before), None, "restarted");
        let strange = Snapshot::parse("<html>\n{\nx{y=\"\nclassifyd_batch_size_sum NaNa\n", None);
        assert_eq!(strange, Snapshot::default());
    }

    #[test]
    fn label_values_may_hold_quotes_and_braces() {
        let (name, labels, value) = sample(r#"m{a="x\"}\\", b="2",} +Inf"#).unwrap();
        assert_eq!(
            (name, labels["a"].as_str(), labels["b"].as_str()),
            ("m", "x\"}\\", "2")
        );
        assert!(value.is_infinite());
    }
}
