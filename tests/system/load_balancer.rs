//! Three servers behind a real load balancer under constant load: what its clients notice of a restart, a crash and a hang.
//!
//! The load balancers run with the files in `deploy/`; only addresses are put in.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use load::{Arrivals, LoadSpec, Tally, Target};

use crate::harness::{Server, encode, root};

/// Requests per second that fit into one buffer of HAProxy, and so can be sent again.
const SMALL_RATE: f64 = 300.0;
/// Requests per second that do not.
const LARGE_RATE: f64 = 10.0;
/// Most connections with large requests. No accident can hurt more of them at once.
const LARGE_CONNECTIONS: usize = 8;
/// One piece of the load; it goes on, piece after piece, until the test has done what it wants to do.
const PIECE: Duration = Duration::from_secs(5);
/// Longer than that, and a client notices.
const SLOW: Duration = Duration::from_secs(1);

/// Any port that is free now.
pub(crate) fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Waits until `done`, and says what was waited for if that takes too long.
fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < Duration::from_mins(2), "no {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A folder with the model `digits` alone.
pub(crate) fn digits() -> tempfile::TempDir {
    let models = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(root().join("models/digits"), models.path().join("digits")).unwrap();
    models
}

/// The servers behind the load balancer, each at an address that it keeps when it is started again.
struct Servers {
    models: tempfile::TempDir,
    options: Vec<&'static str>,
    running: Vec<Server>,
}

impl Servers {
    fn start(options: &[&'static str]) -> Self {
        let models = digits();
        let running = (0..3).map(|_| Server::start(models.path(), options)).collect();
        Self {
            models,
            options: options.to_vec(),
            running,
        }
    }

    /// With probes and metrics on the same port of different hosts, as in production.
    fn start_with_admin(port: u16) -> Self {
        let models = digits();
        let start = |host| {
            let (listen, admin) = (format!("127.0.0.{host}:0"), format!("127.0.0.{host}:{port}"));
            Server::start_at(&listen, models.path(), &["--admin-listen", &admin])
        };
        let running = (1..=3).map(start).collect();
        Self {
            models,
            options: Vec::new(),
            running,
        }
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        self.running.iter().map(|server| server.address).collect()
    }

    /// Drains a server as an orchestrator does, which must end by itself and well.
    fn drain(&mut self, index: usize) {
        let server = &mut self.running[index];
        server.signal("TERM");
        assert_eq!(server.wait(Duration::from_mins(1)).code(), Some(0));
    }

    /// Starts a server again where the last one was.
    fn start_again(&mut self, index: usize) {
        let listen = self.running[index].address.to_string();
        self.running[index] = Server::start_at(&listen, self.models.path(), &self.options);
    }
}

/// A running load balancer.
pub(crate) struct LoadBalancer {
    child: Child,
    pub(crate) address: SocketAddr,
    /// Where HAProxy says what it knows of the servers.
    stats: SocketAddr,
    /// Its configuration and its files, until it has ended.
    _folder: tempfile::TempDir,
}

impl LoadBalancer {
    fn haproxy(servers: &Servers, server_timeout: &str) -> Self {
        Self::haproxy_with(servers, server_timeout, &[])
    }

    /// With more of the variables that its file takes.
    fn haproxy_with(servers: &Servers, server_timeout: &str, variables: &[(&str, &str)]) -> Self {
        let (address, stats) = (free_address(), free_address());
        let mut command = Command::new("haproxy");
        command
            .arg("-f")
            .arg(root().join("deploy/haproxy/haproxy.cfg"))
            .env("LISTEN", address.to_string())
            .env("STATS_LISTEN", stats.to_string())
            .env("SERVER_TIMEOUT", server_timeout)
            .envs(variables.iter().copied());
        for (number, server) in (1..).zip(servers.addresses()) {
            command.env(format!("CLASSIFYD_{number}"), server.to_string());
        }
        let started = Self::start(command, address, stats, tempfile::tempdir().unwrap());
        started.wait_for_servers(3);
        started
    }

    fn nginx(servers: &Servers) -> Self {
        let address = free_address();
        let shipped = std::fs::read_to_string(root().join("deploy/nginx/nginx.conf")).unwrap();
        let config = put_in(&shipped, "listen 8080", &format!("listen {address}"));
        Self::nginx_at(servers, address, &config, tempfile::tempdir().unwrap())
    }

