//! An exported graph computes the same in ONNX Runtime as its network does in libtorch.

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, fs};

use onnx_graph::{Dim, ElementType, GraphBuilder, ModelFile};
use tch::{Device, Kind, Tensor};
use trainer::{
    layers,
    network::{
        Activation, AveragePool, Conv, Dense, Dropout, Flatten, GlobalAverage, Layer, MaxPool, Mirror,
        MirrorMean, Mode, Network, Residual, Scale, Whiten, airbench, copies, digits, fashion, images,
        values,
    },
};

fn small() -> Vec<Layer> {
    layers![
        Conv::new(1, 4, 5),
        MaxPool(2),
        Conv::new(4, 6, 3).stride(2),
        Flatten,
        Dense::new(6 * 2 * 2, 12).activation(Activation::Relu),
        Dense::new(12, 3),
    ]
}

/// A network of the layers that [`small`] does not have.
fn mirrored() -> Vec<Layer> {
    layers![
        Mirror,
        Whiten {
            inputs: 1,
            kernel: 3,
            activation: Activation::Gelu,
        },
        Conv::new(18, 20, 3).dirac().pool(2).activation(Activation::Silu),
        Residual {
            body: layers![Conv::new(20, 8, 3).activation(Activation::Identity)],
            shortcut: layers![Conv::new(20, 8, 1).activation(Activation::Gelu)],
            activation: Activation::Relu,
        },
        AveragePool(3),
        GlobalAverage,
        Dropout,
        Dense::new(8, 3),
        Scale(0.5),
        MirrorMean,
    ]
}

/// Returns the largest difference of a logit on random images. A few training passes come first, so
/// that the statistics of batch normalisation are not at their initial values.
fn difference(layers: &[Layer], channels: usize, side: usize, classes: usize) -> f32 {
    let network = Network::new(layers, 7, Device::Cpu).unwrap();
    let rows: Vec<f32> = (0..12 * channels * side * side)
        .map(|at| ((at * 7919) % 1009) as f32 / 1009.0)
        .collect();
    let shape = [-1, channels as i64, side as i64, side as i64];
    let batch = Tensor::from_slice(&rows).view(shape);
    for _ in 0..5 {
        let _ = network.forward(&batch, Mode::Training);
    }
    let mut graph = GraphBuilder::new("test");
    let side = Dim::Fixed(side);
    let input = graph.input(
        "pixel_values",
        ElementType::Float,
        &[Dim::BATCH, Dim::Fixed(channels), side, side],
    );
    network.export(&mut graph, &input, "logits").unwrap();
    graph.output("logits", ElementType::Float, &[Dim::BATCH, Dim::Fixed(classes)]);

    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, value: serde_json::Value| {
        fs::write(directory.path().join(name), value.to_string()).unwrap();
    };
    let labels: BTreeMap<String, String> = (0..classes).map(|at| (at.to_string(), at.to_string())).collect();
    write("config.json", serde_json::json!({ "id2label": labels }));
    let Dim::Fixed(side) = side else { unreachable!() };
    let target = serde_json::json!({ "height": side, "width": side });
    write(
        "preprocessor_config.json",
        serde_json::json!({ "do_convert_grayscale": channels == 1, "size": target }),
    );
    ModelFile::new(graph, "", &BTreeMap::new())
        .unwrap()
        .save(&directory.path().join("model.onnx"))
        .unwrap();

    let rows: Vec<classifier::Row> = rows
        .chunks(channels * side * side)
        .map(|row| row.to_vec().into())
        .collect();
    let found = classifier::open(directory.path()).unwrap().run(&rows).unwrap();
    let expected = values(&network.forward(&batch, Mode::Inference)).unwrap();
    assert_eq!(found.len(), expected.len());
    found
        .iter()
        .zip(&expected)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

#[test]
fn an_exported_graph_agrees_with_its_network() {
    for (layers, channels, side, classes) in [
        (small(), 1, 8, 3),
        (mirrored(), 1, 8, 3),
        (digits::cnn(), 1, 28, 10),
        (digits::mlp(), 1, 28, 10),
        (airbench::layers(3, [8, 12, 16], 10), 3, 32, 10),
        (images::plain(), 3, 32, 10),
        (fashion::airbench(), 1, 28, 10),
        (fashion::resnet(), 1, 28, 10),
        (fashion::mlp(), 1, 28, 10),
    ] {
        let difference = difference(&layers, channels, side, classes);
        assert!(difference < 1e-5, "{layers:?}: {difference}");
    }
}

#[test]
fn weights_of_another_network_are_refused() {
    let mut network = Network::new(&small(), 1, Device::Cpu).unwrap();
    let other = Network::new(&digits::mlp(), 1, Device::Cpu).unwrap();
    let error = network.load(other.weights()).unwrap_err().to_string();
    assert!(error.contains("another network"), "{error}");

    let mut weights = copies(network.weights());
    weights.insert(
        "5.bias".to_owned(),
        Tensor::zeros([4], (Kind::Float, Device::Cpu)),
    );
    let error = network.load(&weights).unwrap_err().to_string();
    assert_eq!(error, "weight `5.bias`: expected shape [3], found [4]");
}
