//! Which nodes of a graph run on which provider. ONNX Runtime only writes that to its log, at the
//! most verbose level, while it makes a session.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use ort::logging::{LogLevel, LoggerFunction};

use super::gpu;
use crate::device::Provider;

/// Reads a session's log and forwards its warnings and errors to the program's log.
#[derive(Debug, Clone, Default)]
pub(super) struct PlacementLog {
    nodes: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl PlacementLog {
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

    /// Number of nodes on each provider.
    pub(super) fn nodes(&self) -> BTreeMap<String, usize> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Parses `All nodes placed on [CPUExecutionProvider]. Number of nodes: 12`, or one of several
/// lines with `Node(s) placed on [...]`.
fn placed(message: &str) -> Option<(&str, usize)> {
    let (_, rest) = message.split_once("placed on [")?;
    let (provider, rest) = rest.split_once("]. Number of nodes: ")?;
    let digits = rest.split(|char: char| !char.is_ascii_digit()).next()?;
    Some((provider, digits.parse().ok()?))
}

/// [`Provider::name`], or ONNX Runtime's name for a provider that is not one of ours.
fn short_name(runtime_name: &str) -> String {
    let known = [Provider::Cpu, Provider::Cuda, Provider::Tensorrt];
    let known = known
        .into_iter()
        .find(|provider| gpu::runtime_name(*provider) == runtime_name);
    known.map_or_else(|| runtime_name.to_owned(), |provider| provider.name().to_owned())
}

#[cfg(test)]
mod tests {
    use ort::session::Session;

    use super::*;
    use crate::runtime::library;

    #[test]
    fn nodes_are_counted_per_provider() {
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

    /// Fails if a new version of ONNX Runtime writes other lines.
    #[test]
    fn the_library_logs_where_it_placed_the_nodes() {
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
