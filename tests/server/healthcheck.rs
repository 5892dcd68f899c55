//! `classifyd healthcheck`, as a container runs it.

use std::net::TcpListener;
use std::process::Output;

use crate::harness::{Server, classifyd, some_models};

fn healthcheck(options: &[&str]) -> Output {
    classifyd().arg("healthcheck").args(options).output().unwrap()
}

/// Asserts one line on standard error that contains `part`, and exit code 1.
fn fails_with(output: &Output, part: &str) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains(part), "expected {part:?} in: {errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
}

#[tokio::test]
async fn a_ready_server_is_healthy_and_a_draining_one_is_only_live() {
    let models = some_models(&["linear"]);
    let server = Server::start(models.path(), &["--drain-delay", "20s"]);
    let listen = server.address.to_string();
    let url = server.url("");
    for options in [
        &["--listen", &listen][..],
        &["--url", &url],
        &["--url", &url, "--live"],
    ] {
        let output = healthcheck(options);
        assert!(output.status.success(), "{options:?}: {output:?}");
        assert!(
            output.stdout.is_empty() && output.stderr.is_empty(),
            "{options:?}: {output:?}"
        );
    }
    server.signal("TERM");
    server.wait_for_log(&["draining: no longer ready"]).await;
    fails_with(&healthcheck(&["--listen", &listen]), "/readyz: status 503");
    assert!(healthcheck(&["--listen", &listen, "--live"]).status.success());
}

#[test]
fn a_server_that_is_absent_or_silent_is_not_healthy() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    // The kernel accepts the connection, but no process responds.
    fails_with(
        &healthcheck(&["--listen", &address, "--timeout", "200ms"]),
        "no response from",
    );
    drop(listener);
    fails_with(&healthcheck(&["--listen", &address]), "no response from");
}

#[test]
fn healthcheck_takes_the_address_from_the_configuration() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("classifyd.toml");
    std::fs::write(&file, format!("listen = {address:?}")).unwrap();
    let output = classifyd()
        .arg("healthcheck")
        .env("CLASSIFYD_CONFIG", &file)
        .output()
        .unwrap();
    fails_with(&output, &address);
    std::fs::write(&file, "listen = \"127.0.0.1:0\"").unwrap();
    fails_with(&healthcheck(&["--config", file.to_str().unwrap()]), "--url");
}

#[tokio::test]
async fn healthcheck_uses_the_admin_listener_if_there_is_one() {
    let models = some_models(&["linear"]);
    let server = Server::start(models.path(), &["--admin-listen", "127.0.0.1:0"]);
    let (listen, admin) = (
        server.address.to_string(),
        server.admin_address.unwrap().to_string(),
    );
    let output = classifyd()
        .args(["healthcheck", "--listen", &listen])
        .env("CLASSIFYD_ADMIN_LISTEN", &admin)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let tls = classifyd()
        .args(["healthcheck", "--listen", &listen])
        .envs([
            ("CLASSIFYD_TLS_CERTIFICATE", "tls.crt"),
            ("CLASSIFYD_TLS_KEY", "tls.key"),
        ])
        .output()
        .unwrap();
    fails_with(&tls, "give probes an admin_listen of their own");
}
