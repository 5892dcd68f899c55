//! `classifyd classify`: labels for files and texts, from a local model or a running server.
//!
//! [`inputs`] turns the arguments into a list of inputs. [`local`] or [`remote`] classifies them on
//! a few threads. [`output`] prints the results in the order of the list.

mod certificate;
pub mod inputs;
pub mod local;
pub mod output;
pub mod remote;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use anyhow::{Context, Result, ensure};
use classifier::InputKind;
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};

use self::inputs::NamedInput;
use self::local::LocalModel;
use self::output::{Format, Printer};
use self::remote::RemoteServer;
use crate::cli::ClassifyArgs;
use crate::cpu;

/// Concurrent requests to a server, unless `--concurrency` says otherwise.
const REMOTE_CONCURRENCY: usize = 8;

/// The result of one input, with the members that a server sends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InputResult {
    /// The label with the highest score.
    pub label: String,
    pub score: f32,
    /// The labels with the highest scores, best first.
    pub top: Vec<LabelScore>,
    /// Whether a text was too long and only its beginning was classified.
    #[serde(default)]
    pub truncated: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LabelScore {
    pub label: String,
    /// Between 0 and 1.
    pub score: f32,
}

/// What is known about the model before the first result.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelFacts {
    /// `None`: the server chooses a model for each input.
    pub takes: Option<InputKind>,
    /// Empty if they are not known.
    pub labels: Vec<String>,
}

/// Classifies one input. Each thread has its own.
type ClassifyFn<'a> = Box<dyn FnMut(&NamedInput) -> Result<InputResult> + Send + 'a>;

enum Backend {
    Local(Box<LocalModel>),
    Remote(RemoteServer),
}

impl Backend {
    fn open(args: &ClassifyArgs) -> Result<Self> {
        Ok(match &args.url {
            Some(url) => Self::Remote(RemoteServer::connect(url, args)?),
            None => Self::Local(Box::new(LocalModel::open(args)?)),
        })
    }

    fn model(&self) -> &ModelFacts {
        match self {
            Self::Local(local) => local.model(),
            Self::Remote(remote) => remote.model(),
        }
    }

    fn workers(&self, inputs: usize, wanted: Option<usize>) -> Result<Vec<ClassifyFn<'_>>> {
        let most = match self {
            Self::Local(_) => cpu::available(),
            Self::Remote(_) => REMOTE_CONCURRENCY,
        };
        let count = wanted.unwrap_or(most).min(inputs);
        match self {
            Self::Local(local) => (0..count).map(|_| local.worker()).collect(),
            Self::Remote(remote) => Ok((0..count).map(|_| remote.worker()).collect()),
        }
    }
}

/// Classifies each input and prints its labels. An input that fails is reported, and the others are
/// still classified.
pub fn run(args: &ClassifyArgs) -> Result<()> {
    let backend = Backend::open(args)?;
    let model = backend.model();
    let expanded = inputs::expand(&args.inputs, model.takes);
    if let Some(skipped) = expanded.describe_skipped(model.takes) {
        eprintln!("classifyd: {skipped}");
    }
    let mut inputs = expanded.inputs;
    inputs.extend(args.text.iter().map(NamedInput::text));
    let workers = backend.workers(inputs.len(), args.concurrency)?;
    let format = Format::choose(args.json, std::io::stdout().is_terminal(), &inputs, &model.labels);
    let mut printer = Printer::new(std::io::stdout(), format);
    let bar = progress_bar(inputs.len());

    let (mut failed, mut right) = (0, 0);
    in_order(&inputs, workers, |input, result| {
        bar.inc(1);
        let expected = if args.labels_from_folders {
            inputs::expected_label(input, &model.labels).map(Some)
        } else {
            Ok(None)
        };
        match result.and_then(|result| Ok((result, expected?))) {
            Ok((result, expected)) => {
                right += usize::from(expected.as_ref() == Some(&result.label));
                bar.suspend(|| printer.print(&input.name, &result, expected.as_deref()))?;
            }
            Err(error) => {
                failed += 1;
                let reason = format!("{error:#}");
                bar.suspend(|| eprintln!("classifyd: {}: {reason}", input.name));
                bar.suspend(|| printer.print_failure(&input.name, &reason))?;
            }
        }
        Ok(())
    })?;
    bar.finish_and_clear();

    let classified = inputs.len() - failed;
    if args.labels_from_folders && classified > 0 {
        let accuracy = 100.0 * right as f64 / classified as f64;
        eprintln!("accuracy {accuracy:.2} %: {right} of {classified} have the label of their directory");
    }
    ensure!(failed == 0, "{failed} of {} inputs failed", inputs.len());
    Ok(())
}

