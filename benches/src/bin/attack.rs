//! Puts loads on classifyd that are made to hurt it, each on a fresh server with the shipped models and configuration, and shows what
//! they cost: memory, CPU time, threads, and how long others wait meanwhile.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use benches::server::{Launch, Server};
use benches::{classify_target, evil, page};
use bytes::{Bytes, BytesMut};
use clap::Parser;
use load::{Response, ResponseReader};
use rustix::process::{Resource, Rlimit, getrlimit, setpriority_process, setrlimit};

/// Longest wait for an answer, of an attacker and of the others.
const TIMEOUT: Duration = Duration::from_mins(1);
/// Time between two probes, two small requests and two readings.
const EVERY: Duration = Duration::from_millis(50);
/// Most time that a server gets to end what it still does after the load.
const SETTLE: Duration = Duration::from_secs(30);

/// What is expected of every load.
const MOST_MEMORY: u64 = 1 << 30;
const LONGEST_PROBE: Duration = Duration::from_millis(250);
const LONGEST_HONEST: Duration = Duration::from_secs(1);
/// What 24 pictures of 28 bytes may add.
const MOST_ADDED: u64 = 500 << 20;

/// The others have an address of their own.
const ATTACKER: Ipv4Addr = Ipv4Addr::LOCALHOST;
const HONEST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Puts loads on classifyd that are made to hurt it, and shows what they cost.
#[derive(Parser)]
struct Args {
    /// Folder with the models to serve.
    #[arg(long, default_value = "models")]
    models: PathBuf,
    /// Configuration of the server.
    #[arg(long, default_value = "classifyd.toml")]
    config: PathBuf,
    /// Only the loads whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Seconds of those loads that go on for a time.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Part of the sizes and numbers, to try whether it works.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Port to listen on.
    #[arg(long, default_value_t = 8297)]
    port: u16,
    /// Port for probes and metrics.
    #[arg(long, default_value_t = 8296)]
    admin_port: u16,
    /// Folder with the server's program. Default: the one that this program is in.
    #[arg(long)]
    programs: Option<PathBuf>,
    /// Sends small requests, `livez` or `classify`, to an address until the standard input ends: what this program starts for itself.
    #[arg(long, hide = true, num_args = 2, value_names = ["WHAT", "ADDRESS"])]
    ask: Option<Vec<String>>,
    /// Writes the table into docs/threat-model.md, between its markers.
    #[arg(long)]
    write: bool,
}

/// The server that a load is put on, and what it has answered.
struct Attack {
    address: SocketAddr,
    scale: f64,
    duration: Duration,
    /// Statuses of the answers, and failures.
    answers: Mutex<BTreeMap<String, u64>>,
}

/// One way to hurt the server: its row in the table, and the requests that it sends.
struct Load {
    name: &'static str,
    /// More arguments of the server.
    arguments: &'static [&'static str],
    run: fn(&Attack),
}

/// One row of the table: what the server used under a load, and how long other clients waited.
struct Cost {
    name: &'static str,
    answers: String,
    before: u64,
    peak: u64,
    probe: Longest,
    honest: Longest,
    cpu: Duration,
    threads: (usize, usize),
    alive: bool,
}

/// The requests of a client that does no harm while a load runs: the longest wait, and how many failed.
#[derive(Default, Clone, Copy, serde::Serialize, serde::Deserialize)]
struct Longest {
    wait: Duration,
    asked: u64,
    /// Answers other than 200, and none.
    refused: u64,
}

