//! `classifyd models`: lists the models of a directory.

use std::io::Write;

use anyhow::{Result, ensure};
use bytesize::ByteSize;
use classifier::bundle::{Measured, ProblemType};
use classifier::{Bundle, InputKind, Preprocessor};
use serde::Serialize;

use crate::catalog::{self, Found};
use crate::cli::ModelsArgs;
use crate::config::{self, Config, Origins, Settings};
use crate::table;

#[derive(Debug, Clone, Serialize)]
struct ModelRow {
    name: String,
    version: u64,
    task: &'static str,
    problem_type: ProblemType,
    labels: Vec<String>,
    /// Of an image classifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    input_shape: Option<[usize; 3]>,
    /// Maximum number of tokens, of a text classifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_length: Option<usize>,
    graph_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    measured: Option<Measured>,
    /// Whether requests that name no model go to this one.
    default: bool,
    #[serde(skip)]
    kind: Option<InputKind>,
}

/// Prints a line for each model that a server with this configuration would serve. A directory that
/// cannot be read is reported, and the others are still listed.
pub fn run(args: &ModelsArgs) -> Result<()> {
    let settings = Settings {
        models: args.models.clone(),
        default_image_model: args.default_image_model.clone(),
        default_text_model: args.default_text_model.clone(),
        ..Settings::default()
    };
    let config = Config::load(settings, Origins::default(), args.config.as_deref())?;
    if let Some(unread) = config::unread(args.config.as_deref()) {
        eprintln!("classifyd: {unread}");
    }
    let found = catalog::find(&config.models, &config.pinned_versions(), catalog::tell)?;
    ensure!(
        !found.is_empty(),
        "{}: expected at least one model as <name>/<version>/model.onnx, found none",
        config.models.display()
    );
    let mut models = Vec::new();
    let mut failed = 0;
    for found in &found {
        match Bundle::open(&found.directory)
            .map_err(anyhow::Error::from)
            .and_then(|bundle| ModelRow::new(found, bundle))
        {
            Ok(model) => models.push(model),
            Err(error) => {
                failed += 1;
                eprintln!("classifyd: {error:#}");
            }
        }
    }
    mark_defaults(&mut models, &config);

    let mut output = std::io::stdout().lock();
    if args.json {
        for model in &models {
            writeln!(output, "{}", serde_json::to_string(model)?)?;
        }
    } else if !models.is_empty() {
        writeln!(output, "{}", table(&models))?;
    }
    ensure!(failed == 0, "{failed} of {} models cannot be read", found.len());
    Ok(())
}

impl ModelRow {
    fn new(found: &Found, bundle: Bundle) -> Result<Self> {
        let (task, input_shape, max_length) = match &bundle.preprocessor {
            Preprocessor::Image(image) => ("image-classification", Some(image.shape()), None),
            Preprocessor::Text(text) => ("text-classification", None, Some(text.max_length())),
        };
        Ok(Self {
            name: found.name.clone(),
            version: found.version,
            task,
            problem_type: bundle.problem_type,
            input_shape,
            max_length,
            graph_bytes: std::fs::metadata(bundle.model())?.len(),
            default: false,
            kind: Some(bundle.preprocessor.kind()),
            measured: bundle.serving.measured,
            labels: bundle.labels,
        })
    }

    fn input(&self) -> String {
        match (self.input_shape, self.max_length) {
            (Some(shape), _) => shape.map(|side| side.to_string()).join("x"),
            (None, Some(tokens)) => format!("{tokens} tokens"),
            (None, None) => String::new(),
        }
    }

    fn accuracy(&self) -> String {
        self.measured.as_ref().map_or("-".to_owned(), |measured| {
            // The split is `test` unless the column says otherwise.
            let split = if measured.split == "test" {
                String::new()
            } else {
                format!(" {}", measured.split)
            };
            let percent = 100.0 * measured.accuracy;
            format!("{percent:.2} % {}{split}", measured.dataset)
        })
    }
}

/// The default of a kind is the configured model, else the only model of the kind.
fn mark_defaults(models: &mut [ModelRow], config: &Config) {
    for (kind, configured) in [
        (InputKind::Image, &config.default_image_model),
        (InputKind::Text, &config.default_text_model),
    ] {
        let alone = models.iter().filter(|model| model.kind == Some(kind)).count() == 1;
        for model in models.iter_mut().filter(|model| model.kind == Some(kind)) {
            model.default = configured.as_ref().map_or(alone, |name| *name == model.name);
        }
    }
}

fn table(models: &[ModelRow]) -> String {
    let header = ["model", "task", "input", "labels", "size", "accuracy", "default"];
    let rows = models.iter().map(|model| {
        [
            format!("{}/{}", model.name, model.version),
            model.task.trim_end_matches("-classification").to_owned(),
            model.input(),
            model.labels.len().to_string(),
            ByteSize(model.graph_bytes).display().si().to_string(),
            model.accuracy(),
            if model.default { "yes" } else { "" }.to_owned(),
        ]
    });
    table::render(header, rows, &[3, 4])
}
