//! Removes what is no longer needed.

use std::collections::HashSet;

use crate::proto::{AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto};

/// Removes everything that `value` does not need.
pub(super) fn prune(graph: &mut GraphProto, value: &str) -> Result<(), String> {
    let mut needed = HashSet::from([value.to_owned()]);
    // A node comes after those that make its inputs.
    let mut keep: Vec<bool> = Vec::with_capacity(graph.node.len());
    for node in graph.node.iter().rev() {
        let kept = node.output.iter().any(|output| needed.contains(output));
        if kept {
            add_used(node, &mut needed);
        }
        keep.push(kept);
    }
    let mut keep = keep.into_iter().rev();
    graph.node.retain(|_| keep.next().unwrap_or(true));
    graph
        .initializer
        .retain(|constant| needed.contains(constant.name()));
    graph.sparse_initializer.retain(|constant| {
        constant
            .values
            .as_ref()
            .is_some_and(|values| needed.contains(values.name()))
    });
    graph
        .quantization_annotation
        .retain(|note| needed.contains(note.tensor_name()));
    graph.input.retain(|input| needed.contains(input.name()));
    // Notes on intermediate values are optional, and wrong for those that have changed.
    graph.value_info.clear();
    check_inputs(graph)
}

/// Checks that every node still has its inputs.
fn check_inputs(graph: &GraphProto) -> Result<(), String> {
    let made = graph
        .node
        .iter()
        .flat_map(|node| &node.output)
        .map(String::as_str);
    let sparse = graph
        .sparse_initializer
        .iter()
        .filter_map(|constant| constant.values.as_ref());
    let constants = graph.initializer.iter().chain(sparse).map(TensorProto::name);
    let given = graph.input.iter().map(ValueInfoProto::name);
    let known: HashSet<&str> = made.chain(constants).chain(given).collect();
    for node in &graph.node {
        let mut inputs = node.input.iter().filter(|input| !input.is_empty());
        if let Some(input) = inputs.find(|input| !known.contains(input.as_str())) {
            return Err(format!(
                "{} `{}` needs `{input}`, which belongs to the last dense layer",
                node.op_type(),
                node.name()
            ));
        }
    }
    Ok(())
}

/// Adds the names of the values that a node and the graphs nested in it use.
fn add_used(node: &NodeProto, needed: &mut HashSet<String>) {
    needed.extend(node.input.iter().filter(|input| !input.is_empty()).cloned());
    let nested = |attribute: &'_ AttributeProto| -> Vec<GraphProto> {
        attribute.g.iter().chain(&attribute.graphs).cloned().collect()
    };
    for graph in node.attribute.iter().flat_map(nested) {
        needed.extend(graph.output.iter().map(|output| output.name().to_owned()));
        for node in &graph.node {
            add_used(node, needed);
        }
    }
}