const LOADS: &[Load] = &[
    load("24 pictures of 28 bytes, timeout_ms=1", |attack| {
        let request = attack.post("model=images&timeout_ms=1", "image/webp", &evil::small_webp());
        attack.one_by_one(&request, 24);
    }),
    load("12 pictures of 28 bytes, client gone", |attack| {
        let request = attack.post("model=images", "image/webp", &evil::small_webp());
        attack.send_and_leave(&request, 12);
    }),
    load("a GIF with a frame of 134 MP", |attack| {
        let request = attack.post("model=images", "image/gif", &attack.large_frame());
        attack.at_once(&request, 1);
    }),
    load("two GIFs with a frame of 134 MP", |attack| {
        let request = attack.post("model=images", "image/gif", &attack.large_frame());
        attack.at_once(&request, 2);
    }),
    load("a PNG with a profile of 500 MB", |attack| {
        let request = attack.post("model=images", "image/png", &attack.large_profile());
        attack.at_once(&request, 1);
    }),
    load("30 PNGs with a profile of 500 MB", |attack| {
        let part = ("image", attack.large_profile());
        let request = attack.form("model=images", &vec![part; 30]);
        attack.at_once(&request, 1);
    }),
    load("a PNG of 96 x 96 with 15 MB of empty blocks", |attack| {
        let request = attack.post(
            "model=images",
            "image/png",
            &evil::empty_blocks(attack.bytes(15 << 20)),
        );
        attack.at_once(&request, 1);
    }),
    load("top_k of 15 MB", |attack| {
        let written = "\u{200b}".repeat(attack.bytes(15 << 20) / 3).into_bytes();
        let request = attack.form(
            "model=images",
            &[("top_k", written), ("image", evil::small_webp())],
        );
        attack.at_once(&request, 1);
    }),
    load("32 connections x 32 pictures of 28 bytes", |attack| {
        let request = attack.form("model=images", &vec![("image", evil::small_webp()); 32]);
        attack.over_and_over(&request, 32);
    }),
    load("32 connections x 8 pictures of 28 bytes", |attack| {
        // As many as max_request_pixels allows.
        let request = attack.form("model=images", &vec![("image", evil::small_webp()); 8]);
        attack.over_and_over(&request, 32);
    }),
    load(
        "32 connections with pictures of 28 bytes, the others' model",
        |attack| {
            let request = attack.post("model=digits", "image/webp", &evil::small_webp());
            attack.over_and_over(&request, 32);
        },
    ),
    load("20 clients that read nothing of 20 answers", |attack| {
        attack.read_nothing(attack.count(20));
    }),
    Load {
        name: "as many of them as max_connections (100)",
        arguments: &["--max-connections", "100"],
        run: |attack| attack.read_nothing(100),
    },
    load("1,000 clients with a photo of 1.4 MB", |attack| {
        let request = attack.post("model=images", "image/jpeg", &evil::photo(attack.scale.sqrt()));
        attack.at_once(&request, attack.count(1000));
    }),
    load("four PNGs of 33 MP with 16 bits", |attack| {
        let rows = (f64::from(4096) * attack.scale) as u32;
        let request = attack.post("model=images", "image/png", &evil::deep_png(8192, rows.max(1)));
        attack.at_once(&request, 4);
    }),
    load("64 uploads of 16 MiB that stop before the end", |attack| {
        let length = attack.bytes(16 << 20);
        let mut request = attack
            .post("model=images", "image/png", &vec![0; length])
            .to_vec();
        request.pop();
        attack.send_and_hold(&request, 64);
    }),
    load("two bodies of 16 MiB in chunks of one byte", |attack| {
        let head = attack.head("model=images", "image/png", "Transfer-Encoding: chunked");
        // Without the last chunk, so that the body is held.
        let request = [head.as_bytes(), &b"1\r\n.\r\n".repeat(attack.bytes(16 << 20) - 1)].concat();
        attack.send_and_hold(&request, 2);
    }),
    load("64 connections with priority=high", |attack| {
        let request = attack.post("model=digits&priority=high", "image/png", DIGIT);
        attack.over_and_over(&request, 64);
    }),
    load("60 texts of 205 KB, client gone", |attack| {
        let text = "marvellous, unbelievable ".repeat(attack.bytes(205_000) / 25 + 1);
        let request = attack.post("model=sentiment", "text/plain", text.as_bytes());
        attack.send_and_leave(&request, 60);
    }),
    load("60 texts of 205 KB without a blank, client gone", |attack| {
        let request = attack.post(
            "model=sentiment",
            "text/plain",
            &vec![b'a'; attack.bytes(205_000)],
        );
        attack.send_and_leave(&request, 60);
    }),
    load("12 x 15 MB of JSON, timeout_ms=1", |attack| {
        let inputs = "\"a\",".repeat(attack.bytes(15 << 20) / 4);
        let body = format!("{{\"timeout_ms\": 1, \"inputs\": [{inputs}\"a\"]}}");
        let request = attack.post("model=sentiment", "application/json", body.as_bytes());
        attack.at_once(&request, 12);
    }),
    load("500 slow heads", |attack| {
        attack.slowly(
            &attack.head("model=images", "image/png", "Content-Length: 1000"),
            500,
        );
    }),
    load("all kinds of memory at once", |attack| {
        let mut upload = attack
            .post("model=images", "image/png", &vec![0; attack.bytes(16 << 20)])
            .to_vec();
        upload.pop();
        let pictures = attack.form("model=images", &vec![("image", evil::small_webp()); 8]);
        let text = attack.post(
            "model=sentiment",
            "text/plain",
            &vec![b'a'; attack.bytes(205_000)],
        );
        let long_head = attack.head(
            "model=images",
            "image/png",
            &format!("X-Long: {}", "a".repeat(15_000)),
        );
        let (first, rest) = long_head.split_at(long_head.len() - 100);
        thread::scope(|scope| {
            scope.spawn(|| attack.send_and_hold(&upload, 64));
            scope.spawn(|| attack.over_and_over(&pictures, 32));
            scope.spawn(|| attack.over_and_over(&text, 16));
            scope.spawn(|| attack.send_slowly(first.as_bytes(), rest.as_bytes(), 4000));
        });
    }),
    load("500 slow bodies", |attack| {
        let head = attack.head("model=images", "image/png", "Content-Length: 1000");
        attack.send_slowly(head.as_bytes(), &[b'.'; 1000], 500);
    }),
];

