//! Starts the binary and sends it requests.

use std::io::{BufRead, BufReader, Cursor};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, RequestBuilder, Response};
use serde_json::Value;

/// The root of the repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Models that misbehave in defined ways, see `tests/fixture-models`.
pub(crate) fn fixture_models() -> PathBuf {
    root().join("tests/fixtures/models")
}

/// The shipped models.
pub(crate) fn shipped_models() -> PathBuf {
    root().join("models")
}

/// A models directory with links to some of the fixtures.
pub(crate) fn some_models(names: &[&str]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for name in names {
        std::os::unix::fs::symlink(fixture_models().join(name), directory.path().join(name)).unwrap();
    }
    directory
}

/// A models directory with a changed copy of a fixture.
pub(crate) fn changed_model(name: &str, change: impl FnOnce(&Path)) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join(name).join("1");
    std::fs::create_dir_all(&copy).unwrap();
    for entry in std::fs::read_dir(fixture_models().join(name).join("1")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
    }
    change(&copy);
    directory
}

/// The command, without environment variables that would configure it.
pub(crate) fn classifyd() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_classifyd"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CLASSIFYD_") {
            command.env_remove(name);
        }
    }
    command.env(
        "ORT_DYLIB_PATH",
        root().join(".onnxruntime/libonnxruntime.so.1.31.1"),
    );
    command
}

/// The arguments of a server on a free port, for these models.
pub(crate) fn serve_args(models: &Path) -> [&str; 5] {
    let models = models.to_str().unwrap();
    ["serve", "--listen", "127.0.0.1:0", "--models", models]
}

/// One lane that runs one image at a time, and a queue with two slots.
pub(crate) const NARROW: [&str; 6] = ["--lanes", "1", "--max-batch", "1", "--queue-capacity", "2"];

/// A `traceparent` header with [`TRACE_ID`], whose trace is recorded.
pub(crate) const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
pub(crate) const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";

/// Bits of the masks in [`Signals`].
pub(crate) const SIGHUP: u64 = 1;
pub(crate) const SIGTERM: u64 = 1 << 14;

/// The signals that a process blocks and handles.
pub(crate) struct Signals {
    pub(crate) blocked: u64,
    pub(crate) handled: u64,
}

/// Waits until the signals of a starting process meet a condition. Fails if the process ends.
pub(crate) fn wait_for_signals(child: &mut Child, condition: impl Fn(Signals) -> bool) {
    let file = format!("/proc/{}/status", child.id());
    loop {
        assert!(child.try_wait().unwrap().is_none());
        let status = std::fs::read_to_string(&file).unwrap_or_default();
        let mask = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
                .unwrap_or(0)
        };
        let signals = Signals {
            blocked: mask("SigBlk:"),
            handled: mask("SigCgt:"),
        };
        if condition(signals) {
            return;
        }
        std::thread::yield_now();
    }
}

/// A request that runs as a task.
pub(crate) type Pending = tokio::task::JoinHandle<reqwest::Result<Response>>;

/// A 4 x 4 image in one grey level. A white one makes a fixture misbehave.
pub(crate) fn square(level: u8) -> Vec<u8> {
    encode(
        &image::GrayImage::from_pixel(4, 4, image::Luma([level])).into(),
        image::ImageFormat::Png,
    )
}

/// A 4 x 4 image with one white row. The fixture `linear` labels row 0, 1 and 2 as `a`, `b` and
/// `c`.
pub(crate) fn white_row(row: u32) -> Vec<u8> {
    let image = image::GrayImage::from_fn(4, 4, |_, y| image::Luma([if y == row { 255 } else { 0 }]));
    encode(&image.into(), image::ImageFormat::Png)
}

