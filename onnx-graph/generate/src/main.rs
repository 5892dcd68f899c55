//! Prints the Rust types for `onnx.proto`. See `scripts/onnx-proto.sh`.

use std::{env, error::Error, fs, path::Path};

/// Comment at the top of the generated file.
const HEADER: &str = "\
// Rust types for the ONNX file format, generated from `onnx/onnx.proto` of the Python package
// `onnx` 1.23.2 (Copyright (c) ONNX Project Contributors, Apache-2.0) by `scripts/onnx-proto.sh`.
// Do not edit.
";

fn main() -> Result<(), Box<dyn Error>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = protox::compile(["onnx.proto"], [directory])?;
    let out = env::temp_dir().join(format!("onnx-proto-{}", std::process::id()));
    fs::create_dir_all(&out)?;
    prost_build::Config::new()
        // Weights then share the memory of the file that they were read from.
        .bytes([".onnx.TensorProto.raw_data"])
        .disable_comments(["."])
        .out_dir(&out)
        .compile_fds(files)?;
    print!("{HEADER}{}", fs::read_to_string(out.join("onnx.rs"))?);
    fs::remove_dir_all(&out)?;
    Ok(())
}
