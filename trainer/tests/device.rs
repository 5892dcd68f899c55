//! What `--device cuda` says where there is no CUDA, before it looks for data.

use std::process::Command;

#[test]
fn a_device_that_cannot_be_had_stops_the_training() {
    if tch::Cuda::is_available() {
        // Nothing is missing here.
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let output = Command::new(env!("CARGO_BIN_EXE_trainer"))
        .args(["train", "images", "--device", "cuda", "--run"])
        .arg(&run)
        .arg("--data")
        .arg(folder.path().join("nothing"))
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
    assert!(!run.exists(), "a run was begun");
}
