//! The admin listener: probes and metrics at an address of their own.

use std::time::Duration;

use super::{ConfigFile, code, make_key, start, status};
use crate::harness::{Server, some_models};

#[tokio::test]
async fn probes_and_metrics_are_on_the_admin_listener_only() {
    let key = make_key("a");
    let file = ConfigFile::new(&key.entry);
    let mut server = start(
        &file,
        &[
            "--admin-listen",
            "127.0.0.1:0",
            "--rate-limit",
            "1/h",
            "--drain-delay",
            "0s",
        ],
    );
    let admin = server.admin_address.unwrap();
    assert_ne!(admin, server.address);
    let on_admin = |path: &str| server.client.get(format!("http://{admin}{path}"));
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(status(on_admin(path)).await, 200, "{path}");
        assert_eq!(code(server.get(path)).await, "not_found", "{path}");
    }
    for path in ["/v1/models", "/openapi.json"] {
        assert_eq!(code(on_admin(path)).await, "not_found", "{path}");
    }
    assert_eq!(status(server.get("/v1/models").bearer_auth(&key.key)).await, 200);
    server.signal("TERM");
    assert_eq!(server.wait(Duration::from_secs(10)).code(), Some(0));
}

#[tokio::test]
async fn readyz_on_the_admin_listener_reports_draining() {
    let models = some_models(&["linear"]);
    let server = Server::start(
        models.path(),
        &["--admin-listen", "127.0.0.1:0", "--drain-delay", "1m"],
    );
    let ready = format!("http://{}/readyz", server.admin_address.unwrap());
    server.signal("TERM");
    server.wait_for_log(&["no longer ready"]).await;
    assert_eq!(code(server.client.get(ready)).await, "draining");
    assert_eq!(status(server.get("/v1/models")).await, 200);
}
