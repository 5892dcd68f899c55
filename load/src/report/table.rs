//! The table of a report.

use comfy_table::{CellAlignment, Table, presets};

use super::{Report, Step};

const HEADER: [&str; 10] = [
    "load",
    "responses/s",
    "p50",
    "p90",
    "p99",
    "p99.9",
    "max",
    "errors",
    "sent",
    "received",
];

impl Report {
    /// Renders a table with a row for each step, and a line below it for each status other than 2xx
    /// with the time until these responses came.
    pub fn table(&self) -> String {
        let metrics = self.steps.iter().any(|step| step.mean_batch_size.is_some());
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        let of_server: &[&str] = if metrics { &["batch", "queue"] } else { &[] };
        table.set_header(HEADER.iter().chain(of_server));
        for step in &self.steps {
            let mut row = step.cells();
            if metrics {
                let batch = step.mean_batch_size.map(|size| format!("{size:.1}"));
                row.extend([batch, step.mean_queue_us.map(duration)].map(or_dash));
            }
            table.add_row(row);
        }
        for column in table.column_iter_mut() {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let mut text = table.trim_fmt();
        text.push('\n');
        for step in &self.steps {
            text.extend(step.notes());
        }
        text
    }
}

impl Step {
    /// The cells of [`HEADER`].
    fn cells(&self) -> Vec<String> {
        let load = match self.rate {
            Some(rate) => format!("{rate} req/s"),
            None => format!("{} conn", self.connections),
        };
        let latencies = match self.latency {
            Some(all) => [all.p50, all.p90, all.p99, all.p999, all.max].map(|value| Some(duration(value))),
            None => [const { None }; 5],
        };
        let mut cells = vec![load, format!("{:.1}", self.throughput)];
        cells.extend(latencies.map(or_dash));
        cells.extend([
            self.describe_errors(),
            bytes(self.bytes_sent),
            bytes(self.bytes_received),
        ]);
        cells
    }

    /// Errors by status and by failure, as in `503: 12, timeout: 1`.
    fn describe_errors(&self) -> String {
        let statuses = self
            .bad_statuses()
            .map(|(status, count, _)| format!("{status}: {count}"));
        let failures = self.failures.iter();
        let failures = failures.map(|(name, count)| format!("{name}: {count}"));
        let unsent = (self.unsent > 0).then(|| format!("unsent: {}", self.unsent));
        let all: Vec<String> = statuses.chain(failures).chain(unsent).collect();
        or_dash((!all.is_empty()).then(|| all.join(", ")))
    }

    fn notes(&self) -> impl Iterator<Item = String> {
        self.bad_statuses().filter_map(|(status, _, latency)| {
            let latency = latency?;
            Some(format!(
                "responses with status {status} took {} (p50), {} (p99), {} at most\n",
                duration(latency.p50),
                duration(latency.p99),
                duration(latency.max)
            ))
        })
    }

    /// Statuses other than 2xx, the number of their responses, and how long the server took for
    /// them.
    fn bad_statuses(&self) -> impl Iterator<Item = (u16, u64, Option<super::Percentiles>)> {
        self.statuses
            .iter()
            .filter(|(status, _)| !(200..300).contains(*status))
            .map(|(&status, responses)| (status, responses.count, responses.service.or(responses.latency)))
    }
}

fn or_dash(cell: Option<String>) -> String {
    cell.unwrap_or_else(|| "-".to_owned())
}

/// Microseconds, in the unit that reads best.
pub(super) fn duration(microseconds: f64) -> String {
    match microseconds {
        value if value < 1e3 => format!("{value:.0} us"),
        value if value < 1e6 => format!("{:.2} ms", value / 1e3),
        value => format!("{:.2} s", value / 1e6),
    }
}

fn bytes(count: u64) -> String {
    bytesize::ByteSize(count).to_string()
}
