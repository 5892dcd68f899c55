//! Three servers behind a real load balancer under constant load: the effect of a restart, a crash
//! and a hang on clients.
//!
//! The load balancers run with the files in `deploy/`; only the addresses are replaced.

mod clients;
mod processes;

use std::net::SocketAddr;
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::harness::root;
use clients::{Seen, nothing_failed, only_large_ones_failed};
pub(crate) use processes::{LoadBalancer, digits, free_address, put_in};
use processes::{Servers, write_certificate};

/// Sends an HTTPS request with curl, with an image if the path is `CLASSIFY`. Returns the status
/// and the HTTP version.
fn request_https(address: SocketAddr, path: &str) -> String {
    let image = root().join("models/digits/1/golden/7_0.png");
    let mut command = Command::new("curl");
    command
        .args(["--silent", "--show-error", "--insecure", "--output", "/dev/null"])
        .args(["--write-out", "%{http_code} %{http_version}"])
        .args(["--connect-to", &format!("::{address}")])
        .arg(format!("https://localhost:{}{path}", address.port()));
    if path == CLASSIFY {
        command
            .args(["--header", "Content-Type: image/png", "--data-binary"])
            .arg(format!("@{}", image.display()));
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
fn haproxy_probes_the_admin_listener_and_serves_https() {
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
    assert_eq!(request_https(haproxy.address, CLASSIFY), "200 2");
    assert_eq!(request_https(haproxy.address, "/metrics"), "404 2");
    // A draining server says so on its admin listener only.
    servers.running[0].signal("TERM");
    haproxy.wait_for_servers(2);
    assert_eq!(request_https(haproxy.address, CLASSIFY), "200 2");
}

#[test]
#[ignore = "needs nginx and curl: make test-system"]
fn nginx_serves_https_in_front_of_servers_with_an_admin_listener() {
    let mut servers = Servers::start_with_admin(free_address().port());
    let nginx = LoadBalancer::nginx_with_tls(&servers);
    for path in [CLASSIFY, "/v1/models", "/nginx/livez"] {
        assert_eq!(request_https(nginx.address, path), "200 2", "{path}");
    }
    for path in ["/metrics", "/readyz", "/livez"] {
        assert_eq!(request_https(nginx.address, path), "404 2", "{path}");
    }
    servers.drain(0);
    for _ in 0..10 {
        assert_eq!(request_https(nginx.address, CLASSIFY), "200 2");
    }
}

#[test]
#[ignore = "needs haproxy: make test-system"]
fn a_rolling_restart_behind_haproxy_fails_no_request() {
    // With the server's default delays.
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
fn requests_to_a_hanging_server_behind_haproxy_are_sent_to_another() {
    let servers = Servers::start(&["--request-timeout", "2s"]);
    let haproxy = LoadBalancer::haproxy(&servers, "3s");
    let mut sent_again = 0;
    let seen = Seen::during(haproxy.address, || {
        servers.running[1].signal("STOP");
        haproxy.wait_for_servers(2);
        // Longer than SERVER_TIMEOUT, so that waiting requests are retried.
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
    // nginx has the whole body before it forwards it, so it can retry any request.
    nothing_failed(&seen.small);
    nothing_failed(&seen.large);
}
