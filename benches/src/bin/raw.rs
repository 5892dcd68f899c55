//! ONNX Runtime alone, on the CPU or a GPU: how long runs of an image classifier's graph take at
//! each batch size, without a server and without this project's session. `scripts/gpu_check.py`
//! compares with it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use benches::raw::median_us;
use clap::{Parser, ValueEnum};
use classifier::{Bundle, ImageLimits, Row};
use ort::ep::cuda::ConvAlgorithmSearch;
use ort::ep::{CUDA, ExecutionProviderDispatch, TensorRT};
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::{Tensor, ValueType};
use serde::Serialize;

/// Runs the graph of an image classifier with ONNX Runtime alone, and prints the times as JSON.
#[derive(Parser)]
struct Args {
    /// Model directory.
    model: PathBuf,
    /// Image that fills the batches.
    input: PathBuf,
    /// File of the ONNX Runtime library.
    #[arg(long, env = "ORT_DYLIB_PATH")]
    onnxruntime: PathBuf,
    /// Where the graph runs. The libraries of NVIDIA must be on the loader's path.
    #[arg(long, value_enum, default_value_t = Device::Cpu)]
    device: Device,
    /// Index of the GPU.
    #[arg(long, default_value_t = 0)]
    device_id: i32,
    /// Let CUDA use TF32, which multiplies with 10 bits of mantissa.
    #[arg(long)]
    tf32: bool,
    /// Let TensorRT compute in 16 bits.
    #[arg(long)]
    fp16: bool,
    /// Batch sizes.
    #[arg(long, value_delimiter = ',', default_value = "1,8,32,64,128,256")]
    batches: Vec<usize>,
    /// Seconds for each batch size, without the warm-up.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
}

const FILL: f32 = 0.5;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Device {
    Cpu,
    Cuda,
    Tensorrt,
}

#[derive(Serialize)]
struct Report {
    /// Time to decode and resize the image on one core, in microseconds.
    decode_us: f64,
    runs: Vec<Run>,
    /// Output of the graph for a row of [`FILL`], to check that other programs run the same graph.
    output: Vec<f32>,
}

#[derive(Serialize)]
struct Run {
    /// How CUDA chose the algorithms of convolutions. The graph is measured with each way.
    search: &'static str,
    batch: usize,
    /// The first run, which chooses kernels and allocates memory, in milliseconds.
    first_ms: f64,
    /// Median of the other runs in microseconds, including the copies from and to the host.
    #[serde(rename = "median_us")]
    median: f64,
    rows_per_second: f64,
}

fn main() -> Result<()> {
    classifier::runtime::environment::without_telemetry()?;
    let args = Args::parse();
    ensure!(
        !args.batches.contains(&0),
        "--batches: expected at least 1, found 0"
    );
    ensure!(
        !args.fp16 || args.device == Device::Tensorrt,
        "--fp16: expected --device tensorrt"
    );
    let environment = ort::init_from(std::path::absolute(&args.onnxruntime)?)?
        .with_telemetry(false)
        .build()?;
    let bundle = Bundle::open(&args.model)?;
    let bytes = std::fs::read(&args.input).with_context(|| args.input.display().to_string())?;
    let decode = || bundle.preprocessor.prepare(&bytes, &ImageLimits::default());
    let Row::Image(row) = decode()?.row else {
        bail!("expected an image classifier, found a text classifier");
    };
    let time = Duration::from_secs_f64(args.seconds);
    let decode_us = median_us(time.min(Duration::from_secs(1)), || {
        decode().map(|_| ()).map_err(Into::into)
    })?;

    let mut report = Report {
        decode_us,
        runs: Vec::new(),
        output: Vec::new(),
    };
    for search in searches(args.device) {
        let mut session = Session::builder(&environment)?
            .with_optimization_level(GraphOptimizationLevel::All)
            .map_err(|error| anyhow!("{error}"))?
            .with_execution_providers(providers(&args, search.clone()))
            .map_err(|error| anyhow!("{error}"))?
            .commit_from_file(bundle.model())?;
        for &batch in &args.batches {
            let input = tensor(&session, &row, batch)?;
            let begin = Instant::now();
            run(&mut session, &input)?;
            let first_ms = begin.elapsed().as_secs_f64() * 1e3;
            let median = median_us(time, || run(&mut session, &input).map(|_| ()))?;
            report.runs.push(Run {
                search: name(search.as_ref()),
                batch,
                first_ms,
                median,
                rows_per_second: batch as f64 / median * 1e6,
            });
        }
        let filled = tensor(&session, &vec![FILL; row.len()], 1)?;
        report.output = run(&mut session, &filled)?;
    }
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

fn searches(device: Device) -> Vec<Option<ConvAlgorithmSearch>> {
    match device {
        Device::Cuda => vec![
            Some(ConvAlgorithmSearch::Heuristic),
            Some(ConvAlgorithmSearch::Exhaustive),
        ],
        Device::Cpu | Device::Tensorrt => vec![None],
    }
}

fn name(search: Option<&ConvAlgorithmSearch>) -> &'static str {
    match search {
        Some(ConvAlgorithmSearch::Heuristic) => "heuristic",
        Some(ConvAlgorithmSearch::Exhaustive) => "exhaustive",
        Some(ConvAlgorithmSearch::Default) | None => "default",
    }
}

/// A provider that is not available is an error, so that nothing runs on the CPU instead.
fn providers(args: &Args, search: Option<ConvAlgorithmSearch>) -> Vec<ExecutionProviderDispatch> {
    let mut cuda = CUDA::default()
        .with_device_id(args.device_id)
        .with_tf32(args.tf32);
    if let Some(search) = search {
        cuda = cuda.with_conv_algorithm_search(search);
    }
    let cuda = cuda.build().error_on_failure();
    let tensorrt = TensorRT::default()
        .with_device_id(args.device_id)
        .with_fp16(args.fp16)
        .build()
        .error_on_failure();
    match args.device {
        Device::Cpu => Vec::new(),
        Device::Cuda => vec![cuda],
        Device::Tensorrt => vec![tensorrt, cuda],
    }
}

/// `batch` copies of the row, in the shape of the graph's input.
fn tensor(session: &Session, row: &[f32], batch: usize) -> Result<Tensor<f32>> {
    let [input] = session.inputs() else {
        bail!(
            "expected a graph with one input, found {}",
            session.inputs().len()
        );
    };
    let ValueType::Tensor { shape, .. } = input.dtype() else {
        bail!("expected a tensor as input, found {}", input.dtype());
    };
    let mut shape = shape.to_vec();
    shape[0] = batch as i64;
    Ok(Tensor::from_array((shape, row.repeat(batch)))?)
}

/// Runs the graph and copies its outputs to the host.
fn run(session: &mut Session, input: &Tensor<f32>) -> Result<Vec<f32>> {
    let outputs = session.run(ort::inputs![input])?;
    let (_, values) = outputs[0].try_extract_tensor::<f32>()?;
    Ok(values.to_vec())
}