    /// With the lines for HTTPS, which are comments in the file.
    fn nginx_with_tls(servers: &Servers) -> Self {
        let (address, folder) = (free_address(), tempfile::tempdir().unwrap());
        write_certificate(folder.path());
        let mut config = std::fs::read_to_string(root().join("deploy/nginx/nginx.conf")).unwrap();
        for (from, to) in [
            ("        listen 8080 backlog=4096;\n", ""),
            ("# listen 8443", &format!("listen {address}")),
            ("# ssl_", "ssl_"),
            // Relative to the file.
            ("/etc/nginx/", ""),
        ] {
            config = put_in(&config, from, to);
        }
        Self::nginx_at(servers, address, &config, folder)
    }

    fn nginx_at(servers: &Servers, address: SocketAddr, config: &str, folder: tempfile::TempDir) -> Self {
        let mut config = config.to_owned();
        for (number, server) in (1..).zip(servers.addresses()) {
            let from = format!("server classifyd-{number}:8080");
            config = put_in(&config, &from, &format!("server {server}"));
        }
        Self::nginx_in(address, &config, folder)
    }

    /// With the contents of its file, which is written to the folder.
    pub(crate) fn nginx_in(address: SocketAddr, config: &str, folder: tempfile::TempDir) -> Self {
        let config = put_in(config, " /tmp/", &format!(" {}/", folder.path().display()));
        let file = folder.path().join("nginx.conf");
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new("nginx");
        command.args(["-g", "daemon off;", "-c"]).arg(&file);
        Self::start(command, address, address, folder)
    }

    fn start(
        mut command: Command,
        address: SocketAddr,
        stats: SocketAddr,
        folder: tempfile::TempDir,
    ) -> Self {
        let child = command
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}; `make test-system` installs it"));
        let started = Self {
            child,
            address,
            stats,
            _folder: folder,
        };
        wait_for("load balancer that listens", || {
            TcpStream::connect(address).is_ok()
        });
        started
    }

    /// A column of HAProxy's statistics, for each server.
    fn stats(&self, column: &str) -> Vec<String> {
        let target = Target::parse(&self.stats.to_string()).unwrap();
        let csv = load::exchange(self.stats, &target.get("/;csv"), Duration::from_secs(5)).unwrap();
        let csv = String::from_utf8(csv.body.to_vec()).unwrap();
        let index = csv
            .lines()
            .next()
            .unwrap()
            .split(',')
            .position(|name| name == column);
        csv.lines()
            .filter(|line| line.starts_with("classifyd,classifyd-"))
            .map(|line| line.split(',').nth(index.unwrap()).unwrap().to_owned())
            .collect()
    }

    /// How many servers HAProxy sends requests to.
    fn servers_up(&self) -> usize {
        self.stats("status")
            .iter()
            .filter(|status| status.starts_with("UP"))
            .count()
    }

    /// How many requests HAProxy took from a server that had not answered, and sent to another.
    fn sent_again(&self) -> u64 {
        let counts = self.stats("wredis");
        counts.iter().map(|count| count.parse::<u64>().unwrap()).sum()
    }

    fn wait_for_servers(&self, count: usize) {
        wait_for(&format!("{count} servers behind HAProxy"), || {
            self.servers_up() == count
        });
    }
}

