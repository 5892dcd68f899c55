//! `classifyd classify`: answers on the command line.
//!
//! [`inputs`] makes a list of the arguments, [`local`] or [`remote`] answers each of them on a few threads, [`output`] prints the
//! answers in the order of the list.

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

use self::inputs::Input;
use self::local::Local;
use self::output::{Format, Printer};
use self::remote::Remote;
use crate::cli::ClassifyArgs;
use crate::cpu;

/// Requests under way at once, where the command line does not say.
const REMOTE_CONCURRENCY: usize = 8;

/// What is said about one input; a server sends the same members.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The label with the highest score.
    pub label: String,
    /// Its score.
    pub score: f32,
    /// The best labels, best first.
    pub top: Vec<Scored>,
    /// Whether only a part of the input, a text that is too long, was looked at.
    #[serde(default)]
    pub truncated: bool,
}

/// A label with its score.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    /// The label.
    pub label: String,
    /// Between 0 and 1.
    pub score: f32,
}

/// What is known about the model before it is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Model {
    /// What it takes. None: the server chooses a model for each input.
    pub takes: Option<InputKind>,
    /// Its labels; empty if they are not known.
    pub labels: Vec<String>,
}

/// Answers one input after the other, on a thread of its own.
type Worker<'a> = Box<dyn FnMut(&Input) -> Result<Answer> + Send + 'a>;

enum Backend {
    Local(Box<Local>),
    Remote(Remote),
}

impl Backend {
    fn open(args: &ClassifyArgs) -> Result<Self> {
        Ok(match &args.url {
            Some(url) => Self::Remote(Remote::connect(url, args)?),
            None => Self::Local(Box::new(Local::open(args)?)),
        })
    }

    fn model(&self) -> &Model {
        match self {
            Self::Local(local) => local.model(),
            Self::Remote(remote) => remote.model(),
        }
    }

    fn workers(&self, inputs: usize, wanted: Option<usize>) -> Result<Vec<Worker<'_>>> {
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

/// Classifies each input and prints its labels. An input that fails is reported, and the others are still classified.
pub fn run(args: &ClassifyArgs) -> Result<()> {
    let backend = Backend::open(args)?;
    let model = backend.model();
    let expanded = inputs::expand(&args.inputs, model.takes);
    if let Some(left_out) = expanded.tell_left_out(model.takes) {
        eprintln!("classifyd: {left_out}");
    }
    let mut inputs = expanded.inputs;
    inputs.extend(args.text.iter().map(Input::text));
    let workers = backend.workers(inputs.len(), args.concurrency)?;
    let format = Format::choose(args.json, std::io::stdout().is_terminal(), &inputs, &model.labels);
    let mut printer = Printer::new(std::io::stdout(), format);
    let bar = progress_bar(inputs.len());

    let (mut failed, mut right) = (0, 0);
    in_order(&inputs, workers, |input, answer| {
        bar.inc(1);
        let expected = if args.labels_from_folders {
            inputs::expected_label(input, &model.labels).map(Some)
        } else {
            Ok(None)
        };
        match answer.and_then(|answer| Ok((answer, expected?))) {
            Ok((answer, expected)) => {
                right += usize::from(expected.as_ref() == Some(&answer.label));
                bar.suspend(|| printer.print(&input.name, &answer, expected.as_deref()))?;
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

    let answered = inputs.len() - failed;
    if args.labels_from_folders && answered > 0 {
        let accuracy = 100.0 * right as f64 / answered as f64;
        eprintln!("accuracy {accuracy:.2} %: {right} of {answered} have the label of their folder");
    }
    ensure!(failed == 0, "{failed} of {} inputs failed", inputs.len());
    Ok(())
}

/// Gives each input to one of the workers, and each result to `done`, in the order of the inputs.
fn in_order(
    inputs: &[Input],
    workers: Vec<Worker<'_>>,
    mut done: impl FnMut(&Input, Result<Answer>) -> Result<()>,
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
                        // Nobody listens any more when printing has failed.
                        if sender.send((at, worker(input))).is_err() {
                            break;
                        }
                    }
                })
                .context("no thread could be started")?;
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

/// On standard error, if that is a terminal and there is something to wait for.
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

    fn answer(label: &str) -> Answer {
        Answer {
            label: label.to_owned(),
            score: 1.0,
            top: Vec::new(),
            truncated: false,
        }
    }

    #[test]
    fn answers_come_in_the_order_of_the_inputs_however_long_each_takes() {
        let arguments: Vec<_> = (0..40).map(|at| format!("text {at}").into()).collect();
        let inputs = inputs::expand(&arguments, Some(InputKind::Text)).inputs;
        let workers = (0..4)
            .map(|worker| {
                Box::new(move |input: &Input| {
                    thread::sleep(Duration::from_millis(worker));
                    Ok(answer(&input.name))
                }) as Worker<'_>
            })
            .collect();
        let mut printed = Vec::new();
        in_order(&inputs, workers, |input, answer| {
            assert_eq!(input.name, answer.unwrap().label);
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
    fn printing_that_fails_ends_the_work() {
        let arguments: Vec<_> = (0..1000).map(|at| format!("text {at}").into()).collect();
        let inputs = inputs::expand(&arguments, Some(InputKind::Text)).inputs;
        let asked = &AtomicUsize::new(0);
        let worker = Box::new(move |input: &Input| {
            asked.fetch_add(1, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(1));
            Ok(answer(&input.name))
        });
        let result = in_order(&inputs, vec![worker], |_, _| anyhow::bail!("no more paper"));
        assert_eq!(result.unwrap_err().to_string(), "no more paper");
        assert!(asked.load(Ordering::Relaxed) < 1000);
    }
}
