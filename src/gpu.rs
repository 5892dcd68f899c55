//! Metrics of GPU memory from NVIDIA's management library (NVML), which comes with the driver and
//! is loaded at run time.

use std::ffi::OsStr;
use std::sync::Once;
use std::time::Duration;

use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;

use crate::metrics::Metrics;

/// The name without a version exists only in development packages.
const LIBRARY: &str = "libnvidia-ml.so.1";
/// The metrics are updated this often, because a scrape must not wait for the driver.
const EVERY: Duration = Duration::from_secs(5);

/// Starts to update the metrics, once per process. Without the library there are none.
pub fn watch(metrics: &Metrics) {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        let metrics = metrics.clone();
        let started = open().map(|library| {
            let watch = move || {
                loop {
                    sample(&library, &metrics);
                    std::thread::sleep(EVERY);
                }
            };
            std::thread::Builder::new().name("gpu-memory".into()).spawn(watch)
        });
        match started {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "no metrics of GPU memory"),
            Err(error) => tracing::warn!(%error, "no metrics of GPU memory"),
        }
    });
}

fn open() -> Result<Nvml, NvmlError> {
    Nvml::builder().lib_path(OsStr::new(LIBRARY)).init()
}

/// A GPU that NVML cannot query, such as one that is split into instances, is left out.
fn sample(library: &Nvml, metrics: &Metrics) {
    for index in 0..library.device_count().unwrap_or(0) {
        let memory = library.device_by_index(index).and_then(|gpu| gpu.memory_info());
        if let Ok(memory) = memory {
            metrics.set_gpu_memory(index, memory.used, memory.total);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_driver_there_are_no_metrics() {
        let metrics = Metrics::new().unwrap();
        watch(&metrics);
        watch(&metrics);
        let text = || String::from_utf8(metrics.render().unwrap()).unwrap();
        if open().is_err() {
            assert!(!text().contains("classifyd_gpu_memory"), "{}", text());
        }
        metrics.set_gpu_memory(1, 3 << 30, 80 << 30);
        for series in [
            "classifyd_gpu_memory_used_bytes{gpu=\"1\"} 3221225472",
            "classifyd_gpu_memory_bytes{gpu=\"1\"} 85899345920",
        ] {
            assert!(text().contains(series), "{}", text());
        }
    }
}
