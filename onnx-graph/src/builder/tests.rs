use super::*;

fn linear() -> GraphBuilder {
    let mut graph = GraphBuilder::new("linear");
    let rows = graph.input("rows", ElementType::Float, &[Dim::BATCH, Dim::Fixed(2)]);
    let weight = graph.floats("weight", &[3, 2], &[1.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
    let logits = graph.node(
        "Gemm",
        &[&rows, &weight],
        "logits",
        vec![Attribute::int("transB", 1), Attribute::float("alpha", 2.0)],
    );
    graph.output(&logits, ElementType::Float, &[Dim::BATCH, Dim::Fixed(3)]);
    graph
}

fn error(graph: GraphBuilder) -> String {
    ModelFile::new(graph, "", &BTreeMap::new())
        .unwrap_err()
        .to_string()
}

#[test]
fn the_bytes_decode_to_the_graph_that_was_built() {
    let metadata = BTreeMap::from([("network".to_owned(), "test".to_owned())]);
    let model = ModelFile::new(linear(), "a test", &metadata).unwrap();
    let decoded = ModelProto::decode(model.to_bytes().as_slice()).unwrap();
    assert_eq!(decoded, model.0);
    assert_eq!(decoded.ir_version(), 8);
    assert_eq!(decoded.opset_import[0].version(), 17);
    assert_eq!(decoded.metadata_props[0].key(), "network");

    let graph = decoded.graph.unwrap();
    let Some(type_proto::Value::TensorType(input)) = &graph.input[0].r#type.as_ref().unwrap().value else {
        panic!("not a tensor");
    };
    let dims = &input.shape.as_ref().unwrap().dim;
    assert_eq!(
        dims[0].value,
        Some(dimension::Value::DimParam("batch".to_owned()))
    );
    assert_eq!(dims[1].value, Some(dimension::Value::DimValue(2)));
    assert_eq!(graph.initializer[0].raw_data()[..4], 1f32.to_le_bytes());
    assert_eq!(graph.node[0].attribute[0].i(), 1);
}

#[test]
fn mistakes_in_names_and_constants_are_reported() {
    let mut graph = linear();
    graph.node("Relu", &["typo"], "hidden", vec![]);
    assert_eq!(
        error(graph),
        "graph `linear`: node `hidden/Relu` uses `typo`, which nothing before it makes"
    );

    let mut graph = linear();
    graph.node("Relu", &["rows"], "logits", vec![]);
    assert_eq!(error(graph), "graph `linear`: the name `logits` is given twice");

    let mut graph = linear();
    graph.output("other", ElementType::Float, &[]);
    assert_eq!(error(graph), "graph `linear`: nothing makes the output `other`");

    let mut graph = linear();
    graph.floats("short", &[2, 2], &[0.0]);
    assert_eq!(
        error(graph),
        "graph `linear`: constant `short` of shape [2, 2] needs 16 bytes, found 4"
    );
}

#[test]
fn nested_graphs_see_the_values_around_them() {
    let mut body = GraphBuilder::new("body");
    let _ = body.input("turn", ElementType::Int64, &[]);
    let go_on = body.input("go_on", ElementType::Bool, &[]);
    let next = body.node("Identity", &[&go_on], "next", vec![]);
    let sum = body.node("Add", &["rows", "rows"], "sum", vec![]);
    body.output(&next, ElementType::Bool, &[]);
    body.output(&sum, ElementType::Float, &[Dim::BATCH, Dim::Fixed(2)]);
    assert!(error(body.clone()).contains("uses `rows`"));

    let mut graph = linear();
    let turns = graph.ints("turns", &[], &[3]);
    let sums = graph.node(
        "Loop",
        &[&turns, ""],
        "sums",
        vec![Attribute::graph("body", body)],
    );
    graph.output(
        &sums,
        ElementType::Float,
        &[Dim::Fixed(3), Dim::BATCH, Dim::Fixed(2)],
    );
    assert!(ModelFile::new(graph, "", &BTreeMap::new()).is_ok());
}
