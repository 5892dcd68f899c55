//! Writes the table of word sequences ([`Table::logit`]) as nodes of a graph.

use std::collections::BTreeMap;

use onnx_graph::{Attribute, GraphBuilder};

use super::ngrams::{self, Table};

/// ONNX's code for 32-bit floats.
const FLOAT: i64 = 1;
/// ONNX's code for truth values.
const BOOL: i64 = 9;

/// Adds nodes that compute the sum of the weights of a review's word sequences, without the table's
/// scale and bias. Returns the name of their output, whose shape is `[batch, 1]`.
pub(super) fn add(graph: &mut GraphBuilder, table: &Table, ids: &str, mask: &str) -> String {
    let roots = graph.bytes("sequence_roots", &[table.roots.len()], &table.roots);
    let no_place = graph.ints("no_place", &[], &[ngrams::PLACES]);
    let axis = graph.ints("position_axis", &[1], &[1]);
    let places = add_places(graph, ids, mask, &no_place, &axis);
    let single = add_distinct(graph, &places, ids, &no_place, &axis);

    let found = graph.node("Gather", &[&roots, &single], "roots_found", vec![]);
    let found = graph.node("Cast", &[&found], "roots", to(FLOAT));
    let sizes = graph.node("Abs", &[&found], "root_sizes", vec![]);
    let weights = graph.node("Mul", &[&found, &sizes], "sequence_weights", vec![]);
    let kinds_and_words = graph.ints("kinds_and_words", &[2], &[1, 2]);
    let sum = graph.node(
        "ReduceSum",
        &[&weights, &kinds_and_words],
        "sequence_sums",
        vec![Attribute::int("keepdims", 0)],
    );
    graph.node("Unsqueeze", &[&sum, &axis], "sequence_sum", vec![])
}

fn to(element_type: i64) -> Vec<Attribute> {
    vec![Attribute::int("to", element_type)]
}

/// Adds nodes that compute each sequence's place in the table: `[batch, kinds, words]`.
fn add_places(graph: &mut GraphBuilder, ids: &str, mask: &str, no_place: &str, axis: &str) -> String {
    let reach = ngrams::REACH as i64;
    let bits = graph.node("Cast", &[mask], "mask_bits", to(BOOL));
    let places = graph.ints("places", &[], &[ngrams::PLACES]);
    // Positions are appended after the last word, so that every kind has as many places as words.
    let ends = graph.ints("room", &[4], &[0, 0, 0, reach]);
    let zero = graph.ints("zero", &[], &[0]);
    let longer = |graph: &mut GraphBuilder, value: &str, name: &str| {
        let masked = format!("{name}_masked");
        let whole = graph.node("Where", &[&bits, value, &zero], &masked, vec![]);
        graph.node("Pad", &[&whole, &ends], name, vec![])
    };
    let ones = graph.ints("one", &[], &[1]);
    let real = longer(graph, &ones, "words_with_room");
    let factors: Vec<String> = (0..ngrams::FACTORS.len())
        .map(|at| graph.ints(&format!("hash_factor_{at}"), &[], &[ngrams::FACTORS[at]]))
        .collect();
    let products: Vec<String> = factors
        .iter()
        .enumerate()
        .map(|(at, factor)| {
            let product = graph.node("Mul", &[ids, factor], &format!("hash_product_{at}"), vec![]);
            longer(graph, &product, &format!("hash_{at}"))
        })
        .collect();
    let starts = add_offsets(graph, reach);
    let shifted = |graph: &mut GraphBuilder, value: &str, offset: usize, name: &str| {
        let (start, end) = &starts[&offset];
        graph.node("Slice", &[value, start, end, axis], name, vec![])
    };
    let mut kinds = Vec::new();
    for (at, kind) in ngrams::KINDS.iter().enumerate() {
        let mut hash = graph.ints(&format!("salt_{at}"), &[], &[kind.salt]);
        for (word, &offset) in kind.offsets.iter().enumerate() {
            let product = shifted(graph, &products[word], offset, &format!("kind_{at}_word_{word}"));
            let sum = format!("kind_{at}_sum_{word}");
            hash = graph.node("Add", &[&hash, &product], &sum, vec![]);
        }
        let place = graph.node("Mod", &[&hash, &places], &format!("kind_{at}_place"), vec![]);
        // Padding is at the end, so the last word is real only if all words are.
        let last = kind.offsets.last().copied().unwrap_or(0);
        let real = shifted(graph, &real, last, &format!("kind_{at}_real"));
        let real = graph.node("Cast", &[&real], &format!("kind_{at}_bits"), to(BOOL));
        let or_none = format!("kind_{at}_or_none");
        let place = graph.node("Where", &[&real, &place, no_place], &or_none, vec![]);
        kinds.push(graph.node("Unsqueeze", &[&place, axis], &format!("kind_{at}_row"), vec![]));
    }
    let kinds: Vec<&str> = kinds.iter().map(String::as_str).collect();
    graph.node("Concat", &kinds, "places_found", vec![Attribute::int("axis", 1)])
}

/// The first and the last position of a sequence's words, by their offset.
fn add_offsets(graph: &mut GraphBuilder, reach: i64) -> BTreeMap<usize, (String, String)> {
    let mut offsets = BTreeMap::new();
    for offset in 0..=reach {
        let end = if offset == reach { i64::MAX } else { offset - reach };
        let start = graph.ints(&format!("start_{offset}"), &[1], &[offset]);
        let end = graph.ints(&format!("end_{offset}"), &[1], &[end]);
        offsets.insert(offset as usize, (start, end));
    }
    offsets
}

/// Adds nodes that keep each place once. Sorted, a place is new if it differs from the one before.
fn add_distinct(graph: &mut GraphBuilder, places: &str, ids: &str, no_place: &str, axis: &str) -> String {
    let shape = graph.node("Shape", &[ids], "shape", vec![]);
    let length = graph.node("Gather", &[&shape, axis], "length", vec![]);
    let rising = vec![
        Attribute::int("axis", 2),
        Attribute::int("largest", 0),
        Attribute::int("sorted", 1),
    ];
    graph.node_with_outputs("TopK", &[places, &length], &["sorted", "sorted_order"], rising);
    let before = graph.ints("room_before", &[6], &[0, 0, 1, 0, 0, 0]);
    let none = graph.ints("before_all", &[], &[-1]);
    let moved = graph.node("Pad", &["sorted", &before, &none], "moved_longer", vec![]);
    let first = graph.ints("from_first", &[1], &[0]);
    let end = graph.ints("to_last", &[1], &[-1]);
    let along = graph.ints("sorted_axis", &[1], &[2]);
    let moved = graph.node("Slice", &[&moved, &first, &end, &along], "moved", vec![]);
    let same = graph.node("Equal", &["sorted", &moved], "same", vec![]);
    graph.node("Where", &[&same, no_place, "sorted"], "single", vec![])
}