const DIGIT: &[u8] = include_bytes!("../../../models/digits/1/golden/7_0.png");

const fn load(name: &'static str, run: fn(&Attack)) -> Load {
    Load {
        name,
        arguments: &[],
        run,
    }
}

impl Attack {
    fn bytes(&self, whole: usize) -> usize {
        (whole as f64 * self.scale) as usize
    }

    fn count(&self, whole: usize) -> usize {
        self.bytes(whole).max(1)
    }

    fn large_frame(&self) -> Vec<u8> {
        evil::gif_with_frame(16_383, (8_191.0 * self.scale) as u16)
    }

    fn large_profile(&self) -> Vec<u8> {
        evil::png_with_profile(self.bytes(500_000_000))
    }

    fn head(&self, query: &str, content_type: &str, header: &str) -> String {
        format!(
            "POST /v1/classify?{query} HTTP/1.1\r\nHost: {}\r\nContent-Type: {content_type}\r\n{header}\r\n\r\n",
            self.address
        )
    }

    fn post(&self, query: &str, content_type: &str, body: &[u8]) -> Bytes {
        let head = self.head(query, content_type, &format!("Content-Length: {}", body.len()));
        [head.as_bytes(), body].concat().into()
    }

    fn form(&self, query: &str, parts: &[(&str, Vec<u8>)]) -> Bytes {
        let mut body = Vec::new();
        for (name, content) in parts {
            body.extend_from_slice(
                format!("--X\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n").as_bytes(),
            );
            body.extend_from_slice(content);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(b"--X--\r\n");
        self.post(query, "multipart/form-data; boundary=X", &body)
    }

    fn count_answer(&self, answer: Result<Response>) {
        let name = if let Ok(answer) = answer {
            answer.status.to_string()
        } else {
            // A server that has ended refuses at once, again and again.
            thread::sleep(EVERY);
            "no answer".to_owned()
        };
        *lock(&self.answers).entry(name).or_default() += 1;
    }

    /// The next request is sent when the one before is answered.
    fn one_by_one(&self, request: &[u8], times: usize) {
        for _ in 0..times {
            self.count_answer(exchange(ATTACKER, self.address, request, TIMEOUT));
        }
    }

    fn at_once(&self, request: &[u8], clients: usize) {
        side_by_side(clients, |_| self.one_by_one(request, 1));
    }

    /// Each client for the whole time, a new connection for each request.
    fn over_and_over(&self, request: &[u8], clients: usize) {
        let end = Instant::now() + self.duration;
        side_by_side(clients, |_| {
            while Instant::now() < end {
                self.one_by_one(request, 1);
            }
        });
    }

    fn send_and_leave(&self, request: &[u8], times: usize) {
        for _ in 0..times {
            if let Ok(mut stream) = connect(ATTACKER, self.address, TIMEOUT) {
                let _ = stream.write_all(request);
                // Until the server has read it.
                thread::sleep(Duration::from_millis(20));
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    }

    /// Sends, and leaves when the time is over.
    fn send_and_hold(&self, request: &[u8], clients: usize) {
        let end = Instant::now() + self.duration;
        side_by_side(clients, |_| {
            let Ok(mut stream) = connect(ATTACKER, self.address, TIMEOUT) else {
                return;
            };
            let _ = stream.write_all(request);
            let _ = stream.set_read_timeout(Some(left(end)));
            // Ends early where the server answers or closes.
            self.count_answer(receive(&mut stream));
        });
    }

    /// Asks for the largest file twenty times on each connection, and reads nothing.
    fn read_nothing(&self, clients: usize) {
        let get = format!(
            "GET /assets/swagger-ui-bundle.js HTTP/1.1\r\nHost: {}\r\n\r\n",
            self.address
        );
        let request = get.repeat(20);
        let streams: Vec<_> = (0..clients)
            .filter_map(|_| {
                let mut stream = connect(ATTACKER, self.address, TIMEOUT).ok()?;
                stream.write_all(request.as_bytes()).ok()?;
                Some(stream)
            })
            .collect();
        thread::sleep(self.duration);
        drop(streams);
    }

    fn slowly(&self, head: &str, clients: usize) {
        self.send_slowly(b"", head.as_bytes(), clients);
    }

    /// `first` at once, then a byte of `rest` every second.
    fn send_slowly(&self, first: &[u8], rest: &[u8], clients: usize) {
        let end = Instant::now() + self.duration;
        let mut streams: Vec<TcpStream> = (0..self.count(clients))
            .filter_map(|_| {
                let mut stream = connect(ATTACKER, self.address, TIMEOUT).ok()?;
                stream.write_all(first).ok()?;
                Some(stream)
            })
            .collect();
        for byte in rest {
            streams.retain_mut(|stream| stream.write_all(&[*byte]).is_ok());
            if Instant::now() >= end {
                break;
            }
            thread::sleep(left(end).min(Duration::from_secs(1)));
        }
    }
}

fn main() -> Result<()> {
    classifier::runtime::environment::without_telemetry()?;
    let args = Args::parse();
    if let Some([what, address]) = args.ask.as_deref() {
        return ask(what, address);
    }
    // A thousand clients are a thousand files.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    )?;
    let wanted = |load: &&Load| args.only.as_ref().is_none_or(|only| load.name.contains(only));
    let mut costs = Vec::new();
    for load in LOADS.iter().filter(wanted) {
        eprintln!("{}", load.name);
        let cost = measure(&args, load)?;
        eprintln!("  {}", cost.row());
        costs.push(cost);
    }
    ensure!(!costs.is_empty(), "--only: expected a part of the name of a load");

    let missed: Vec<String> = costs.iter().flat_map(Cost::missed).collect();
    let table = table(&costs, &missed);
    println!("{table}");
    if args.write {
        page::write(Path::new("docs/threat-model.md"), "attack", &table)?;
    }
    ensure!(missed.is_empty(), "missed:\n{}", missed.join("\n"));
    Ok(())
}

fn measure(args: &Args, load: &Load) -> Result<Cost> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, args.port));
    let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, args.admin_port));
    let program = match &args.programs {
        Some(folder) => folder.join("classifyd"),
        None => std::env::current_exe()?.with_file_name("classifyd"),
    };
    let mut command: Vec<String> = vec![program.display().to_string(), "serve".to_owned()];
    for (name, value) in [
        ("--config", args.config.display().to_string()),
        ("--models", args.models.display().to_string()),
        ("--listen", address.to_string()),
        ("--admin-listen", admin.to_string()),
    ] {
        command.extend([name.to_owned(), value]);
    }
    command.extend(load.arguments.iter().map(|&argument| argument.to_owned()));
    let launch = Launch {
        command,
        address: admin,
    };
    let target = classify_target(address, Some("digits"))?;
    let log = std::env::temp_dir().join("classifyd-attack.log");
    let mut server = Server::start(&launch, &target.get("/readyz"), &log)?;
    let honest = target.post("image/png", DIGIT);

    exchange(HONEST, address, &honest, TIMEOUT).context("a small request before the load")?;
    // The peak of the start is not that of the load.
    let _ = fs::write(format!("/proc/{}/clear_refs", server.id()), "5");
    let before = reading(server.id()).context("the server has ended before the load")?;
    let attack = Attack {
        address,
        scale: args.scale,
        duration: Duration::from_secs(args.seconds),
        answers: Mutex::default(),
    };

    let id = server.id();
    let over = AtomicBool::new(false);
    let (probe, small) = (
        Others::start("livez", admin)?,
        Others::start("classify", address)?,
    );
    let seen = thread::scope(|scope| {
        let seen = scope.spawn(|| watch(&over, id));
        (load.run)(&attack);
        settle(id);
        over.store(true, Ordering::Relaxed);
        seen.join().unwrap_or_default()
    });
    let (probe, small) = (probe.end()?, small.end()?);
    let alive = server.is_running()
        && exchange(HONEST, address, &honest, TIMEOUT).is_ok_and(|answer| answer.status == 200);
    let last = if alive { reading(server.id()) } else { None };
    let answers = lock(&attack.answers)
        .iter()
        .map(|(name, count)| format!("{count} x {name}"))
        .collect::<Vec<_>>()
        .join(", ");
    Ok(Cost {
        name: load.name,
        answers,
        before: before.peak,
        peak: last.map_or(seen.peak, |last| last.peak.max(seen.peak)),
        probe,
        honest: small,
        cpu: seen.cpu.saturating_sub(before.cpu),
        threads: (before.threads, seen.threads.max(before.threads)),
        alive,
    })
}

