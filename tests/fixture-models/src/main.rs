//! Writes the tiny model directories that the server's tests use, each a few kilobytes:
//!
//! ```text
//! cargo run -p fixture-models -- tests/fixtures/models
//! ```
//!
//! All have the labels `a`, `b` and `c`. Most take images of 4 x 4 pixels with values between 0 and
//! 1, and their logits are the sums of the first, second and third row of pixels. Those named
//! `words` take texts, and their logits are the means of the logits that [`VOCABULARY`] gives their
//! words.

use std::{collections::BTreeMap, env, fs, path::Path};

use anyhow::{Context as _, Result};
use onnx_graph::{Attribute, Dim, ElementType, GraphBuilder, ModelFile};
use serde_json::{Value, json};

const SIDE: usize = 4;
const LABELS: [&str; 3] = ["a", "b", "c"];
const LOGITS: [Dim; 2] = [Dim::BATCH, Dim::Fixed(LABELS.len())];
const PIXELS: &str = "pixel_values";

/// The side of the square matrices that [`busy`] multiplies in each iteration.
const BUSY_SIDE: usize = 256;

struct Fixture {
    name: &'static str,
    about: &'static str,
    graph: GraphBuilder,
    input: FixtureInput,
    problem_type: &'static str,
    serving: &'static str,
}

enum FixtureInput {
    Image {
        channels: usize,
    },
    Text {
        /// Whether the tokenizer puts each text between `[CLS]` and `[SEP]`.
        special_tokens: bool,
        tokenizer_config: Value,
    },
}

/// Words with their logits. Padding has logits too, so that a graph that does not mask it gives
/// other scores.
const VOCABULARY: [(&str, [f32; 3]); 9] = [
    ("[PAD]", [-9.0, 3.0, 6.0]),
    ("[UNK]", [0.0, 0.0, 0.0]),
    ("[CLS]", [0.0, 0.0, 0.0]),
    ("[SEP]", [0.0, 0.0, 0.0]),
    ("apple", [4.0, 0.0, 0.0]),
    ("banana", [0.0, 4.0, 0.0]),
    ("cherry", [0.0, 0.0, 4.0]),
    (".", [0.0, 0.0, 0.0]),
    ("!", [0.0, 0.0, 1.0]),
];

impl Fixture {
    fn new(name: &'static str, about: &'static str, graph: GraphBuilder) -> Self {
        Self {
            name,
            about,
            graph,
            input: FixtureInput::Image { channels: 1 },
            problem_type: "single_label_classification",
            serving: "",
        }
    }

    fn write(self, root: &Path) -> Result<()> {
        let directory = root.join(self.name).join("1");
        fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        ModelFile::new(self.graph, self.about, &BTreeMap::new())?
            .with_producer("classifyd trainer", env!("CARGO_PKG_VERSION"))
            .save(&directory.join("model.onnx"))?;

        let ids = || LABELS.iter().enumerate();
        let id2label: BTreeMap<_, _> = ids().map(|(id, label)| (id.to_string(), label)).collect();
        let label2id: BTreeMap<_, _> = ids().map(|(id, label)| (label, id)).collect();
        let config = json!({
            "id2label": id2label,
            "label2id": label2id,
            "problem_type": self.problem_type,
        });
        let mut files = vec![("config.json", json_file(&config)?)];
        match &self.input {
            FixtureInput::Image { channels } => {
                files.push((
                    "preprocessor_config.json",
                    json_file(&preprocessor_config(*channels))?,
                ));
            }
            FixtureInput::Text {
                special_tokens,
                tokenizer_config,
            } => {
                files.push(("tokenizer.json", json_file(&tokenizer(*special_tokens))?));
                files.push(("tokenizer_config.json", json_file(tokenizer_config)?));
            }
        }
        if !self.serving.is_empty() {
            files.push(("serving.toml", format!("{}\n", self.serving)));
        }
        for (name, text) in files {
            let path = directory.join(name);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}

fn json_file(value: &Value) -> Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

fn preprocessor_config(channels: usize) -> Value {
    let mut config = json!({
        "do_resize": true,
        "size": { "height": SIDE, "width": SIDE },
        "resample": 2,
        "do_rescale": true,
        "rescale_factor": 1.0 / 255.0,
        "do_normalize": false,
    });
    if channels == 1 {
        config["do_convert_grayscale"] = json!(true);
    } else {
        config["do_convert_rgb"] = json!(true);
    }
    config
}

/// Removes HTML line breaks and accents, lower-cases, and splits at white space and punctuation.
fn tokenizer(special_tokens: bool) -> Value {
    let words = VOCABULARY.iter().enumerate();
    let vocabulary: BTreeMap<_, _> = words.clone().map(|(id, (word, _))| (*word, id)).collect();
    let special = words
        .filter(|(_, (word, _))| word.starts_with('['))
        .map(|(id, (word, _))| {
            json!({
                "id": id, "content": word, "special": true,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            })
        });
    let template = json!({
        "type": "TemplateProcessing",
        "single": [
            { "SpecialToken": { "id": "[CLS]", "type_id": 0 } },
            { "Sequence": { "id": "A", "type_id": 0 } },
            { "SpecialToken": { "id": "[SEP]", "type_id": 0 } },
        ],
        "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
        "special_tokens": {
            "[CLS]": { "id": "[CLS]", "ids": [2], "tokens": ["[CLS]"] },
            "[SEP]": { "id": "[SEP]", "ids": [3], "tokens": ["[SEP]"] },
        },
    });
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": special.collect::<Vec<_>>(),
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                { "type": "Replace", "pattern": { "Regex": "(?i)<br\\s*/?>" }, "content": " " },
                {
                    "type": "BertNormalizer",
                    "clean_text": true, "handle_chinese_chars": true, "strip_accents": true, "lowercase": true,
                },
            ],
        },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": if special_tokens { template } else { Value::Null },
        "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]" },
    })
}

