//! The files of a training run. With them it can be resumed at any step.
//!
//! | file | contents |
//! |---|---|
//! | `config.json` | the run's [`Config`] |
//! | `state.json` | the progress, which names the current files below; replaced atomically |
//! | `checkpoint-<steps>.safetensors` | weights, their running average and the optimizer's moments |
//! | `best-<epoch>.safetensors` | the averaged weights of the epoch with the best validation accuracy |

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

use super::{Config, Epoch, Start, schedule::Plateau};
use crate::{
    files::{create, read_json, write_json},
    network::{Network, Weights},
    optimizer::Optimizer,
};

const CONFIG: &str = "config.json";
const STATE: &str = "state.json";

/// The progress of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    /// Completed epochs.
    pub(super) epoch: u32,
    /// Completed steps of the current epoch.
    pub(super) step: usize,
    /// Completed steps of the whole run.
    pub(super) steps: i64,
    /// Samples of the current epoch that were trained on.
    pub(super) seen: usize,
    /// The sum of the losses of these samples.
    pub(super) loss: f64,
    /// How many of these samples were classified correctly.
    pub(super) right: i64,
    pub(super) plateau: Plateau,
    pub(super) history: Vec<Epoch>,
    /// The epoch with the best validation accuracy, and among equals the smallest validation loss.
    pub(super) best: Option<Epoch>,
}

impl State {
    /// Adds a completed epoch. Returns whether it is the best so far.
    pub(super) fn finish_epoch(&mut self, epoch: Epoch) -> bool {
        let better = self.best.as_ref().is_none_or(|best| {
            epoch.validation_accuracy > best.validation_accuracy
                || (epoch.validation_accuracy >= best.validation_accuracy
                    && epoch.validation_loss < best.validation_loss)
        });
        if better {
            self.best = Some(epoch.clone());
        }
        self.history.push(epoch);
        self.epoch += 1;
        self.step = 0;
        self.seen = 0;
        self.loss = 0.0;
        self.right = 0;
        better
    }

    pub(super) fn out_of_patience(&self, patience: u32) -> bool {
        self.best
            .as_ref()
            .is_some_and(|best| self.epoch - best.epoch >= patience)
    }
}

#[derive(Debug)]
pub(super) struct Checkpoint {
    pub(super) state: State,
    pub(super) network: Weights,
    pub(super) average: Weights,
    pub(super) moments: Weights,
}

#[derive(Debug)]
pub(super) struct Run {
    directory: PathBuf,
}

