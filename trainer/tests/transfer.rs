//! Replaces the last dense layer of graphs that other programs or the trainer exported.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use classifier::{Bundle, Row};
use onnx_graph::{Attribute, Backbone, Dim, ElementType, GraphBuilder, ModelFile};
use serde_json::json;
use tempfile::TempDir;
use trainer::network::{Network, airbench, values};

fn exported(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/exported")
        .join(name)
        .join("1")
}

/// Returns rows with values such as a preprocessor computes.
fn rows(count: usize, length: usize) -> Vec<Vec<f32>> {
    let value = |at: usize| ((at * 7919) % 1009) as f32 / 500.0 - 1.0;
    (0..count)
        .map(|row| (0..length).map(|at| value(row * length + at * 3 + row)).collect())
        .collect()
}

/// Copies a model directory, with another graph and another number of labels.
fn with_graph(original: &Path, graph: &[u8], labels: usize, output: Option<&str>) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &[u8]| fs::write(directory.path().join(name), text).unwrap();
    write("model.onnx", graph);
    let names: BTreeMap<String, String> = (0..labels)
        .map(|at| (at.to_string(), format!("label {at}")))
        .collect();
    write("config.json", json!({ "id2label": names }).to_string().as_bytes());
    write(
        "preprocessor_config.json",
        &fs::read(original.join("preprocessor_config.json")).unwrap(),
    );
    let layout = Bundle::open(original).unwrap().serving.layout.unwrap_or_default();
    let mut serving = toml::Table::new();
    serving.insert("layout".to_owned(), toml::Value::try_from(layout).unwrap());
    if let Some(output) = output {
        serving.insert("output".to_owned(), output.into());
    }
    write("serving.toml", serving.to_string().as_bytes());
    directory
}

fn run(directory: &Path, rows: &[Vec<f32>]) -> Vec<f32> {
    let rows: Vec<Row> = rows.iter().cloned().map(Row::from).collect();
    classifier::open(directory).unwrap().run(&rows).unwrap()
}

#[test]
fn the_last_dense_layer_of_other_exporters_is_found_and_replaced() {
    for (name, width, length, layer) in [
        ("resnet", 8, 3 * 16 * 16, "Gemm"),
        ("resnet_torchscript", 8, 3 * 16 * 16, "Gemm"),
        ("squeezenet", 9, 3 * 16 * 16, "Conv"),
        ("mobilenet", 10, 3 * 16 * 16, "Gemm"),
        ("keras", 7, 3 * 16 * 16, "MatMul"),
    ] {
        let original = exported(name);
        let backbone = Backbone::read(&original.join("model.onnx"), None).unwrap();
        assert_eq!(backbone.width(), width, "{name}: {}", backbone.layer());
        assert!(
            backbone.layer().starts_with(layer),
            "{name}: {}",
            backbone.layer()
        );

        // The features of a sample do not depend on the other samples of its batch.
        let rows = rows(3, length);
        let features = with_graph(&original, &backbone.features(), width, None);
        let all = run(features.path(), &rows);
        assert_eq!(all.len(), 3 * width, "{name}");
        let alone = run(features.path(), &rows[1..2]);
        for (one, other) in alone.iter().zip(&all[width..2 * width]) {
            assert!((one - other).abs() < 1e-5, "{name}: {one} {other}");
        }
        assert!(
            all.chunks(width).any(|row| row != &all[..width]),
            "{name}: features say nothing"
        );

        // A head that selects single features shows that they keep their order.
        let mut weights = vec![0.0; 3 * width];
        weights[0] = 1.0;
        weights[width + 2] = 2.0;
        let (graph, output) = backbone
            .with_head(&weights, &[0.0, 0.0, 0.5], "a test", &BTreeMap::new())
            .unwrap();
        let directory = with_graph(&original, &graph, 3, Some(&output));
        for (logits, features) in run(directory.path(), &rows).chunks(3).zip(all.chunks(width)) {
            let expected = [features[0], 2.0 * features[2], 0.5];
            for (found, expected) in logits.iter().zip(expected) {
                assert!(
                    (found - expected).abs() < 1e-5,
                    "{name}: {found}, expected {expected}"
                );
            }
        }
    }
}

