//! A graph, loaded and ready to run.

mod interrupt;
mod load;

use std::fmt;

use super::inputs::Inputs;
use super::is_out_of_memory;
use crate::device::{DeviceOptions, Placement, Provider};
use crate::input::Row;

pub use self::interrupt::Interrupt;
pub use crate::error::{LoadError, RunError};

/// Where and how a session runs.
///
/// ```
/// use classifier::{Device, DeviceOptions, SessionOptions};
///
/// let options = SessionOptions::default()
///     .with_threads(4)
///     .with_device(DeviceOptions::new(Device::Cuda));
/// assert_eq!(options.threads, Some(4));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionOptions {
    /// Number of threads of one run, including the thread that calls it.
    ///
    /// `None`: runs share a pool of the process with one thread per CPU. A single run then uses all
    /// of them, and concurrent runs do not add threads.
    pub threads: Option<usize>,
    /// The device to run on.
    pub device: DeviceOptions,
}

impl SessionOptions {
    /// Sets the number of threads of a run.
    #[must_use]
    pub fn with_threads(self, threads: impl Into<Option<usize>>) -> Self {
        Self {
            threads: threads.into(),
            ..self
        }
    }

    /// Sets the device.
    #[must_use]
    pub fn with_device(self, device: DeviceOptions) -> Self {
        Self { device, ..self }
    }
}

impl Default for SessionOptions {
    /// One thread on the CPU.
    fn default() -> Self {
        Self {
            threads: Some(1),
            device: DeviceOptions::default(),
        }
    }
}

/// A loaded graph.
///
/// A session belongs to one thread at a time: [`run`](Self::run) takes `&mut self`. To run batches
/// side by side, make several sessions of one [`Bundle`](crate::Bundle).
pub struct Session {
    /// One graph that takes batches of any size, or several with a fixed size each, in ascending
    /// order.
    graphs: Vec<Graph>,
    inputs: Inputs,
    /// Position of the output that is read.
    output: usize,
    labels: usize,
    placement: Placement,
}

struct Graph {
    session: ort::session::Session,
    /// Number of rows of each batch. `None`: any.
    rows: Option<usize>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("inputs", &self.inputs)
            .field("labels", &self.labels)
            .field("placement", &self.placement)
            .finish_non_exhaustive()
    }
}

/// Bytes of input from which on a run returns its memory to the system. ONNX Runtime's arena would
/// otherwise keep the memory of one huge batch for ever; for runs of that size, allocating again
/// costs little.
pub const OUTLIER_BYTES: usize = 4 << 20;

impl Session {
    /// Where the session runs.
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// The batch sizes that the session runs; smaller batches are filled up to the next one. Empty
    /// if it runs every size directly.
    pub fn batch_sizes(&self) -> Vec<usize> {
        self.graphs.iter().filter_map(|graph| graph.rows).collect()
    }

    /// Runs a batch and returns the outputs: for each row, one value per label.
    ///
    /// Texts are padded to the bucket of the longest one. `started` is called right before the run
    /// with the means to end it from another thread.
    ///
    /// # Errors
    ///
    /// Fails if the batch is empty, if a row does not match the graph's input, if the run fails or
    /// is interrupted, or if the output does not have one value per row and label.
    pub fn run<'a>(
        &mut self,
        rows: impl Iterator<Item = &'a Row>,
        started: impl FnOnce(Interrupt),
    ) -> Result<Vec<f32>, RunError> {
        let mut staged = self.inputs.stage(rows)?;
        let batch = staged.rows;
        let fits = |graph: &Graph| graph.rows.is_none_or(|rows| batch <= rows);
        let at = self.graphs.iter().position(fits).unwrap_or(self.graphs.len() - 1);
        let graph = &mut self.graphs[at];
        if let Some(rows) = graph.rows {
            self.inputs.pad(&mut staged, rows);
        }
        let interrupt = Interrupt::new(staged.bytes, self.placement.provider)?;
        let tensors = self
            .inputs
            .tensors(&staged)
            .map_err(|error| run_error(&error, &interrupt))?;
        started(interrupt.clone());
        let outputs = graph
            .session
            .run_with_options(tensors, interrupt.options())
            .map_err(|error| run_error(&error, &interrupt))?;
        let (shape, values) = outputs[self.output]
            .try_extract_tensor::<f32>()
            .map_err(|error| run_error(&error, &interrupt))?;
        if values.len() != staged.rows * self.labels {
            return Err(RunError::OutputShape {
                expected: format!("[{}, {}]", staged.rows, self.labels),
                found: format!("{shape:?}"),
            });
        }
        let values = values[..batch * self.labels].to_vec();
        drop(outputs);
        if staged.bytes >= OUTLIER_BYTES && self.placement.provider == Provider::Cpu {
            self.inputs.release();
        }
        Ok(values)
    }
}