/// The mean of the words' logits. `masked` excludes padding; `types` adds the input
/// `token_type_ids`, all of which are 0 and change nothing.
fn words(name: &str, masked: bool, types: bool) -> GraphBuilder {
    let mut graph = GraphBuilder::new(name);
    let tokens = [Dim::BATCH, Dim::Symbolic("sequence")];
    let ids = graph.input("input_ids", ElementType::Int64, &tokens);
    let logits = VOCABULARY
        .iter()
        .flat_map(|(_, logits)| *logits)
        .collect::<Vec<_>>();
    let table = graph.floats("table", &[VOCABULARY.len(), LABELS.len()], &logits);
    let mut each = graph.node("Gather", &[&table, &ids], "each", vec![Attribute::int("axis", 0)]);
    let cast = |graph: &mut GraphBuilder, from: &str, name: &str| {
        graph.node("Cast", &[from], name, vec![Attribute::int("to", 1)])
    };
    if types {
        let types = graph.input("token_type_ids", ElementType::Int64, &tokens);
        let types = cast(&mut graph, &types, "types");
        let last = graph.ints("last", &[1], &[-1]);
        let types = graph.node("Unsqueeze", &[&types, &last], "types_of_each", vec![]);
        each = graph.node("Add", &[&each, &types], "typed", vec![]);
    }
    let logits = if masked {
        let mask = graph.input("attention_mask", ElementType::Int64, &tokens);
        let mask = cast(&mut graph, &mask, "mask");
        let axis = graph.ints("axis", &[1], &[2]);
        let mask = graph.node("Unsqueeze", &[&mask, &axis], "mask_of_each", vec![]);
        let kept = graph.node("Mul", &[&each, &mask], "kept", vec![]);
        let words = graph.ints("words", &[1], &[1]);
        let no_keepdims = || vec![Attribute::int("keepdims", 0)];
        let sum = graph.node("ReduceSum", &[&kept, &words], "sum", no_keepdims());
        let count = graph.node("ReduceSum", &[&mask, &words], "count", no_keepdims());
        graph.node("Div", &[&sum, &count], "logits", vec![])
    } else {
        let mean = vec![Attribute::ints("axes", &[1]), Attribute::int("keepdims", 0)];
        graph.node("ReduceMean", &[&each], "logits", mean)
    };
    graph.output(&logits, ElementType::Float, &LOGITS);
    graph
}

/// Adds the input and the sums of its rows of pixels, as a value of this name.
fn sum_rows(graph: &mut GraphBuilder, name: &str) -> String {
    let one_channel = [Dim::BATCH, Dim::Fixed(1), Dim::Fixed(SIDE), Dim::Fixed(SIDE)];
    let pixels = graph.input(PIXELS, ElementType::Float, &one_channel);
    gemm(graph, &pixels, 1, name)
}

