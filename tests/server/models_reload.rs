//! Models that are added, removed or updated while the server runs, on SIGHUP.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::harness::{
    SIGHUP, Server, changed_model, classifyd, fixture_models, ok, problem, shipped_models, square,
    wait_for_signals, white_row,
};

/// Copies the fixture `linear` into the directory, with labels that begin with `prefix`.
fn put(models: &Path, name: &str, version: u64, prefix: &str) {
    let target = models.join(name).join(version.to_string());
    fs::create_dir_all(&target).unwrap();
    for entry in fs::read_dir(fixture_models().join("linear/1")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, target.join(path.file_name().unwrap())).unwrap();
    }
    let labels = serde_json::json!({"id2label": {
        "0": format!("{prefix}a"), "1": format!("{prefix}b"), "2": format!("{prefix}c"),
    }});
    fs::write(target.join("config.json"), labels.to_string()).unwrap();
}

/// Gives a version that [`put`] has made a golden sample: the image with the second row white, with
/// this score for the second label.
fn put_golden(version: &Path, prefix: &str, score: f32) {
    fs::create_dir_all(version.join("golden")).unwrap();
    fs::write(version.join("golden/b.png"), white_row(1)).unwrap();
    let other = (1.0 - score) / 2.0;
    let golden = serde_json::json!({"samples": [
        {"file": "golden/b.png", "label": format!("{prefix}b"), "scores": [other, score, other]},
    ]});
    fs::write(version.join("golden.json"), golden.to_string()).unwrap();
}

fn info(name: &str, version: u64) -> String {
    format!("classifyd_model_info{{model=\"{name}\",provider=\"cpu\",version=\"{version}\"}}")
}

const MODELS_READ: &[&str] = &["reloaded", "models"];
const MODELS_KEPT: &[&str] = &["nothing changes", "models"];
const SUCCESSFUL: &str = "classifyd_reload_successful{what=\"models\"}";

#[tokio::test]
async fn a_new_version_takes_over_under_load_and_no_request_fails() {
    let models = tempfile::tempdir().unwrap();
    put(models.path(), "linear", 1, "old-");
    let server = Arc::new(Server::start(models.path(), &[]));
    let done = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (server, done) = (Arc::clone(&server), Arc::clone(&done));
            tokio::spawn(async move {
                let mut labels = Vec::new();
                while !done.load(Ordering::Relaxed) {
                    // Fails the test if the response is an error.
                    labels.push(server.label("", white_row(1)).await);
                }
                labels
            })
        })
        .collect();

    put(models.path(), "linear", 2, "new-");
    server.signal("HUP");
    server.wait_for_metric(&info("linear", 2), 1.0).await;
    assert_eq!(server.label("", white_row(1)).await, "new-b");
    done.store(true, Ordering::Relaxed);
    for client in clients {
        let labels = client.await.unwrap();
        let first_new = labels.iter().position(|label| label == "new-b");
        let (old, new) = labels.split_at(first_new.unwrap_or(labels.len()));
        assert!(old.iter().all(|label| label == "old-b"), "{old:?}");
        assert!(new.iter().all(|label| label == "new-b"), "{new:?}");
    }
    assert_eq!(server.metrics().await.get(&info("linear", 1)), None);
    assert_eq!(
        ok(server.get("/v1/models/linear").send().await.unwrap()).await["version"],
        "2"
    );
}

#[tokio::test]
async fn requests_running_on_the_old_version_finish_on_it() {
    let models = changed_model("slow", |_| {});
    let server = Server::start(models.path(), &["--lanes", "1", "--max-batch", "1"]);
    let slow = || tokio::spawn(server.send_png("", square(255)).send());
    let running = slow();
    server
        .wait_for_metric("classifyd_batch_size_count{model=\"slow\"}", 1.0)
        .await;
    let waiting = slow();
    server.wait_for_queue("slow", 1.0).await;

    put(models.path(), "slow", 2, "new-");
    server.signal("HUP");
    server.wait_for_metric(&info("slow", 2), 1.0).await;
    assert!(server.label("", white_row(0)).await.starts_with("new-"));
    for request in [running, waiting] {
        let answer = ok(request.await.unwrap().unwrap()).await;
        assert_eq!(answer["version"], "1");
    }
    // Its lane has ended too.
    server.wait_for_threads("slow-0", 1).await;
}

#[tokio::test]
async fn the_old_version_stays_if_the_new_one_cannot_be_loaded() {
    let models = tempfile::tempdir().unwrap();
    put(models.path(), "linear", 1, "old-");
    let server = Server::start(models.path(), &[]);
    assert_eq!(server.metrics().await.get(SUCCESSFUL), Some(1.0));

    put(models.path(), "linear", 2, "new-");
    let graph = models.path().join("linear/2/model.onnx");
    fs::write(&graph, "no graph").unwrap();
    server.signal("HUP");
    server.wait_for_log(MODELS_KEPT).await;
    server.wait_for_log(&["linear/2/model.onnx"]).await;
    server.wait_for_metric(SUCCESSFUL, 0.0).await;
    assert_eq!(server.label("", white_row(1)).await, "old-b");
    assert_eq!(server.metrics().await.get(&info("linear", 1)), Some(1.0));
    assert_eq!(server.get("/readyz").send().await.unwrap().status(), 200);

    fs::copy(fixture_models().join("linear/1/model.onnx"), &graph).unwrap();
    server.signal("HUP");
    server.wait_for_metric(&info("linear", 2), 1.0).await;
    server.wait_for_metric(SUCCESSFUL, 1.0).await;
    assert_eq!(server.label("", white_row(1)).await, "new-b");
}