pub(crate) fn encode(image: &image::DynamicImage, format: image::ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// A running server, which is killed on drop.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    /// The address of probes and metrics, if it is separate.
    pub(crate) admin_address: Option<SocketAddr>,
    pub(crate) client: Client,
    log: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Starts `classifyd serve` on a free port and waits until it is ready.
    pub(crate) fn start(models: &Path, options: &[&str]) -> Self {
        Self::start_at("127.0.0.1:0", models, options)
    }

    /// Starts `classifyd serve` at an address and waits until it is ready.
    pub(crate) fn start_at(listen: &str, models: &Path, options: &[&str]) -> Self {
        let mut child = classifyd()
            .args(["serve", "--listen", listen, "--log-format", "json", "--models"])
            .arg(models)
            .args(options)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (ready, is_ready) = std::sync::mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let lines = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let parsed: Value = serde_json::from_str(&line).unwrap_or_default();
                if parsed["message"] == "ready" {
                    let address = |key: &str| parsed[key].as_str().map(|text| text.parse().unwrap());
                    let _ = ready.send((address("address").unwrap(), address("admin_address")));
                }
                lines.lock().unwrap().push(line);
            }
        });
        let Ok((address, admin_address)) = is_ready.recv_timeout(Duration::from_mins(1)) else {
            let _ = child.kill();
            panic!("the server did not become ready: {:#?}", log.lock().unwrap());
        };
        Self {
            child,
            address,
            admin_address,
            client: Client::new(),
            log,
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(self.url(path))
    }

    pub(crate) fn post(&self, query: &str) -> RequestBuilder {
        self.client.post(self.url(&format!("/v1/classify{query}")))
    }

    /// Sends an image as the request body.
    pub(crate) fn send_png(&self, query: &str, image: Vec<u8>) -> RequestBuilder {
        self.post(query).header(CONTENT_TYPE, "image/png").body(image)
    }

    /// Sends a text as the request body.
    pub(crate) fn send_text(&self, query: &str, text: impl Into<String>) -> RequestBuilder {
        let body: String = text.into();
        self.post(query).header(CONTENT_TYPE, "text/plain").body(body)
    }

    /// Classifies an image and returns its label. Fails without one.
    pub(crate) async fn label(&self, query: &str, image: Vec<u8>) -> String {
        let answer = ok(self.send_png(query, image).send().await.unwrap()).await;
        answer["results"][0]["label"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn metrics(&self) -> Metrics {
        let address = self.admin_address.unwrap_or(self.address);
        let answer = self.client.get(format!("http://{address}/metrics")).send().await;
        Metrics(answer.unwrap().text().await.unwrap())
    }

    /// Waits until a metric has this value.
    pub(crate) async fn wait_for_metric(&self, series: &str, value: f64) {
        let started = Instant::now();
        loop {
            let found = self.metrics().await.get(series);
            if found == Some(value) {
                return;
            }
            assert!(
                started.elapsed() < Duration::from_secs(20),
                "{series}: expected {value}, found {found:?}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Sends a white image, which keeps a lane of the fixture `slow` or `hang` busy, and waits
    /// until it runs.
    pub(crate) async fn occupy_lane(&self, model: &str) -> Pending {
        let pending = tokio::spawn(self.send_png("", square(255)).send());
        let series = format!("classifyd_batch_size_count{{model=\"{model}\"}}");
        self.wait_for_metric(&series, 1.0).await;
        pending
    }

    /// Waits until this number of inputs waits in the model's queue.
    pub(crate) async fn wait_for_queue(&self, model: &str, depth: f64) {
        let series = format!("classifyd_queue_depth{{model=\"{model}\"}}");
        self.wait_for_metric(&series, depth).await;
    }

    /// Resident memory as the metric shows it, in MB.
    pub(crate) async fn memory_metric(&self) -> f64 {
        let metrics = self.metrics().await;
        metrics.get("process_resident_memory_bytes").unwrap() / 1e6
    }

    pub(crate) fn signal(&self, signal: &str) {
        let status = Command::new("kill")
            .args([&format!("-{signal}"), &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
    }

    /// Waits for the process to end by itself.
    pub(crate) fn wait(&mut self, limit: Duration) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(
                started.elapsed() < limit,
                "the server did not end: {:#?}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for a log line that contains all of these.
    pub(crate) async fn wait_for_log(&self, parts: &[&str]) {
        let started = Instant::now();
        while !self
            .log()
            .iter()
            .any(|line| parts.iter().all(|part| line.contains(part)))
        {
            assert!(
                started.elapsed() < Duration::from_secs(20),
                "no {parts:?} in {:#?}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The names of the process's threads.
    pub(crate) fn threads(&self) -> Vec<String> {
        std::fs::read_dir(format!("/proc/{}/task", self.child.id()))
            .unwrap()
            .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
            .map(|name| name.trim_end().to_owned())
            .collect()
    }

    /// The peak memory of the process, in MiB.
    pub(crate) fn peak_memory(&self) -> f64 {
        self.status_in_mib("VmHWM:")
    }

    /// The current memory of the process, in MiB.
    pub(crate) fn memory(&self) -> f64 {
        self.status_in_mib("VmRSS:")
    }

    fn status_in_mib(&self, key: &str) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
    }

    /// Waits until the process has this number of threads with this name.
    pub(crate) async fn wait_for_threads(&self, name: &str, count: usize) {
        let started = Instant::now();
        let tasks = format!("/proc/{}/task", self.child.id());
        loop {
            let names = std::fs::read_dir(&tasks)
                .unwrap()
                .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
            let found = names.filter(|found| found.trim_end() == name).count();
            if found == count {
                return;
            }
            assert!(
                started.elapsed() < Duration::from_secs(20),
                "threads {name}: expected {count}, found {found}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the body of a response, which must be successful.
pub(crate) async fn ok(response: Response) -> Value {
    let status = response.status();
    let text = response.text().await.unwrap();
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// Returns a problem document after checking what all of them have in common.
pub(crate) async fn problem(response: Response) -> Value {
    let status = response.status();
    let headers = response.headers().clone();
    let text = response.text().await.unwrap();
    assert_eq!(
        headers.get(CONTENT_TYPE).map(|value| value.to_str().unwrap()),
        Some("application/problem+json"),
        "{status}: {text}"
    );
    let problem: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(problem["status"], status.as_u16());
    assert_eq!(problem["request_id"], headers["x-request-id"].to_str().unwrap());
    assert!(
        problem["title"].is_string() && problem["detail"].is_string(),
        "{text}"
    );
    let code = problem["code"].as_str().unwrap();
    assert_eq!(problem["type"], format!("urn:classifyd:error:{code}"));
    assert_eq!(
        status == 503 || status == 429,
        headers.contains_key("retry-after"),
        "{text}"
    );
    assert_eq!(status == 401, headers.contains_key("www-authenticate"), "{text}");
    problem
}

/// The response of a scrape.
pub(crate) struct Metrics(pub(crate) String);

impl Metrics {
    /// The value of a series, written as in Prometheus: `name{label="value"}`.
    pub(crate) fn get(&self, series: &str) -> Option<f64> {
        self.0
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    }
}
