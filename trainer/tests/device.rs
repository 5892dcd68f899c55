//! `--device cuda` without CUDA fails before any data is read.

use std::process::Command;

#[test]
fn an_unavailable_device_is_an_error() {
    if tch::Cuda::is_available() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let run = directory.path().join("run");
    let output = Command::new(env!("CARGO_BIN_EXE_trainer"))
        .args(["train", "images", "--device", "cuda", "--run"])
        .arg(&run)
        .arg("--data")
        .arg(directory.path().join("nothing"))
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let expected = if tch::utils::has_cudart() {
        "--device cuda: expected an NVIDIA GPU"
    } else {
        "--device cuda: expected a libtorch with CUDA"
    };
    assert!(said.contains(expected), "{said}");
    assert!(!run.exists(), "a run was started");
}
