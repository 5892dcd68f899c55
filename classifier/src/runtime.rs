//! ONNX Runtime: finding and loading its library, and sessions that run graphs.
//!
//! Load the library once with [`library::load`], after [`environment::without_telemetry`] at the
//! start of `main`. Then make sessions with [`Session::load`](session::Session::load).

mod elf;
pub mod environment;
#[cfg(feature = "gpu")]
mod gpu;
#[cfg(not(feature = "gpu"))]
#[path = "runtime/no_gpu.rs"]
mod gpu;
mod inputs;
pub mod library;
mod placement;
pub mod session;

/// Whether a message of ONNX Runtime says that the device or the process is out of memory.
fn is_out_of_memory(message: &str) -> bool {
    const SIGNS: [&str; 9] = [
        "failed to allocate memory",
        "is smaller than requested bytes",
        "out of memory",
        "outofmemory",
        "cuda failure 2:",
        "cudnn_status_alloc_failed",
        "cublas_status_alloc_failed",
        "std::bad_alloc",
        "bad allocation",
    ];
    let message = message.to_ascii_lowercase();
    SIGNS.iter().any(|sign| message.contains(sign))
}

#[cfg(test)]
mod tests {
    use super::is_out_of_memory;

    #[test]
    fn running_out_of_memory_is_told_from_other_failures() {
        for message in [
            "Non-zero status code returned while running Conv node. Name:'/conv1/Conv' Status Message: \
             BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 1073741824",
            "Available memory of 1048576 is smaller than requested bytes of 4194304",
            "CUDA failure 2: out of memory ; GPU=0 ; expr=cudaMalloc((void**)&p, size);",
            "CUDNN failure 2003: CUDNN_STATUS_ALLOC_FAILED ; GPU=0",
            "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0 ; expr=cublasCreate(&cublas_handle_);",
            "TensorRT EP execution context enqueue failed: Error Code 2: OutOfMemory (Requested size was 268435456 bytes.)",
            "std::bad_alloc",
        ] {
            assert!(is_out_of_memory(message), "{message}");
        }
        for message in [
            "CUDA failure 700: an illegal memory access was encountered",
            "CUDA failure 200: device kernel image is invalid",
            "CUDNN failure 3000: CUDNN_STATUS_NOT_SUPPORTED",
            "Non-zero status code returned while running MatMul node",
        ] {
            assert!(!is_out_of_memory(message), "{message}");
        }
    }
}
