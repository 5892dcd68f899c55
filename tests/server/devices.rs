//! The device of a model, and the errors for unavailable devices. The tests use ONNX Runtime
//! without CUDA.

use std::fs;

use crate::harness::{
    Server, changed_model, classifyd, fixture_models, ok, problem, some_models, square, white_row,
};

/// Runs a server that must not start, and returns its output.
fn refusal(models: &std::path::Path, options: &[&str]) -> String {
    let output = classifyd()
        .args(["serve", "--listen", "127.0.0.1:0", "--models"])
        .arg(models)
        .args(options)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{options:?}: {text}");
    text.lines().last().unwrap().to_owned()
}

#[test]
fn the_server_does_not_start_if_the_requested_device_is_unavailable() {
    let models = some_models(&["linear"]);
    for (device, title) in [("cuda", "CUDA"), ("tensorrt", "TensorRT")] {
        let text = refusal(models.path(), &["--device", device, "--device-id", "1"]);
        let model = format!("flag --device: device: model linear: {title} on GPU 1 cannot be used");
        for part in [
            model.as_str(),
            &format!("is built without {title}"),
            "make setup-gpu",
            "libonnxruntime.so.1.31.1",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}

#[test]
fn the_error_for_an_unavailable_device_names_where_it_was_configured() {
    let models = some_models(&["linear"]);
    let file = models.path().join("classifyd.toml");
    fs::write(&file, "[model.linear]\ndevice = \"cuda\"\n").unwrap();
    let text = refusal(
        models.path(),
        &["--config", file.to_str().unwrap(), "--device", "cpu"],
    );
    let place = format!(
        "{}:2:1: model.linear.device: model linear: CUDA on GPU 0",
        file.display()
    );
    assert!(text.contains(&place), "{text}");

    let models = changed_model("linear", |directory| {
        let serving = directory.join("serving.toml");
        let text = fs::read_to_string(&serving).unwrap_or_default();
        fs::write(
            &serving,
            format!("{text}\n[lanes]\ndevice = \"tensorrt\"\nfp16 = true\n"),
        )
        .unwrap();
    });
    let text = refusal(models.path(), &[]);
    assert!(text.contains("device: model linear: TensorRT on GPU 0"), "{text}");
    // The server's own configuration overrides the model's.
    Server::start(models.path(), &["--device", "cpu"]);
}

#[test]
fn settings_without_effect_are_rejected() {
    let models = some_models(&["linear"]);
    for device in ["cpu", "cuda"] {
        let text = refusal(models.path(), &["--device", device, "--fp16", "true"]);
        let part = "flag --fp16: fp16: expected device = \"tensorrt\" or \"auto\" for 16-bit floats, found ";
        assert!(text.contains(&format!("{part}{device}")), "{text}");
    }
    let text = refusal(models.path(), &["--gpu-libraries", "/nowhere"]);
    assert!(
        text.contains("gpu_libraries: expected a directory of libraries, found none at /nowhere"),
        "{text}"
    );
}

#[tokio::test]
async fn device_auto_falls_back_to_the_cpu_and_logs_why() {
    let models = some_models(&["linear"]);
    let server = Server::start(
        models.path(),
        &["--device", "auto", "--fp16", "true", "--tf32", "true"],
    );
    assert_eq!(server.label("", white_row(1)).await, "b");
    let model = ok(server.get("/v1/models/linear").send().await.unwrap()).await;
    assert_eq!(model["provider"], "cpu");
    assert_eq!(model["device_id"], serde_json::Value::Null);
    assert_eq!(model["max_inputs"], 32, "as on the CPU");
    let reason = model["fallback"].as_str().unwrap();
    assert!(reason.contains("CUDA on GPU 0 cannot be used"), "{reason}");
    assert!(reason.contains("is built without CUDA"), "{reason}");
    server
        .wait_for_log(&["fell back", "\"models\":\"linear\"", "is built without CUDA"])
        .await;
    let series = "classifyd_model_info{model=\"linear\",provider=\"cpu\",version=\"1\"}";
    assert_eq!(server.metrics().await.get(series), Some(1.0));

    let server = Server::start(models.path(), &[]);
    let model = ok(server.get("/v1/models/linear").send().await.unwrap()).await;
    assert_eq!(
        model["fallback"],
        serde_json::Value::Null,
        "nothing better was asked for"
    );
}

/// The engine's unit tests cover failing runs, which this test cannot provoke.
#[tokio::test]
async fn invalid_inputs_do_not_degrade_a_model() {
    let server = Server::start(&fixture_models(), &["--default-image-model", "fails"]);
    for _ in 0..4 {
        let failed = server.send_png("", square(255)).send().await.unwrap();
        assert_eq!(problem(failed).await["code"], "internal");
    }
    let model = ok(server.get("/v1/models/fails").send().await.unwrap()).await;
    assert_eq!(model["degraded"], false);
    let metrics = server.metrics().await;
    assert_eq!(
        metrics.get("classifyd_model_degraded{model=\"fails\"}"),
        Some(0.0)
    );
    assert_eq!(
        metrics.get("classifyd_inference_failures_total{model=\"fails\"}"),
        Some(4.0)
    );
}

#[test]
fn warm_loads_every_model_and_prints_its_device() {
    let models = some_models(&["linear", "words"]);
    let warm = |options: &[&str]| {
        let output = classifyd()
            .args(["warm", "--models"])
            .arg(models.path())
            .args(options)
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, table, log) = warm(&["--device", "auto", "--lanes", "1", "--max-batch", "7"]);
    assert_eq!(code, Some(0), "{log}");
    let rows: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(rows[0].join(" "), "model provider gpu lanes max batch seconds");
    assert_eq!(rows[1][..5], ["linear/1", "cpu", "-", "1", "7"], "{table}");
    assert_eq!(rows[2][0], "words/1", "{table}");
    // One log line for each reason, however many models share it.
    assert_eq!(log.matches("fell back").count(), 1, "{log}");
    assert!(log.contains("linear, words"), "{log}");

    let file = models.path().join("classifyd.toml");
    fs::write(&file, "[model.linear]\ndevice = \"cuda\"\n").unwrap();
    let (code, table, log) = warm(&["--config", file.to_str().unwrap()]);
    assert_eq!(code, Some(1), "{log}");
    assert!(
        log.contains("model.linear.device: model linear: CUDA on GPU 0"),
        "{log}"
    );
    assert!(log.contains("1 of 2 models failed"), "{log}");
    assert!(table.contains("words/1"), "the others are done: {table}");
}