/// Clients that do no harm. A process of their own: they must not wait for what a thousand threads of the attacker share.
struct Others {
    child: Child,
}

impl Others {
    fn start(what: &str, address: SocketAddr) -> Result<Self> {
        let child = Command::new(std::env::current_exe()?)
            .args(["--ask", what, &address.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Self { child })
    }

    /// Ends them, and says how long they waited.
    fn end(self) -> Result<Longest> {
        // Closes their standard input.
        let output = self.child.wait_with_output()?;
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

/// Sends one request after the other, each on a connection of its own, and prints the longest wait.
fn ask(what: &str, address: &str) -> Result<()> {
    let target = classify_target(address, Some("digits"))?;
    let request = match what {
        "livez" => target.get("/livez"),
        _ => target.post("image/png", DIGIT),
    };
    let address = address.parse()?;
    let over = AtomicBool::new(false);
    let mut longest = Longest::default();
    thread::scope(|scope| {
        scope.spawn(|| {
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            over.store(true, Ordering::Relaxed);
        });
        while !over.load(Ordering::Relaxed) {
            let begun = Instant::now();
            let answer = exchange(HONEST, address, &request, TIMEOUT);
            longest.wait = longest.wait.max(begun.elapsed());
            longest.asked += 1;
            longest.refused += u64::from(!answer.is_ok_and(|answer| answer.status == 200));
            thread::sleep(EVERY);
        }
    });
    println!("{}", serde_json::to_string(&longest)?);
    Ok(())
}

/// The server at one moment, or the most of many.
#[derive(Default, Clone, Copy)]
struct Seen {
    peak: u64,
    threads: usize,
    cpu: Duration,
}

fn watch(over: &AtomicBool, process: u32) -> Seen {
    let mut most = Seen::default();
    while !over.load(Ordering::Relaxed) {
        if let Some(now) = reading(process) {
            most.peak = most.peak.max(now.peak);
            most.threads = most.threads.max(now.threads);
            most.cpu = most.cpu.max(now.cpu);
        }
        thread::sleep(EVERY);
    }
    most
}

fn reading(process: u32) -> Option<Seen> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let number = |key: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().next()?.parse().ok()
    };
    Some(Seen {
        peak: number("VmHWM:")? * 1024,
        threads: number("Threads:")? as usize,
        cpu: load::cpu(&fs::read_to_string(format!("/proc/{process}/stat")).ok()?)?,
    })
}

/// Waits until the server does no more than answer the probes.
fn settle(process: u32) {
    let end = Instant::now() + SETTLE;
    let cpu = || reading(process).map(|now| now.cpu);
    let mut before = cpu();
    while before.is_some() && Instant::now() < end {
        thread::sleep(Duration::from_millis(500));
        let now = cpu();
        let used = now.zip(before).map(|(now, before)| now.saturating_sub(before));
        if used.is_none_or(|used| used < Duration::from_millis(100)) {
            return;
        }
        before = now;
    }
}

impl Cost {
    fn added(&self) -> u64 {
        self.peak.saturating_sub(self.before)
    }