/// Classifies the inputs, with a thread for each of `workers`, and passes each result to `done`, in
/// the order of the inputs.
fn in_order(
    inputs: &[NamedInput],
    workers: Vec<ClassifyFn<'_>>,
    mut done: impl FnMut(&NamedInput, Result<InputResult>) -> Result<()>,
) -> Result<()> {
    let next = &AtomicUsize::new(0);
    thread::scope(|scope| {
        let (sender, results) = mpsc::channel();
        for mut worker in workers {
            let sender = sender.clone();
            thread::Builder::new()
                .name("classify".to_owned())
                .spawn_scoped(scope, move || {
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        let Some(input) = inputs.get(at) else { break };
                        // The receiver is gone if printing has failed.
                        if sender.send((at, worker(input))).is_err() {
                            break;
                        }
                    }
                })
                .context("cannot start a thread")?;
        }
        drop(sender);
        let mut waiting = BTreeMap::new();
        let mut at = 0;
        for (index, result) in results {
            waiting.insert(index, result);
            while let Some(result) = waiting.remove(&at) {
                done(&inputs[at], result)?;
                at += 1;
            }
        }
        Ok(())
    })
}

/// Shown on standard error if that is a terminal and there is more than one input.
fn progress_bar(inputs: usize) -> ProgressBar {
    if inputs < 2 || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(inputs as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos} of {len}, {eta} left") {
        bar.set_style(style);
    }
    bar
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn result_of(label: &str) -> InputResult {
        InputResult {
            label: label.to_owned(),
            score: 1.0,
            top: Vec::new(),
            truncated: false,
        }
    }

    #[test]
    fn results_come_in_the_order_of_the_inputs_however_long_each_takes() {
        let arguments: Vec<_> = (0..40).map(|at| format!("text {at}").into()).collect();
        let inputs = inputs::expand(&arguments, Some(InputKind::Text)).inputs;
        let workers = (0..4)
            .map(|worker| {
                Box::new(move |input: &NamedInput| {
                    thread::sleep(Duration::from_millis(worker));
                    Ok(result_of(&input.name))
                }) as ClassifyFn<'_>
            })
            .collect();
        let mut printed = Vec::new();
        in_order(&inputs, workers, |input, result| {
            assert_eq!(input.name, result.unwrap().label);
            printed.push(input.name.clone());
            Ok(())
        })
        .unwrap();
        assert_eq!(printed.len(), arguments.len());
        assert!(
            arguments
                .iter()
                .zip(&printed)
                .all(|(argument, name)| argument.to_str() == Some(name))
        );
    }

    #[test]
    fn if_printing_fails_no_more_inputs_are_classified() {
        let arguments: Vec<_> = (0..1000).map(|at| format!("text {at}").into()).collect();
        let inputs = inputs::expand(&arguments, Some(InputKind::Text)).inputs;
        let asked = &AtomicUsize::new(0);
        let worker = Box::new(move |input: &NamedInput| {
            asked.fetch_add(1, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(1));
            Ok(result_of(&input.name))
        });
        let ended = in_order(&inputs, vec![worker], |_, _| anyhow::bail!("no more paper"));
        assert_eq!(ended.unwrap_err().to_string(), "no more paper");
        assert!(asked.load(Ordering::Relaxed) < 1000);
    }
}