#[tokio::test]
async fn the_old_version_stays_if_the_new_one_fails_its_golden_samples() {
    let models = tempfile::tempdir().unwrap();
    put(models.path(), "linear", 1, "old-");
    let server = Server::start(models.path(), &[]);
    put(models.path(), "linear", 2, "new-");
    let version = models.path().join("linear/2");
    put_golden(&version, "new-", 0.5);
    server.signal("HUP");
    server.wait_for_log(MODELS_KEPT).await;
    server
        .wait_for_log(&[
            "golden.json: golden/b.png",
            "expected a score of 0.25",
            "found 0.017",
        ])
        .await;
    server.wait_for_metric(SUCCESSFUL, 0.0).await;
    assert_eq!(server.label("", white_row(1)).await, "old-b");
    assert_eq!(server.get("/readyz").send().await.unwrap().status(), 200);

    put_golden(&version, "new-", 0.9647);
    server.signal("HUP");
    server.wait_for_metric(&info("linear", 2), 1.0).await;
    server.wait_for_metric(SUCCESSFUL, 1.0).await;
    assert_eq!(server.label("", white_row(1)).await, "new-b");
}

#[tokio::test]
async fn models_are_added_and_removed_and_a_version_can_be_rolled_back() {
    let models = tempfile::tempdir().unwrap();
    put(models.path(), "one", 1, "old-");
    put(models.path(), "one", 2, "new-");
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("classifyd.toml");
    fs::write(&config, "").unwrap();
    let server = Server::start(models.path(), &["--config", config.to_str().unwrap()]);
    assert_eq!(server.label("", white_row(0)).await, "new-a");

    put(models.path(), "two", 1, "two-");
    fs::write(&config, "[model.one]\nversion = 1\n").unwrap();
    server.signal("HUP");
    server.wait_for_metric(&info("two", 1), 1.0).await;
    server.wait_for_log(MODELS_READ).await;
    assert_eq!(server.label("?model=one", white_row(0)).await, "old-a");
    assert_eq!(server.label("?model=two", white_row(0)).await, "two-a");
    let ambiguous = problem(server.send_png("", white_row(0)).send().await.unwrap()).await;
    assert_eq!(ambiguous["code"], "model_required");

    fs::write(&config, "").unwrap();
    fs::remove_dir_all(models.path().join("one")).unwrap();
    server.signal("HUP");
    server
        .wait_for_log(&["no longer served", "\"one\"", "\"version\":\"1\""])
        .await;
    assert_eq!(server.label("", white_row(0)).await, "two-a");
    let gone = problem(server.send_png("?model=one", white_row(0)).send().await.unwrap()).await;
    assert_eq!(gone["code"], "model_not_found");
    let metrics = server.metrics().await;
    assert_eq!(metrics.get(&info("one", 1)), None);
    assert_eq!(metrics.get("classifyd_lanes{model=\"one\"}"), None);
}

#[tokio::test]
async fn an_empty_models_directory_unloads_nothing() {
    let models = tempfile::tempdir().unwrap();
    put(models.path(), "linear", 1, "");
    let server = Server::start(models.path(), &[]);
    fs::remove_dir_all(models.path().join("linear")).unwrap();
    server.signal("HUP");
    server.wait_for_log(MODELS_KEPT).await;
    assert_eq!(server.label("", white_row(2)).await, "c");
}

#[test]
fn sighup_during_startup_takes_effect_after_the_models_have_loaded() {
    let mut child = classifyd()
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--log-format",
            "json",
            "--models",
        ])
        .arg(shipped_models())
        .env_remove("ORT_DISABLE_TELEMETRY")
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let process = child.id();
    // A signal before the process's first instruction would kill it.
    wait_for_signals(&mut child, |signals| {
        (signals.blocked | signals.handled) & SIGHUP != 0
    });
    let (ready, is_ready) = std::sync::mpsc::channel();
    let stderr = std::io::BufReader::new(child.stderr.take().unwrap());
    let reader = std::thread::spawn(move || {
        let mut models_read_again = false;
        for line in std::io::BufRead::lines(stderr).map_while(Result::ok) {
            let line: Value = serde_json::from_str(&line).unwrap_or_default();
            if line["message"] == "ready" {
                ready.send(()).unwrap();
            }
            models_read_again |= line["message"] == "reloaded" && line["what"] == "models";
            if models_read_again {
                break;
            }
        }
        models_read_again
    });
    let id = nix::unistd::Pid::from_raw(i32::try_from(process).unwrap());
    while is_ready.try_recv().is_err() {
        assert!(
            child.try_wait().unwrap().is_none(),
            "the signal ended the process"
        );
        nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGHUP).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert!(reader.join().unwrap(), "the models were not read again");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn a_rebuilt_lane_uses_the_files_as_read_at_startup() {
    let models = changed_model("fails", |_| {});
    let server = Server::start(models.path(), &["--lanes", "1"]);
    assert_eq!(server.label("", square(0)).await, "a");
    // Replaces the graph of the served version by one with the same inputs and other outputs.
    let graph = models.path().join("fails/1/model.onnx");
    fs::copy(fixture_models().join("nan/1/model.onnx"), &graph).unwrap();
    for _ in 0..3 {
        // A failed run makes the lane create a new session.
        let failed = problem(server.send_png("", square(255)).send().await.unwrap()).await;
        assert_eq!(failed["code"], "internal");
        assert_eq!(server.label("", square(0)).await, "a");
    }
    fs::remove_file(&graph).unwrap();
    problem(server.send_png("", square(255)).send().await.unwrap()).await;
    assert_eq!(server.label("", square(0)).await, "a");
}