fn run_error(error: &ort::Error, interrupt: &Interrupt) -> RunError {
    // ONNX Runtime reports an interrupted run as a generic failure.
    if interrupt.is_requested() {
        return RunError::Interrupted;
    }
    let message = error.to_string();
    match error.code() {
        _ if is_out_of_memory(&message) => RunError::OutOfMemory(message),
        ort::ErrorCode::InvalidArgument => RunError::InvalidInput(message),
        _ => RunError::Failed(message),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use ort::logging::LogLevel;

    use super::load::fixed_sizes;
    use super::*;
    use crate::bundle::Bundle;
    use crate::device::Device;
    use crate::image::ImageLimits;
    use crate::runtime::library;

    fn digits() -> Bundle {
        library::load(None).unwrap();
        Bundle::open(Path::new(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../models/digits/1"
        )))
        .unwrap()
    }

    fn rows(bundle: &Bundle) -> Vec<Row> {
        let images = ["3_30", "7_0", "1_2", "8_61", "0_3", "4_4", "2_1"];
        let read = |name| {
            let path = bundle.directory.join(format!("golden/{name}.png"));
            let bytes = std::fs::read(path).unwrap();
            bundle
                .preprocessor
                .prepare(&bytes, &ImageLimits::default())
                .unwrap()
                .row
        };
        images.map(read).into()
    }

    #[test]
    fn sessions_of_fixed_sizes_give_the_same_scores() {
        let bundle = digits();
        let options = SessionOptions::default();
        let mut any = Session::load(&bundle, &options).unwrap();
        assert!(any.batch_sizes().is_empty());
        let sizes = [Some(1), Some(4)];
        let mut fixed = Session::load_on(Provider::Cpu, &bundle, &options, &sizes).unwrap();
        assert_eq!(fixed.batch_sizes(), [1, 4]);
        let rows = rows(&bundle);
        // Seven rows fit into neither size, and run without padding.
        for count in [1, 2, 3, 4, 7] {
            let scores = |session: &mut Session| session.run(rows[..count].iter(), |_| {}).unwrap();
            let (expected, found) = (scores(&mut any), scores(&mut fixed));
            assert_eq!(found.len(), count * 10);
            for (expected, found) in expected.iter().zip(found) {
                assert!(
                    (expected - found).abs() < 1e-4,
                    "{count} rows: {expected} {found}"
                );
            }
        }
    }

    /// The session logs at a verbose level for `PlacementLog`. Runs must not pay for that.
    #[test]
    fn a_run_on_a_gpu_writes_no_log() {
        let bundle = digits();
        let lines = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&lines);
        let logger = Arc::new(move |_: LogLevel, _: &str, _: &str, _: &str, _: &str| {
            counter.fetch_add(1, Ordering::SeqCst);
        });
        let mut session = Session::load(&bundle, &SessionOptions::default()).unwrap();
        let builder = ort::session::Session::builder(library::environment().unwrap()).unwrap();
        let builder = builder
            .with_logger(logger)
            .unwrap()
            .with_log_level(LogLevel::Verbose)
            .unwrap();
        session.graphs[0].session = { builder }.commit_from_file(bundle.model()).unwrap();
        let while_loading = lines.load(Ordering::SeqCst);
        assert!(while_loading > 0);
        session.placement.provider = Provider::Cuda;
        session.run(rows(&bundle).iter(), |_| {}).unwrap();
        assert_eq!(lines.load(Ordering::SeqCst), while_loading);
    }

    #[test]
    fn only_convolutions_through_cuda_get_fixed_sizes() {
        let bundle = digits();
        let sizes = |provider, max_batch| fixed_sizes(provider, &bundle, max_batch);
        assert_eq!(sizes(Provider::Cpu, 32), [None]);
        assert_eq!(sizes(Provider::Tensorrt, 32), [None]);
        assert_eq!(sizes(Provider::Cuda, 1), [Some(1)]);
        assert_eq!(sizes(Provider::Cuda, 128), [1, 4, 16, 64, 128].map(Some));
    }

    #[cfg(feature = "gpu")]
    #[test]
    fn a_library_without_the_provider_is_rejected_and_auto_falls_back_to_the_cpu() {
        use crate::device::DeviceCure;

        let bundle = digits();
        let load = |device| {
            let options = SessionOptions::default().with_device(DeviceOptions::new(device));
            Session::load(&bundle, &options)
        };
        for (device, title) in [(Device::Cuda, "CUDA"), (Device::Tensorrt, "TensorRT")] {
            let LoadError::Device(error) = load(device).unwrap_err() else {
                panic!("not an error of the device");
            };
            assert_eq!(error.cure, Some(DeviceCure::InstallRuntime));
            let text = error.to_string();
            for part in [title, "GPU 0 cannot be used", "is built without"] {
                assert!(text.contains(part), "{part}: {text}");
            }
        }
        let session = load(Device::Auto).unwrap();
        let placement = session.placement();
        assert_eq!(placement.provider, Provider::Cpu);
        assert_eq!(placement.device_id, None);
        let [error] = placement.fallback.as_slice() else {
            panic!("{placement:?}");
        };
        assert!(error.reason.contains("is built without CUDA"), "{error}");
        assert!(load(Device::Cpu).unwrap().placement().fallback.is_empty());
    }

    #[cfg(not(feature = "gpu"))]
    #[test]
    fn without_the_feature_only_the_cpu_can_be_used() {
        let bundle = digits();
        let load = |device| {
            let options = SessionOptions::default().with_device(DeviceOptions::new(device));
            Session::load(&bundle, &options)
        };
        let error = load(Device::Cuda).unwrap_err().to_string();
        assert!(error.contains("without the feature `gpu`"), "{error}");
        assert_eq!(load(Device::Auto).unwrap().placement().provider, Provider::Cpu);
    }
}