impl Drop for LoadBalancer {
    fn drop(&mut self) {
        // Killing nginx's master process would leave its workers; on this signal it ends them first.
        let _ = Command::new("kill")
            .args(["-TERM", &self.child.id().to_string()])
            .status();
        let started = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && started.elapsed() < Duration::from_secs(5) {
            thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes a certificate for `localhost`, its key, and both in one file: `tls.crt`, `tls.key`, `both.pem`.
fn write_certificate(folder: &Path) {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (certified.cert.pem(), certified.signing_key.serialize_pem());
    std::fs::write(folder.join("both.pem"), certificate.clone() + &key).unwrap();
    std::fs::write(folder.join("tls.crt"), certificate).unwrap();
    std::fs::write(folder.join("tls.key"), key).unwrap();
}

/// Asks by HTTPS, with a picture if the path is that of classifications. Gives the status and the version of HTTP.
fn ask_https(address: SocketAddr, path: &str) -> String {
    let picture = root().join("models/digits/1/golden/7_0.png");
    let mut command = Command::new("curl");
    command
        .args(["--silent", "--show-error", "--insecure", "--output", "/dev/null"])
        .args(["--write-out", "%{http_code} %{http_version}"])
        .args(["--connect-to", &format!("::{address}")])
        .arg(format!("https://localhost:{}{path}", address.port()));
    if path == CLASSIFY {
        command
            .args(["--header", "Content-Type: image/png", "--data-binary"])
            .arg(format!("@{}", picture.display()));
    }
    let output = command
        .output()
        .expect("curl can be started: `make test-system` installs it");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

const CLASSIFY: &str = "/v1/classify";

#[test]
#[ignore = "needs haproxy and curl: make test-system"]
fn haproxy_asks_the_admin_listener_and_speaks_tls() {
    let port = free_address().port();
    let servers = Servers::start_with_admin(port);
    write_certificate(servers.models.path());
    let variables = [
        ("ADMIN_PORT", port.to_string()),
        (
            "TLS_CERTIFICATE",
            servers.models.path().join("both.pem").display().to_string(),
        ),
    ];
    let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
    let haproxy = LoadBalancer::haproxy_with(&servers, "35s", &variables);
    assert_eq!(ask_https(haproxy.address, CLASSIFY), "200 2");
    assert_eq!(ask_https(haproxy.address, "/metrics"), "404 2");
    // A server that drains says so on its admin listener alone.
    servers.running[0].signal("TERM");
    haproxy.wait_for_servers(2);
    assert_eq!(ask_https(haproxy.address, CLASSIFY), "200 2");
}

#[test]
#[ignore = "needs nginx and curl: make test-system"]
fn nginx_stands_before_servers_with_an_admin_listener_and_speaks_tls() {
    let mut servers = Servers::start_with_admin(free_address().port());
    let nginx = LoadBalancer::nginx_with_tls(&servers);
    for path in [CLASSIFY, "/v1/models", "/nginx/livez"] {
        assert_eq!(ask_https(nginx.address, path), "200 2", "{path}");
    }
    for path in ["/metrics", "/readyz", "/livez"] {
        assert_eq!(ask_https(nginx.address, path), "404 2", "{path}");
    }
    servers.drain(0);
    for _ in 0..10 {
        assert_eq!(ask_https(nginx.address, CLASSIFY), "200 2");
    }
}

/// Replaces what must be there.
pub(crate) fn put_in(config: &str, from: &str, to: &str) -> String {
    assert!(config.contains(from), "expected {from:?} in: {config}");
    config.replace(from, to)
}

/// A picture in colours of which no two are alike, so that it does not get small by compression.
fn large_picture() -> Vec<u8> {
    let mut state = 1_u32;
    let picture = image::RgbImage::from_fn(180, 180, |_, _| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let [_, a, b, c] = state.to_le_bytes();
        image::Rgb([a, b, c])
    });
    encode(&picture.into(), image::ImageFormat::Png)
}

/// What the clients got.
struct Seen {
    small: Tally,
    large: Tally,
}

impl Seen {
    /// Sends requests until `scenario` is through.
    fn during(address: SocketAddr, scenario: impl FnOnce()) -> Self {
        let target = Target::parse(&format!("http://{address}/v1/classify?model=digits")).unwrap();
        let golden = root().join("models/digits/1/golden");
        let small = load::read_files(&[golden]).unwrap();
        let small = small
            .iter()
            .map(|input| target.post(input.content_type, &input.body));
        let large_body = large_picture();
        assert!(large_body.len() > 65536, "{} bytes", large_body.len());
        let plan = |requests, rate, max_connections| LoadSpec {
            address,
            requests,
            arrivals: Arrivals::Open {
                rate,
                max_connections,
            },
            warmup: Duration::ZERO,
            duration: PIECE,
            timeout: Duration::from_secs(20),
            threads: 1,
        };
        let small = plan(small.collect(), SMALL_RATE, 128);
        let large = plan(
            Arc::new([target.post("image/png", &large_body)]),
            LARGE_RATE,
            LARGE_CONNECTIONS,
        );
        let over = Arc::new(AtomicBool::new(false));
        let [small, large] = [small, large].map(|plan| {
            let over = Arc::clone(&over);
            thread::spawn(move || {
                let mut tally = Tally::default();
                while !over.load(Ordering::Acquire) {
                    tally.add(&load::run(&plan, &mut ()).unwrap().tally);
                }
                tally
            })
        });
        // Not before there is load, and not without a look at what comes after.
        thread::sleep(Duration::from_secs(1));
        scenario();
        thread::sleep(Duration::from_secs(1));
        over.store(true, Ordering::Release);
        let [small, large] = [small, large].map(|load| load.join().unwrap());
        Self { small, large }
    }

    fn show(&self, title: &str) {
        let mut text = format!("\n{title}");
        for (name, tally) in [("small", &self.small), ("large", &self.large)] {
            let statuses: BTreeMap<_, _> = tally
                .statuses
                .iter()
                .map(|(status, answers)| (status, answers.latency.count()))
                .collect();
            let latency = tally.good().latency;
            let _ = write!(
                text,
                "\n  {name}: {} requests, {} failed, {} unsent, statuses {statuses:?}, without answer {:?}, p50 {:.1} ms, p99 {:.1} ms, \
                 slowest {:.0} ms, over {SLOW:?}: {}",
                tally.requests(),
                failed(tally),
                tally.unsent,
                tally.failures,
                latency.percentile(50.0) / 1e3,
                latency.percentile(99.0) / 1e3,
                latency.max() / 1e3,
                latency.longer_than(SLOW),
            );
        }
        eprintln!("{text}");
    }
}

/// Requests that were sent and got no answer, or another than status 200. Those that a slow machine kept the load generator
/// from sending are no failures of anybody.
fn failed(tally: &Tally) -> u64 {
    tally.errors() - tally.unsent
}

/// No client got anything but an answer.
fn nothing_failed(tally: &Tally) {
    assert!(tally.good().latency.count() > 0);
    assert_eq!(
        failed(tally),
        0,
        "{:?}, {:?}",
        tally.statuses.keys(),
        tally.failures
    );
}

/// Only requests too large to be sent again may fail, and no more of them than can be on their way at once.
fn only_large_ones_failed(seen: &Seen) {
    nothing_failed(&seen.small);
    let failed = failed(&seen.large);
    assert!(
        failed <= LARGE_CONNECTIONS as u64,
        "{failed} large requests failed"
    );
}

#[test]
#[ignore = "needs haproxy: make test-system"]
fn a_rolling_restart_behind_haproxy_fails_no_request() {
    // With the delays that the server has by default.
    let mut servers = Servers::start(&[]);
    let haproxy = LoadBalancer::haproxy(&servers, "35s");
    let seen = Seen::during(haproxy.address, || {
        for index in 0..3 {
            servers.drain(index);
            servers.start_again(index);
            haproxy.wait_for_servers(3);
        }
    });
    seen.show("rolling restart behind HAProxy");
    nothing_failed(&seen.small);
    nothing_failed(&seen.large);
}

#[test]
#[ignore = "needs haproxy: make test-system"]
fn a_crash_behind_haproxy_costs_only_requests_too_large_to_send_again() {
    let mut servers = Servers::start(&[]);
    let haproxy = LoadBalancer::haproxy(&servers, "35s");
    let seen = Seen::during(haproxy.address, || {
        servers.running[1].signal("KILL");
        servers.running[1].wait(Duration::from_secs(5));
        haproxy.wait_for_servers(2);
        servers.start_again(1);
        haproxy.wait_for_servers(3);
    });
    seen.show("kill -9 behind HAProxy");
    only_large_ones_failed(&seen);
}

#[test]
#[ignore = "needs haproxy: make test-system"]
fn a_server_that_hangs_behind_haproxy_is_left_and_its_requests_are_sent_again() {
    let servers = Servers::start(&["--request-timeout", "2s"]);
    let haproxy = LoadBalancer::haproxy(&servers, "3s");
    let mut sent_again = 0;
    let seen = Seen::during(haproxy.address, || {
        servers.running[1].signal("STOP");
        haproxy.wait_for_servers(2);
        // Longer than the answers that were on their way are waited for.
        thread::sleep(Duration::from_secs(4));
        sent_again = haproxy.sent_again();
        servers.running[1].signal("CONT");
        haproxy.wait_for_servers(3);
    });
    seen.show("SIGSTOP behind HAProxy");
    eprintln!("  {sent_again} sent again");
    only_large_ones_failed(&seen);
    assert!(sent_again > 0, "no request met the server that hangs");
}

#[test]
#[ignore = "needs nginx: make test-system"]
fn a_rolling_restart_behind_nginx_fails_no_request() {
    let mut servers = Servers::start(&[]);
    let nginx = LoadBalancer::nginx(&servers);
    let seen = Seen::during(nginx.address, || {
        for index in 0..3 {
            servers.drain(index);
            servers.start_again(index);
        }
    });
    seen.show("rolling restart behind nginx");
    nothing_failed(&seen.small);
    nothing_failed(&seen.large);
}

#[test]
#[ignore = "needs nginx: make test-system"]
fn a_crash_behind_nginx_fails_no_request() {
    let mut servers = Servers::start(&[]);
    let nginx = LoadBalancer::nginx(&servers);
    let seen = Seen::during(nginx.address, || {
        servers.running[1].signal("KILL");
        servers.running[1].wait(Duration::from_secs(5));
        thread::sleep(Duration::from_secs(2));
        servers.start_again(1);
    });
    seen.show("kill -9 behind nginx");
    // nginx has every body whole before it sends it on, so it can send any again.
    nothing_failed(&seen.small);
    nothing_failed(&seen.large);
}
