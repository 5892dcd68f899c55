//! Configuration that the server reads, prints or rejects before it loads anything.

use std::fs;

use super::{fails, run};
use crate::harness::{Server, classifyd, ok, problem, root, some_models, square};

#[test]
fn a_configuration_error_is_reported_before_anything_is_loaded() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("classifyd.toml");
    let config = ["serve", "--config", file.to_str().unwrap()];
    for (text, part) in [
        (
            "listn = \"127.0.0.1:1\"",
            "classifyd.toml:1:1: listn: unknown key; did you mean listen?",
        ),
        ("grace = 5", "classifyd.toml:1:9: grace: "),
        ("[server]\nlisten = 1", "server"),
    ] {
        fs::write(&file, text).unwrap();
        fails(&config, &[], &["classifyd.toml", part]);
    }
    fails(
        &["serve", "--config", "/nowhere.toml"],
        &[],
        &["/nowhere.toml", "No such file"],
    );
    let (code, text) = run(&["serve", "--queue-capacity", "many"], &[]);
    assert_eq!(code, Some(2), "{text}");
    let (code, text) = run(&["serve"], &[("CLASSIFYD_GRACE", "soon")]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("250ms or 5s"), "{text}");
    assert!(
        text.contains("the environment variable CLASSIFYD_GRACE"),
        "{text}"
    );
    let (_, text) = run(&["serve", "--grace=soon"], &[("CLASSIFYD_GRACE", "5s")]);
    assert!(
        text.contains("'--grace") && !text.contains("CLASSIFYD_GRACE"),
        "{text}"
    );
}

#[test]
fn flags_override_the_environment_and_the_environment_overrides_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("classifyd.toml");
    fs::write(&file, "queue_capacity = 100\ngrace = \"7s\"\nlanes = 3\n").unwrap();
    let options = [
        "serve",
        "--print-config",
        "--lanes",
        "5",
        "--config",
        file.to_str().unwrap(),
    ];
    let (code, printed) = run(&options, &[("CLASSIFYD_LANES", "4"), ("CLASSIFYD_GRACE", "8s")]);
    assert_eq!(code, Some(0));
    let place = file.display();
    for line in [
        "lanes = 5 # flag --lanes".to_owned(),
        "grace = \"8s\" # environment variable CLASSIFYD_GRACE".to_owned(),
        format!("queue_capacity = 100 # {place}:1"),
        "listen = \"127.0.0.1:8080\" # default".to_owned(),
        "# max_batch is not set".to_owned(),
    ] {
        assert!(
            printed.lines().any(|found| found == line),
            "expected {line} in:\n{printed}"
        );
    }
    fs::write(&file, printed).unwrap();
    let (code, again) = run(
        &["serve", "--print-config", "--config", file.to_str().unwrap()],
        &[],
    );
    assert_eq!(code, Some(0), "what is printed is a file: {again}");
    assert!(again.contains(&format!("lanes = 5 # {place}:")), "{again}");
}

#[test]
fn the_configuration_files_in_deploy_are_valid() {
    for (file, admin) in [
        ("container/classifyd.toml", None),
        ("container/classifyd-gpu.toml", None),
        ("kubernetes/base/classifyd.toml", Some("0.0.0.0:8081")),
    ] {
        let path = root().join("deploy").join(file);
        let (code, printed) = run(
            &["serve", "--print-config", "--config", path.to_str().unwrap()],
            &[],
        );
        assert_eq!(code, Some(0), "{file}: {printed}");
        let line = match admin {
            Some(address) => format!("admin_listen = \"{address}\" # "),
            None => "# admin_listen is not set".to_owned(),
        };
        assert!(printed.contains(&line), "{file}: expected {line} in:\n{printed}");
    }
}

#[test]
fn a_model_table_is_checked_against_the_loaded_models() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("classifyd.toml");
    let models = some_models(&["linear"]);
    let serve = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--models",
        models.path().to_str().unwrap(),
        "--config",
        file.to_str().unwrap(),
    ];
    for (text, parts) in [
        (
            "[model.linear]\nlanes = 2\n[model.liner]\nlanes = 2",
            [
                "classifyd.toml:3:8: model.liner: expected the name of a model",
                "(linear), found \"liner\"",
            ],
        ),
        (
            "[model.linear]\nversion = 7",
            [
                "/linear",
                "expected version 7, set by model.linear.version in the configuration, found 1",
            ],
        ),
        (
            "[model.linear]\nqueue_capacity = 8",
            [
                "classifyd.toml:2:1: model.linear.queue_capacity: expected at least the largest batch",
                "found 8",
            ],
        ),
        (
            "default_text_model = \"linear\"",
            [
                "classifyd.toml:1:1: default_text_model: expected one of the loaded models that take a text",
                "\"linear\"",
            ],
        ),
    ] {
        fs::write(&file, text).unwrap();
        fails(&serve, &[], &parts);
    }
}

#[tokio::test]
async fn settings_in_a_models_table_apply_to_that_model_only() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("classifyd.toml");
    let tables =
        "[model.linear]\nlanes = 3\nmax_batch = 5\nversion = 1\n[model.hang]\nrequest_timeout = \"300ms\"\n";
    fs::write(&file, tables).unwrap();
    let models = some_models(&["linear", "hang"]);
    let server = Server::start(
        models.path(),
        &["--config", file.to_str().unwrap(), "--lanes", "1"],
    );
    let models = ok(server.get("/v1/models").send().await.unwrap()).await;
    let found: Vec<_> = models["models"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| {
            (
                model["name"].as_str(),
                model["lanes"].as_u64(),
                model["max_inputs"].as_u64(),
            )
        })
        .collect();
    assert_eq!(
        found,
        [
            (Some("hang"), Some(1), Some(32)),
            (Some("linear"), Some(3), Some(5))
        ]
    );
    let hangs = server.send_png("?model=hang", square(255)).send().await.unwrap();
    assert_eq!(problem(hangs).await["code"], "deadline_exceeded");
}

/// `make serve` and the documents name this file, so the server says if it ignores it.
#[test]
fn an_unread_configuration_file_in_the_working_directory_is_reported() {
    let directory = some_models(&["linear"]);
    fs::write(directory.path().join("classifyd.toml"), "queue_capacity = 77").unwrap();
    let in_directory = |options: &[&str]| {
        let output = classifyd()
            .current_dir(directory.path())
            .args(options)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
    };
    let told = "./classifyd.toml is not read: name it with --config classifyd.toml or CLASSIFYD_CONFIG";
    let printed = in_directory(&["serve", "--print-config"]);
    assert!(printed.starts_with(&format!("# {told}\n")), "{printed}");
    assert!(!printed.contains("77"), "{printed}");
    for options in [&["models", "."][..], &["warm", "--models", "."]] {
        assert!(in_directory(options).contains(told), "{options:?}");
    }
    let printed = in_directory(&["serve", "--print-config", "--config", "classifyd.toml"]);
    assert!(!printed.contains(told), "{printed}");
    assert!(
        printed.contains("queue_capacity = 77 # classifyd.toml:1"),
        "{printed}"
    );
}
