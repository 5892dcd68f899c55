//! Files that the programs write and hosts that they contact, as the kernel sees it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::harness::{Server, root, shipped_models};

/// Where a traced program may write besides the directory that it was given.
const DEVICES: [&str; 4] = ["/dev/null", "/dev/tty", "/dev/pts", "/proc/self"];

/// The files that a traced program opened for writing, and its connections.
struct Trace {
    text: String,
}

impl Trace {
    /// Runs a program under strace with an empty home, and interrupts it after `limit`.
    fn of(program: &Path, arguments: &[&str], limit: Duration) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let trace = directory.path().join("trace");
        let home = directory.path().join("home");
        std::fs::create_dir(&home).unwrap();
        let status = Command::new("strace")
            .args([
                "--follow-forks",
                "--trace=%file,%network",
                "--string-limit=300",
                "--output",
            ])
            .arg(&trace)
            .arg("timeout")
            .args(["--preserve-status", "--signal=INT", &limit.as_secs().to_string()])
            .arg(program)
            .args(arguments)
            .current_dir(root())
            .env_remove("ORT_DISABLE_TELEMETRY")
            .env_remove("XDG_CACHE_HOME")
            .env("HOME", &home)
            .env(
                "ORT_DYLIB_PATH",
                root().join(".onnxruntime/libonnxruntime.so.1.31.1"),
            )
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "{} {arguments:?}: {status}", program.display());
        let left: Vec<_> = std::fs::read_dir(&home).unwrap().collect();
        assert!(
            left.is_empty(),
            "{} {arguments:?} left {left:?}",
            program.display()
        );
        let text = std::fs::read_to_string(&trace).unwrap();
        Self { text }
    }

    fn loads_the_library(&self) -> bool {
        let mut lines = self.text.lines();
        lines.any(|line| {
            line.contains("openat(") && line.contains("libonnxruntime") && !line.contains(" = -1 ")
        })
    }

    fn written(&self) -> Vec<&str> {
        self.text.lines().filter(|line| is_written(line)).collect()
    }

    fn outside(&self) -> Vec<&str> {
        self.text.lines().filter(|line| leaves(line)).collect()
    }
}

fn is_written(line: &str) -> bool {
    let opened = line.contains("O_WRONLY") || line.contains("O_RDWR") || line.contains("O_CREAT");
    let made = line.contains(" mkdir") || line.contains(" rename");
    let succeeded = !line.contains(" = -1 ");
    succeeded && (opened || made) && !DEVICES.iter().any(|device| line.contains(device))
}

/// A connection or datagram to another machine or to a name service.
fn leaves(line: &str) -> bool {
    let sends = ["connect(", "sendto(", "sendmsg(", "sendmmsg("]
        .iter()
        .any(|call| line.contains(call));
    let named = line.contains("sin_addr")
        || line.contains("sin6_addr")
        || line.contains("nscd")
        || line.contains("resolved");
    let stays = line.contains("127.0.0.1") || line.contains("\"::1\"");
    let looks_up = line.contains("htons(53)");
    sends && named && (looks_up || !stays)
}

fn assert_private(trace: &Trace) {
    assert_eq!(trace.outside(), Vec::<&str>::new(), "it reached out");
    assert_eq!(trace.written(), Vec::<&str>::new(), "it wrote");
}

#[test]
#[ignore = "needs strace: make test-system"]
fn no_command_writes_files_or_resolves_hosts_that_were_not_configured() {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_classifyd"));
    let image = "models/digits/1/golden/7_0.png";
    let local: [&[&str]; 3] = [
        &["serve", "--listen", "127.0.0.1:0", "--models", "models"],
        &["classify", "--models", "models", "--model", "digits", image],
        &["check", "models/digits/1"],
    ];
    for arguments in local {
        // The library used to resolve a host name within a second, and others every few seconds.
        let trace = Trace::of(&program, arguments, Duration::from_secs(15));
        assert!(trace.loads_the_library(), "{arguments:?}");
        assert_private(&trace);
    }

    let server = Server::start(&shipped_models(), &[]);
    let url = format!("http://{}", server.address);
    let remote = [
        "--model",
        "digits",
        "--file",
        image,
        "--concurrency",
        "1",
        "--duration",
        "1s",
    ];
    let bench = [&["bench", &url], &remote[..]].concat();
    assert_private(&Trace::of(&program, &bench, Duration::from_mins(1)));
    let classify = ["classify", "--url", &url, "--model", "digits", image];
    assert_private(&Trace::of(&program, &classify, Duration::from_mins(1)));
}

#[test]
#[ignore = "needs strace: make test-system"]
fn the_trainer_writes_no_files_and_resolves_no_hosts_that_were_not_configured() {
    let trainer = PathBuf::from(env!("CARGO_BIN_EXE_classifyd")).with_file_name("trainer");
    if !trainer.is_file() {
        eprintln!("left out: {} is not built", trainer.display());
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    for label in ["cat", "dog"] {
        std::fs::create_dir_all(data.join(label)).unwrap();
        for number in 0..12_u8 {
            let level = if label == "cat" { number } else { 255 - number };
            let image = image::GrayImage::from_pixel(8, 8, image::Luma([level]));
            image
                .save(data.join(label).join(format!("{number}.png")))
                .unwrap();
        }
    }
    let run = directory.path().join("run");
    let (data, run) = (data.display().to_string(), run.display().to_string());
    let train = [
        "train",
        "folder",
        "--data",
        &data,
        "--from",
        "models/images/1",
        "--run",
        &run,
    ];
    let trace = Trace::of(&trainer, &train, Duration::from_mins(5));
    assert!(trace.loads_the_library());
    assert_eq!(trace.outside(), Vec::<&str>::new(), "it reached out");
    let written = trace.written().into_iter();
    let elsewhere: Vec<_> = written.filter(|line| !line.contains(&run)).collect();
    assert_eq!(elsewhere, Vec::<&str>::new(), "it wrote");
}