/// The network computes the mean over an image and its mirror image after the last dense layer, so
/// these nodes must move to the features. Putting the same dense layer back gives the same scores.
#[test]
fn nodes_after_the_last_dense_layer_that_do_not_depend_on_the_classes_are_kept() {
    let layers = airbench::layers(3, [4, 6, 8], 10);
    let network = Network::new(&layers, 3, tch::Device::Cpu).unwrap();
    let mut graph = GraphBuilder::new("test");
    let shape = [Dim::BATCH, Dim::Fixed(3), Dim::Fixed(32), Dim::Fixed(32)];
    let input = graph.input("pixel_values", ElementType::Float, &shape);
    network.export(&mut graph, &input, "logits").unwrap();
    graph.output("logits", ElementType::Float, &[Dim::BATCH, Dim::Fixed(10)]);
    let original = tempfile::tempdir().unwrap();
    let path = original.path().join("model.onnx");
    ModelFile::new(graph, "", &BTreeMap::new())
        .unwrap()
        .save(&path)
        .unwrap();
    let size = json!({ "height": 32, "width": 32 });
    fs::write(
        original.path().join("preprocessor_config.json"),
        json!({ "size": size }).to_string(),
    )
    .unwrap();
    let names: BTreeMap<String, String> = (0..10).map(|at| (at.to_string(), at.to_string())).collect();
    fs::write(
        original.path().join("config.json"),
        json!({ "id2label": names }).to_string(),
    )
    .unwrap();

    let backbone = Backbone::read(&path, None).unwrap();
    assert_eq!(backbone.width(), 8);
    let dense = |end: &str| {
        let (_, tensor) = network
            .weights()
            .iter()
            .rfind(|(name, _)| name.ends_with(end))
            .unwrap();
        // The factor after the layer was removed together with the layer.
        values(&(tensor / 9.0)).unwrap()
    };
    let place = layers
        .iter()
        .position(|layer| format!("{layer:?}").starts_with("Dense"))
        .unwrap();
    let (weights, bias) = (dense(&format!("{place}.weight")), dense(&format!("{place}.bias")));
    let (graph, output) = backbone.with_head(&weights, &bias, "", &BTreeMap::new()).unwrap();
    assert_eq!(output, "logits");
    let again = with_graph(original.path(), &graph, 10, Some(&output));
    let rows = rows(4, 3 * 32 * 32);
    let (expected, found) = (run(original.path(), &rows), run(again.path(), &rows));
    assert_eq!(expected.len(), found.len());
    for (one, other) in expected.iter().zip(&found) {
        assert!((one - other).abs() < 1e-5, "{one} {other}");
    }
}

fn refusal(build: impl FnOnce(&mut GraphBuilder, &str) -> String) -> String {
    let mut graph = GraphBuilder::new("test");
    let input = graph.input("rows", ElementType::Float, &[Dim::BATCH, Dim::Fixed(4)]);
    let output = build(&mut graph, &input);
    graph.output(&output, ElementType::Float, &[Dim::BATCH, Dim::Fixed(4)]);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.onnx");
    ModelFile::new(graph, "", &BTreeMap::new())
        .unwrap()
        .save(&path)
        .unwrap();
    format!("{:#}", Backbone::read(&path, None).unwrap_err())
}

#[test]
fn a_graph_without_a_last_dense_layer_is_refused_with_a_reason() {
    let error = refusal(|graph, rows| graph.node("Softmax", &[rows], "scores", vec![]));
    assert!(error.contains("found none on the way to `rows`"), "{error}");

    // The graph of an ensemble has two last layers.
    let error = refusal(|graph, rows| {
        let weight = graph.floats("weight", &[4, 4], &[0.5; 16]);
        let one = graph.node("MatMul", &[rows, &weight], "one", vec![]);
        let other = graph.node(
            "Gemm",
            &[rows, &weight],
            "other",
            vec![Attribute::int("transB", 1)],
        );
        graph.node("Add", &[&one, &other], "sum", vec![])
    });
    assert!(error.contains("found Add `sum/Add`"), "{error}");

    let error = refusal(|graph, rows| {
        let places = graph.ints("places", &[1], &[2]);
        graph.node(
            "Gather",
            &[rows, &places],
            "picked",
            vec![Attribute::int("axis", 1)],
        )
    });
    assert!(error.contains("found Gather"), "{error}");

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.onnx");
    fs::write(&path, b"not a graph").unwrap();
    let error = format!("{:#}", Backbone::read(&path, None).unwrap_err());
    assert!(error.contains("model.onnx: expected an ONNX model"), "{error}");
}

#[test]
fn missing_external_weights_are_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.onnx");
    fs::copy(exported("resnet").join("model.onnx"), &path).unwrap();
    let error = format!("{:#}", Backbone::read(&path, None).unwrap_err());
    assert!(
        error.contains("cannot read") && error.contains("model.onnx.data"),
        "{error}"
    );
    fs::write(directory.path().join("model.onnx.data"), b"too short").unwrap();
    let error = format!("{:#}", Backbone::read(&path, None).unwrap_err());
    assert!(error.contains("lies beyond the end of the file"), "{error}");
}
