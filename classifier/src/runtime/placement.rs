//! Which nodes of a graph were placed where. ONNX Runtime says it in its log, at the most verbose level, when a session is made.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use ort::logging::{LogLevel, LoggerFunction};

use super::provider::Provider;

/// Reads a session's log. Warnings and errors go on to the program's log.
#[derive(Debug, Clone, Default)]
pub(super) struct PlacementLog {
    nodes: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl PlacementLog {
    /// For the session's builder.
    pub(super) fn logger(&self) -> LoggerFunction {
        let log = self.clone();
        Arc::new(move |level, _category, _id, _place, message| log.take(level, message))
    }

    fn take(&self, level: LogLevel, message: &str) {
        match level {
            LogLevel::Verbose => {
                if let Some((provider, count)) = placed(message) {
                    let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
                    *nodes.entry(short_name(provider)).or_default() += count;
                }
            }
            LogLevel::Info => {}
            LogLevel::Warning => tracing::warn!(target: "ort", "{message}"),
            LogLevel::Error | LogLevel::Fatal => tracing::error!(target: "ort", "{message}"),
        }
    }

    /// How many nodes each provider has.
    pub(super) fn nodes(&self) -> BTreeMap<String, usize> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// `All nodes placed on [CPUExecutionProvider]. Number of nodes: 12`, or a line `Node(s) placed on [...]` for each provider.
fn placed(message: &str) -> Option<(&str, usize)> {
    let (_, rest) = message.split_once("placed on [")?;
    let (provider, rest) = rest.split_once("]. Number of nodes: ")?;
    let digits = rest.split(|char: char| !char.is_ascii_digit()).next()?;
    Some((provider, digits.parse().ok()?))
}

/// Ours where we have one.
fn short_name(runtime_name: &str) -> String {
    let known = [Provider::Cpu, Provider::Cuda, Provider::Tensorrt];
    let known = known
        .into_iter()
        .find(|provider| provider.runtime_name() == runtime_name);
    known.map_or_else(|| runtime_name.to_owned(), |provider| provider.name().to_owned())
}

#[cfg(test)]
mod tests {
    use ort::session::Session;

    use super::*;
    use crate::runtime::library;

    #[test]
    fn lines_of_the_log_are_counted() {
        let log = PlacementLog::default();
        for line in [
            "Node placements",
            " Node(s) placed on [TensorrtExecutionProvider]. Number of nodes: 1",
            " Node(s) placed on [CUDAExecutionProvider]. Number of nodes: 21",
            "  MatMul (/head/MatMul)",
            " Node(s) placed on [OtherExecutionProvider]. Number of nodes: 2",
            // Of a subgraph.
            " All nodes placed on [CUDAExecutionProvider]. Number of nodes: 4",
        ] {
            log.take(LogLevel::Verbose, line);
        }
        let expected = [("tensorrt", 1), ("cuda", 25), ("OtherExecutionProvider", 2)];
        assert_eq!(
            log.nodes(),
            expected.map(|(name, count)| (name.to_owned(), count)).into()
        );
    }

    /// So that another version of the library, which may write other lines, is noticed.
    #[test]
    fn the_library_says_where_nodes_were_placed() {
        library::load(None).unwrap();
        let log = PlacementLog::default();
        let environment = library::environment().unwrap();
        let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/digits/1/model.onnx");
        let builder = Session::builder(environment).unwrap();
        let builder = builder.with_logger(log.logger()).unwrap();
        let mut builder = builder.with_log_level(LogLevel::Verbose).unwrap();
        builder.commit_from_file(model).unwrap();
        let nodes = log.nodes();
        assert!(nodes.keys().eq(["cpu"]), "{nodes:?}");
        assert!(nodes["cpu"] > 1, "{nodes:?}");
    }
}
