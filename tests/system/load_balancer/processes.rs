//! Starts load balancers with the files in `deploy/`, and the servers behind them.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use load::Target;

use crate::harness::{Server, root};

/// An address with a free port.
pub(crate) fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Waits until `done`; a timeout names what was missing.
fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < Duration::from_mins(2), "no {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A models directory with only `digits`.
pub(crate) fn digits() -> tempfile::TempDir {
    let models = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(root().join("models/digits"), models.path().join("digits")).unwrap();
    models
}

/// The servers behind the load balancer. Each keeps its address when it restarts.
pub(super) struct Servers {
    pub(super) models: tempfile::TempDir,
    options: Vec<&'static str>,
    pub(super) running: Vec<Server>,
}

impl Servers {
    pub(super) fn start(options: &[&'static str]) -> Self {
        let models = digits();
        let running = (0..3).map(|_| Server::start(models.path(), options)).collect();
        Self {
            models,
            options: options.to_vec(),
            running,
        }
    }

    /// Probes and metrics are on the same port of different hosts, as in production.
    pub(super) fn start_with_admin(port: u16) -> Self {
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

    /// Drains a server as an orchestrator does. It must exit with 0.
    pub(super) fn drain(&mut self, index: usize) {
        let server = &mut self.running[index];
        server.signal("TERM");
        assert_eq!(server.wait(Duration::from_mins(1)).code(), Some(0));
    }

    /// Restarts a server at its address.
    pub(super) fn start_again(&mut self, index: usize) {
        let listen = self.running[index].address.to_string();
        self.running[index] = Server::start_at(&listen, self.models.path(), &self.options);
    }
}

/// A running load balancer, which is stopped on drop.
pub(crate) struct LoadBalancer {
    child: Child,
    pub(crate) address: SocketAddr,
    /// The address of HAProxy's statistics.
    stats: SocketAddr,
    /// Its configuration and files, kept until it has ended.
    _directory: tempfile::TempDir,
}

impl LoadBalancer {
    pub(super) fn haproxy(servers: &Servers, server_timeout: &str) -> Self {
        Self::haproxy_with(servers, server_timeout, &[])
    }

    /// With further environment variables of its file.
    pub(super) fn haproxy_with(servers: &Servers, server_timeout: &str, variables: &[(&str, &str)]) -> Self {
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

    pub(super) fn nginx(servers: &Servers) -> Self {
        let address = free_address();
        let shipped = std::fs::read_to_string(root().join("deploy/nginx/nginx.conf")).unwrap();
        let config = put_in(&shipped, "listen 8080", &format!("listen {address}"));
        Self::nginx_at(servers, address, &config, tempfile::tempdir().unwrap())
    }

    /// With the commented-out lines for HTTPS.
    pub(super) fn nginx_with_tls(servers: &Servers) -> Self {
        let (address, directory) = (free_address(), tempfile::tempdir().unwrap());
        write_certificate(directory.path());
        let mut config = std::fs::read_to_string(root().join("deploy/nginx/nginx.conf")).unwrap();
        for (from, to) in [
            ("        listen 8080 backlog=4096;\n", ""),
            ("# listen 8443", &format!("listen {address}")),
            ("# ssl_", "ssl_"),
            // Paths relative to the file.
            ("/etc/nginx/", ""),
        ] {
            config = put_in(&config, from, to);
        }
        Self::nginx_at(servers, address, &config, directory)
    }

    fn nginx_at(servers: &Servers, address: SocketAddr, config: &str, directory: tempfile::TempDir) -> Self {
        let mut config = config.to_owned();
        for (number, server) in (1..).zip(servers.addresses()) {
            let from = format!("server classifyd-{number}:8080");
            config = put_in(&config, &from, &format!("server {server}"));
        }
        Self::nginx_in(address, &config, directory)
    }

    /// With this configuration, which is written to the directory.
    pub(crate) fn nginx_in(address: SocketAddr, config: &str, directory: tempfile::TempDir) -> Self {
        let config = put_in(config, " /tmp/", &format!(" {}/", directory.path().display()));
        let file = directory.path().join("nginx.conf");
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new("nginx");
        command.args(["-g", "daemon off;", "-c"]).arg(&file);
        Self::start(command, address, address, directory)
    }

    fn start(
        mut command: Command,
        address: SocketAddr,
        stats: SocketAddr,
        directory: tempfile::TempDir,
    ) -> Self {
        let child = command
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}; `make test-system` installs it"));
        let started = Self {
            child,
            address,
            stats,
            _directory: directory,
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

    /// The number of servers that get requests from HAProxy.
    fn servers_up(&self) -> usize {
        self.stats("status")
            .iter()
            .filter(|status| status.starts_with("UP"))
            .count()
    }

    /// The number of requests that HAProxy retried on another server.
    pub(super) fn sent_again(&self) -> u64 {
        let counts = self.stats("wredis");
        counts.iter().map(|count| count.parse::<u64>().unwrap()).sum()
    }

    pub(super) fn wait_for_servers(&self, count: usize) {
        wait_for(&format!("{count} servers behind HAProxy"), || {
            self.servers_up() == count
        });
    }
}

impl Drop for LoadBalancer {
    fn drop(&mut self) {
        // Killing nginx's master process would leave its workers; on SIGTERM it stops them first.
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

/// Writes a certificate for `localhost`, its key, and both in one file: `tls.crt`, `tls.key`,
/// `both.pem`.
pub(super) fn write_certificate(directory: &Path) {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (certified.cert.pem(), certified.signing_key.serialize_pem());
    std::fs::write(directory.join("both.pem"), certificate.clone() + &key).unwrap();
    std::fs::write(directory.join("tls.crt"), certificate).unwrap();
    std::fs::write(directory.join("tls.key"), key).unwrap();
}

/// Replaces a text that must occur.
pub(crate) fn put_in(config: &str, from: &str, to: &str) -> String {
    assert!(config.contains(from), "expected {from:?} in: {config}");
    config.replace(from, to)
}