impl Run {
    pub(super) fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_path_buf(),
        }
    }

    /// Whether the directory has a checkpoint.
    pub(super) fn is_used(&self) -> bool {
        self.path(STATE).exists()
    }

    pub(super) fn state(&self) -> Result<State> {
        read_json(&self.path(STATE))
    }

    /// Prepares the directory. Returns the checkpoint if the run is resumed.
    pub(super) fn begin(&self, config: &Config, start: Start) -> Result<Option<Checkpoint>> {
        let used = self.is_used();
        match start {
            Start::Fresh if used => bail!(
                "{}: holds the checkpoint of an earlier run: pass --resume to go on from it, --restart to discard it, \
                 or another directory with --run",
                self.directory.display()
            ),
            Start::Resume if used => {
                let saved: Config = read_json(&self.path(CONFIG))?;
                self.check_config(config, &saved)?;
                return self.load().map(Some);
            }
            Start::Restart => self.clear(|_| true)?,
            Start::Fresh | Start::Resume => {}
        }
        create(&self.directory)?;
        write_json(&self.path(CONFIG), config)?;
        Ok(None)
    }

    /// Writes a checkpoint, then deletes the earlier ones.
    pub(super) fn save(
        &self,
        state: &State,
        network: &Network,
        average: &Network,
        optimizer: &Optimizer,
    ) -> Result<()> {
        let moments = optimizer.state();
        let parts = [
            ("network", network.weights()),
            ("average", average.weights()),
            ("moments", &moments),
        ];
        let tensors: Vec<(String, Tensor)> = parts
            .into_iter()
            .flat_map(|(part, weights)| {
                weights
                    .iter()
                    .map(move |(name, tensor)| (format!("{part}/{name}"), on_cpu(tensor)))
            })
            .collect();
        let name = checkpoint_name(state);
        write_tensors(&self.path(&name), &tensors)?;
        write_json(&self.path(STATE), state)?;
        let best = best_name(state).ok();
        self.clear(|file| {
            (file.starts_with("checkpoint-") && file != name)
                || (file.starts_with("best-") && Some(file) != best.as_deref())
        })
    }

    /// Writes the weights of the best epoch. The weights of the previous best epoch stay until the
    /// next checkpoint is written, since until then a resumed run would use them.
    pub(super) fn save_best(&self, state: &State, average: &Network) -> Result<()> {
        let tensors: Vec<(String, Tensor)> = average
            .weights()
            .iter()
            .map(|(name, tensor)| (name.clone(), on_cpu(tensor)))
            .collect();
        write_tensors(&self.path(&best_name(state)?), &tensors)
    }

    /// Reads the weights of the best epoch.
    pub(super) fn best(&self, state: &State) -> Result<Weights> {
        Ok(read_tensors(&self.path(&best_name(state)?))?
            .into_iter()
            .collect())
    }

    fn load(&self) -> Result<Checkpoint> {
        let state = self.state()?;
        let path = self.path(&checkpoint_name(&state));
        let mut parts = [Weights::new(), Weights::new(), Weights::new()];
        for (name, tensor) in read_tensors(&path)? {
            let at = match name.split_once('/') {
                Some(("network", rest)) => (0, rest),
                Some(("average", rest)) => (1, rest),
                Some(("moments", rest)) => (2, rest),
                _ => bail!(
                    "{}: expected a checkpoint, found a tensor `{name}`",
                    path.display()
                ),
            };
            parts[at.0].insert(at.1.to_owned(), tensor);
        }
        let [network, average, moments] = parts;
        Ok(Checkpoint {
            state,
            network,
            average,
            moments,
        })
    }

    /// Checks that a resumed run has the settings it was started with.
    fn check_config(&self, asked: &Config, saved: &Config) -> Result<()> {
        let (asked, saved) = (serde_json::to_value(asked)?, serde_json::to_value(saved)?);
        let keys = saved.as_object().into_iter().flat_map(serde_json::Map::keys);
        for key in keys {
            if asked[key] != saved[key] {
                bail!(
                    "{}: `{key}`: expected {}, with which the run was begun, found {}: resume with the same options",
                    self.path(CONFIG).display(),
                    saved[key],
                    asked[key]
                );
            }
        }
        Ok(())
    }

    /// Deletes the files of the run that `unwanted` selects. Other files are left alone.
    fn clear(&self, unwanted: impl Fn(&str) -> bool) -> Result<()> {
        let Ok(entries) = fs::read_dir(&self.directory) else {
            return Ok(());
        };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let ours = name == STATE
                || name == CONFIG
                || [".safetensors", ".part"].iter().any(|end| name.ends_with(end))
                    && ["best-", "checkpoint-"]
                        .iter()
                        .any(|start| name.starts_with(start));
            if ours && unwanted(&name) {
                fs::remove_file(entry.path())
                    .with_context(|| format!("cannot remove {}", entry.path().display()))?;
            }
        }
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

fn checkpoint_name(state: &State) -> String {
    format!("checkpoint-{}.safetensors", state.steps)
}

fn best_name(state: &State) -> Result<String> {
    let best = state
        .best
        .as_ref()
        .context("the run has not completed an epoch")?;
    Ok(format!("best-{}.safetensors", best.epoch))
}

fn on_cpu(tensor: &Tensor) -> Tensor {
    tensor.detach().to_device(Device::Cpu)
}

fn read_tensors(path: &Path) -> Result<Vec<(String, Tensor)>> {
    Tensor::read_safetensors(path).with_context(|| format!("{}: expected a safetensors file", path.display()))
}

/// Writes a temporary file and renames it, so that the file is complete if it exists.
fn write_tensors(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    let aside = path.with_extension("part");
    let named: Vec<(&str, &Tensor)> = tensors
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor))
        .collect();
    Tensor::write_safetensors(&named, &aside).with_context(|| format!("cannot write {}", aside.display()))?;
    fs::rename(&aside, path).with_context(|| format!("cannot write {}", path.display()))
}
