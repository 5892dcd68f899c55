//! The loads of the comparison, and how each server is started for them.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::server::{Launch, serve_command};

/// A model, an input, and numbers of connections.
#[derive(Debug, Clone)]
pub struct Load {
    /// `mlp`, `digits` or `resnet18`.
    pub name: &'static str,
    /// Model directory.
    pub model: PathBuf,
    /// Directory with this model alone, for `classifyd serve --models`.
    pub root: PathBuf,
    /// File to send.
    pub input: PathBuf,
    /// Numbers of connections to measure with.
    pub connections: &'static [usize],
    /// Whether a run takes milliseconds, which is too long for an async worker.
    pub heavy: bool,
    /// Whether peers can serve it. They cannot frame the ink of a digit; only the crate
    /// `classifier` can.
    pub peers: bool,
}

/// The loads that `make bench` knows.
pub const LOADS: [&str; 3] = ["mlp", "digits", "resnet18"];

impl Load {
    /// Finds the files of a load, and copies the model into a directory of its own below `work`.
    pub fn find(name: &str, repository: &Path, work: &Path) -> Result<Self> {
        let benches = repository.join("benches");
        let (name, model, input, connections, heavy) = match name {
            "mlp" => (
                "mlp",
                benches.join("models/mlp/1"),
                "digit.png",
                &[64, 8, 1][..],
                false,
            ),
            "digits" => (
                "digits",
                newest(&repository.join("models/digits"))?,
                "digit.png",
                &[64, 8, 1][..],
                false,
            ),
            "resnet18" => (
                "resnet18",
                benches.join("models/resnet18/1"),
                "photo.jpg",
                &[16, 1][..],
                true,
            ),
            other => bail!("expected a load out of {}, found {other:?}", LOADS.join(", ")),
        };
        let input = benches.join("inputs").join(input);
        for file in [&model.join("model.onnx"), &input] {
            ensure!(
                file.is_file(),
                "{} is not there: run benches/make_models.py",
                file.display()
            );
        }
        let root = work.join(name);
        copy(&model, &root.join(name).join("1"))?;
        Ok(Self {
            name,
            model,
            root,
            input,
            connections,
            heavy,
            peers: name != "digits",
        })
    }
}

/// The directory with the highest number.
fn newest(model: &Path) -> Result<PathBuf> {
    let versions = fs::read_dir(model).with_context(|| model.display().to_string())?;
    versions
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u64>().ok())
        .max()
        .map(|version| model.join(version.to_string()))
        .with_context(|| format!("{}: expected a version, found none", model.display()))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| to.display().to_string())?;
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target).with_context(|| target.display().to_string())?;
        }
    }
    Ok(())
}

/// The peers.
pub const PEERS: [&str; 5] = ["mosec", "fastapi", "litserve", "bentoml", "mlserver"];

/// How a server is started.
#[derive(Debug, Clone)]
pub struct Subject {
    /// `classifyd`, `floor0`, `floor1`, or a peer.
    pub name: String,
    /// Directory with the programs that were built.
    pub programs: PathBuf,
    /// Root of the repository.
    pub repository: PathBuf,
    /// Port to listen on.
    pub port: u16,
}

impl Subject {
    /// Whether it is one of [`PEERS`].
    pub fn is_peer(&self) -> bool {
        PEERS.contains(&self.name.as_str())
    }

    /// The settings with which this server is fastest under a load.
    pub fn launch(&self, load: &Load, connections: usize, cores: usize) -> Launch {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let program = |name: &str| self.programs.join(name).display().to_string();
        let mut command: Vec<String> = match self.name.as_str() {
            "classifyd" => serve_command(&self.programs.join("classifyd"), &load.root, address),
            "floor0" => vec![program("floor0"), "--listen".into(), address.to_string()],
            "floor1" => vec![
                program("floor1"),
                "--model".into(),
                load.root.join(load.name).join("1").display().to_string(),
                "--listen".into(),
                address.to_string(),
            ],
            peer => vec![
                self.repository.join("benches/peers/run.sh").display().to_string(),
                peer.into(),
                self.port.to_string(),
                load.root.join(load.name).join("1").display().to_string(),
                connections.to_string(),
            ],
        };
        if self.name == "floor1" && load.heavy {
            command.push("--blocking".into());
            if connections < cores {
                // A lone request is faster with all cores.
                command.extend([
                    "--sessions".into(),
                    "1".into(),
                    "--threads".into(),
                    cores.to_string(),
                ]);
            }
        }
        Launch { command, address }
    }
}