/// Sums each row of pixels and averages over the channels, which are the last axis.
fn gemm(graph: &mut GraphBuilder, pixels: &str, channels: usize, name: &str) -> String {
    let flat = graph.node("Flatten", &[pixels], "flat", vec![Attribute::int("axis", 1)]);
    let row = SIDE * channels;
    let weights: Vec<f32> = (0..LABELS.len() * SIDE * row)
        .map(|at| (at / (SIDE * row), at % (SIDE * row) / row))
        .map(|(label, pixel_row)| {
            if label == pixel_row {
                1.0 / channels as f32
            } else {
                0.0
            }
        })
        .collect();
    let weight = graph.floats("weight", &[LABELS.len(), SIDE * row], &weights);
    graph.node("Gemm", &[&flat, &weight], name, vec![Attribute::int("transB", 1)])
}

fn linear() -> GraphBuilder {
    let mut graph = GraphBuilder::new("linear");
    let logits = sum_rows(&mut graph, "logits");
    graph.output(&logits, ElementType::Float, &LOGITS);
    graph
}

/// Like [`linear`], with the channels last and three of them. A grey image has the same logits as
/// there.
fn linear_nhwc() -> GraphBuilder {
    let mut graph = GraphBuilder::new("linear_nhwc");
    let channels_last = [Dim::BATCH, Dim::Fixed(SIDE), Dim::Fixed(SIDE), Dim::Fixed(3)];
    let pixels = graph.input(PIXELS, ElementType::Float, &channels_last);
    let logits = gemm(&mut graph, &pixels, 3, "logits");
    graph.output(&logits, ElementType::Float, &LOGITS);
    graph
}

/// [`linear`] with the softmax in the graph.
fn probabilities() -> GraphBuilder {
    let mut graph = GraphBuilder::new("probabilities");
    let logits = sum_rows(&mut graph, "logits");
    let softmax = graph.node(
        "Softmax",
        &[&logits],
        "probabilities",
        vec![Attribute::int("axis", 1)],
    );
    graph.output(&softmax, ElementType::Float, &LOGITS);
    graph
}

/// Computes NaN for an image whose mean is above one half: the logarithm of a negative number.
fn nan() -> GraphBuilder {
    let mut graph = GraphBuilder::new("nan");
    let sums = sum_rows(&mut graph, "sums");
    let mean = graph.node(
        "ReduceMean",
        &["flat"],
        "mean",
        vec![Attribute::ints("axes", &[1]), Attribute::int("keepdims", 1)],
    );
    let half = graph.floats("half", &[], &[0.5]);
    let left = graph.node("Sub", &[&half, &mean], "left", vec![]);
    let log = graph.node("Log", &[&left], "log", vec![]);
    let zero = graph.floats("zero", &[], &[0.0]);
    let nothing = graph.node("Mul", &[&log, &zero], "nothing", vec![]);
    let logits = graph.node("Add", &[&sums, &nothing], "logits", vec![]);
    graph.output(&logits, ElementType::Float, &LOGITS);
    graph
}

/// Fails at run time for an image whose first pixel is 0.75 or brighter: it reads the fourth row of
/// a table with three.
fn fails() -> GraphBuilder {
    let mut graph = GraphBuilder::new("fails");
    let sums = sum_rows(&mut graph, "sums");
    let first = graph.ints("first", &[1], &[0]);
    let pixel = graph.node(
        "Gather",
        &["flat", &first],
        "pixel",
        vec![Attribute::int("axis", 1)],
    );
    let four = graph.floats("four", &[], &[4.0]);
    let quarters = graph.node("Mul", &[&pixel, &four], "quarters", vec![]);
    let index = graph.node("Cast", &[&quarters], "index", vec![Attribute::int("to", 7)]);
    let table = graph.floats("table", &[3], &[0.0; 3]);
    let nothing = graph.node(
        "Gather",
        &[&table, &index],
        "nothing",
        vec![Attribute::int("axis", 0)],
    );
    let logits = graph.node("Add", &[&sums, &nothing], "logits", vec![]);
    graph.output(&logits, ElementType::Float, &LOGITS);
    graph
}