    fn missed(&self) -> Vec<String> {
        let mut missed = Vec::new();
        let mut expect = |held: bool, what: String| {
            if !held {
                missed.push(format!("* {}: {what}", self.name));
            }
        };
        expect(self.alive, "the server has ended".to_owned());
        expect(
            self.peak < MOST_MEMORY,
            format!("expected less than 1,024 MiB, found {}", mib(self.peak)),
        );
        if self.name.starts_with("24 ") {
            let found = mib(self.added());
            expect(
                self.added() < MOST_ADDED,
                format!("expected at most 500 MiB more, found {found}"),
            );
        }
        for (who, longest, limit) in [
            ("/livez", self.probe, LONGEST_PROBE),
            ("a small request", self.honest, LONGEST_HONEST),
        ] {
            let found = longest.wait;
            expect(
                found < limit,
                format!("{who}: expected an answer within {limit:?}, found {found:.0?}"),
            );
        }
        missed
    }

    fn row(&self) -> String {
        let refused = |longest: Longest| match longest.refused {
            0 => String::new(),
            refused => format!(" ({refused} of {} failed)", longest.asked),
        };
        format!(
            "| {} | {} | +{} | {}{} | {}{} | {:.1} | {} -> {} | {} | {} |",
            self.name,
            mib(self.peak),
            mib(self.added()),
            self.probe.wait.as_millis(),
            refused(self.probe),
            self.honest.wait.as_millis(),
            refused(self.honest),
            self.cpu.as_secs_f64(),
            self.threads.0,
            self.threads.1,
            if self.alive { "yes" } else { "**no**" },
            if self.answers.is_empty() {
                "-"
            } else {
                &self.answers
            },
        )
    }
}

fn table(costs: &[Cost], missed: &[String]) -> String {
    let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut text = format!(
        "Measured by `make attack` with the shipped models and `classifyd.toml`, {cores} CPUs, the server and its clients on one machine, the attacker's threads at nice 10. \
         Memory is `VmHWM` in MiB, and what of it the load added; waits are the longest, in milliseconds.\n\n\
         | load | memory | added | `/livez` | a small request of another client | CPU s | threads | alive | answers |\n\
         |---|--:|--:|--:|--:|--:|--:|---|---|\n"
    );
    for cost in costs {
        let _ = writeln!(text, "{}", cost.row());
    }
    text.push_str(
        "\nGoals of each: alive, under 1,024 MiB, `/livez` under 250 ms, a small request under 1,000 ms; 24 pictures of 28 bytes add under \
         500 MiB. ",
    );
    if missed.is_empty() {
        text.push_str("All are met.\n");
    } else {
        let _ = writeln!(text, "Not met:\n\n{}", missed.join("\n"));
    }
    text
}

fn mib(bytes: u64) -> String {
    format!("{:.0}", bytes as f64 / f64::from(1 << 20))
}

fn left(end: Instant) -> Duration {
    end.saturating_duration_since(Instant::now())
        .max(Duration::from_millis(1))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An attacker has a machine of its own. Here its threads give way to those of the server and of the other clients, or the waits would
/// be those for a CPU that a thousand clients share.
fn behind_the_others() {
    // Linux has a priority for each thread. Without it, the waits are longer.
    let _ = setpriority_process(None, 10);
}

/// Threads with small stacks: a thousand of them must fit.
fn side_by_side(count: usize, work: impl Fn(usize) + Sync) {
    thread::scope(|scope| {
        for at in 0..count {
            let work = &work;
            let started = thread::Builder::new()
                .stack_size(256 * 1024)
                .spawn_scoped(scope, move || {
                    behind_the_others();
                    work(at);
                });
            if let Err(error) = started {
                eprintln!("client {at}: {error}");
            }
        }
    });
}

fn connect(source: Ipv4Addr, address: SocketAddr, timeout: Duration) -> Result<TcpStream> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // The standard library has no way to choose the address of a client.
    let stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4()?;
        // The other clients bind a port for each connection; the thousands of an attacker would run out of ports.
        if source != ATTACKER {
            socket.bind(SocketAddr::from((source, 0)))?;
        }
        tokio::time::timeout(timeout, socket.connect(address))
            .await
            .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))?
            .and_then(tokio::net::TcpStream::into_std)
    })?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    Ok(stream)
}

fn exchange(source: Ipv4Addr, address: SocketAddr, request: &[u8], timeout: Duration) -> Result<Response> {
    let mut stream = connect(source, address, timeout)?;
    // A server may refuse before it has read all; what counts is whether it answers.
    let _ = stream.write_all(request);
    receive(&mut stream)
}

fn receive(stream: &mut TcpStream) -> Result<Response> {
    let mut reader = ResponseReader::new();
    let mut buffer = BytesMut::new();
    let mut piece = [0; 16 * 1024];
    loop {
        let length = stream.read(&mut piece)?;
        if length == 0 {
            return reader.closed().context("closed without an answer");
        }
        buffer.extend_from_slice(&piece[..length]);
        if let Some(answer) = reader.advance(&mut buffer)? {
            return Ok(answer);
        }
    }
}
