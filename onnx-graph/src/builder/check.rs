//! Checks a graph before it is written.

use std::collections::HashSet;

use crate::error::OnnxError;
use crate::proto::{GraphProto, TensorProto, tensor_proto::DataType};

/// Checks that every value is made once and before it is used, that outputs exist, and that
/// constants have the size of their shape.
pub(super) fn check(graph: &GraphProto) -> Result<(), OnnxError> {
    check_within(graph, &HashSet::new())
}

/// Checks a graph that may use the values in `outer`.
fn check_within(graph: &GraphProto, outer: &HashSet<String>) -> Result<(), OnnxError> {
    let wrong = |problem: String| OnnxError::Graph {
        graph: graph.name().to_owned(),
        problem,
    };
    let mut known = outer.clone();
    for input in &graph.input {
        define(&mut known, input.name()).map_err(wrong)?;
    }
    for constant in &graph.initializer {
        define(&mut known, constant.name()).map_err(wrong)?;
        check_size(constant).map_err(wrong)?;
    }
    for node in &graph.node {
        let mut inputs = node.input.iter().filter(|input| !input.is_empty());
        if let Some(input) = inputs.find(|input| !known.contains(*input)) {
            let name = node.name();
            return Err(wrong(format!(
                "node `{name}` uses `{input}`, which nothing before it makes"
            )));
        }
        for body in node.attribute.iter().filter_map(|attribute| attribute.g.as_ref()) {
            check_within(body, &known)?;
        }
        for output in &node.output {
            define(&mut known, output).map_err(wrong)?;
        }
    }
    if graph.output.is_empty() {
        return Err(wrong("it has no output".to_owned()));
    }
    match graph.output.iter().find(|output| !known.contains(output.name())) {
        Some(output) => Err(wrong(format!("nothing makes the output `{}`", output.name()))),
        None => Ok(()),
    }
}

fn define(known: &mut HashSet<String>, name: &str) -> Result<(), String> {
    if !name.is_empty() && !known.insert(name.to_owned()) {
        return Err(format!("the name `{name}` is given twice"));
    }
    Ok(())
}

fn check_size(constant: &TensorProto) -> Result<(), String> {
    let width = match constant.data_type() {
        code if code == DataType::Float as i32 => 4,
        code if code == DataType::Int64 as i32 => 8,
        _ => 1,
    };
    let expected = constant.dims.iter().product::<i64>() * width;
    let found = constant.raw_data().len();
    if usize::try_from(expected) == Ok(found) {
        return Ok(());
    }
    let (name, shape) = (constant.name(), &constant.dims);
    Err(format!(
        "constant `{name}` of shape {shape:?} needs {expected} bytes, found {found}"
    ))
}