/// Takes long for a white image, whatever the batch size, and no time for a black one, which the
/// server's lanes warm up with. Multiplies matrices in a loop of `turns` iterations times the
/// brightest pixel, and adds nothing to the logits.
fn busy(name: &str, turns: f32) -> GraphBuilder {
    let mut graph = GraphBuilder::new(name);
    let sums = sum_rows(&mut graph, "sums");
    let side = BUSY_SIDE as i64;
    let shape = graph.ints("shape", &[2], &[side, side]);
    // Each row sums to 1, so that the product stays in range in any number of iterations.
    let fill = vec![Attribute::scalar_tensor("value", 1.0 / BUSY_SIDE as f32)];
    let matrix = graph.node("ConstantOfShape", &[&shape], "matrix", fill);
    // The loop starts from a value that depends on the input, so that ONNX Runtime cannot compute
    // it while it loads the graph.
    let mean = graph.node(
        "ReduceMean",
        &["flat"],
        "mean",
        vec![Attribute::int("keepdims", 0)],
    );
    let start = graph.node("Add", &[&matrix, &mean], "start", vec![]);

    let square = [Dim::Fixed(BUSY_SIDE), Dim::Fixed(BUSY_SIDE)];
    let mut body = GraphBuilder::new("turn");
    body.input("turn", ElementType::Int64, &[]);
    let go_on = body.input("go_on", ElementType::Bool, &[]);
    let state = body.input("state", ElementType::Float, &square);
    let still = body.node("Identity", &[&go_on], "still", vec![]);
    let product = body.node("MatMul", &[&state, &matrix], "product", vec![]);
    body.output(&still, ElementType::Bool, &[]);
    body.output(&product, ElementType::Float, &square);

    let brightest = graph.node(
        "ReduceMax",
        &["flat"],
        "brightest",
        vec![Attribute::int("keepdims", 0)],
    );
    let most = graph.floats("most", &[], &[turns]);
    let times = graph.node("Mul", &[&brightest, &most], "times", vec![]);
    let turns = graph.node("Cast", &[&times], "turns", vec![Attribute::int("to", 7)]);
    let end = graph.node(
        "Loop",
        &[&turns, "", &start],
        "end",
        vec![Attribute::graph("body", body)],
    );
    let last = graph.node("ReduceMean", &[&end], "last", vec![Attribute::int("keepdims", 0)]);
    let zero = graph.floats("zero", &[], &[0.0]);
    let nothing = graph.node("Mul", &[&last, &zero], "nothing", vec![]);
    let logits = graph.node("Add", &[&sums, &nothing], "logits", vec![]);
    graph.output(&logits, ElementType::Float, &LOGITS);
    graph
}

fn main() -> Result<()> {
    let root = env::args_os().nth(1).context("usage: fixture-models DIRECTORY")?;
    let fixtures = [
        Fixture::new("linear", "logits are the sums of the rows of pixels", linear()),
        Fixture {
            input: FixtureInput::Image { channels: 3 },
            serving: "layout = \"nhwc\"",
            ..Fixture::new("linear_nhwc", "linear with channels last", linear_nhwc())
        },
        Fixture {
            serving: "activation = \"none\"",
            ..Fixture::new(
                "probabilities",
                "linear with its softmax in the graph",
                probabilities(),
            )
        },
        Fixture {
            problem_type: "multi_label_classification",
            ..Fixture::new("multilabel", "linear for any number of labels", linear())
        },
        Fixture::new("nan", "linear, NaN for images brighter than one half", nan()),
        Fixture::new(
            "fails",
            "linear, fails if the first pixel is 0.75 or brighter",
            fails(),
        ),
        Fixture::new(
            "slow",
            "linear, takes a fifth of a second for a white image",
            busy("slow", 700.0),
        ),
        Fixture::new(
            "hang",
            "linear, takes a minute for a white image",
            busy("hang", 200_000.0),
        ),
        Fixture {
            input: FixtureInput::Text {
                special_tokens: false,
                tokenizer_config: json!({ "model_max_length": 64, "pad_token": "[PAD]" }),
            },
            ..Fixture::new(
                "words",
                "logits are the means of those of the words",
                words("words", true, false),
            )
        },
        Fixture {
            input: FixtureInput::Text {
                special_tokens: true,
                tokenizer_config: json!({
                    "model_max_length": 40, "pad_token": { "content": "[PAD]" },
                    "padding_side": "left", "truncation_side": "left",
                }),
            },
            serving: "[text]\ntruncation = \"head_tail\"\nbuckets = [8, 24]",
            ..Fixture::new(
                "words_left",
                "words between special tokens, padded on the left, cut in the middle",
                words("words_left", true, true),
            )
        },
        Fixture {
            input: FixtureInput::Text {
                special_tokens: false,
                tokenizer_config: json!({ "model_max_length": 64, "pad_token": "[PAD]" }),
            },
            ..Fixture::new(
                "words_unmasked",
                "words whose mean counts the padding",
                words("words_unmasked", false, false),
            )
        },
    ];
    for fixture in fixtures {
        fixture.write(Path::new(&root))?;
    }
    Ok(())
}
