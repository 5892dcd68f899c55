//! What keeps the server from starting, and what it says then.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::harness::{
    Server, classifyd, fixture_models, ok, problem, root, shipped_models, some_models, square,
};

/// Runs the command and gives its exit code and all that it wrote.
fn run(options: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let started = Instant::now();
    let output = classifyd()
        .args(options)
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    assert!(
        started.elapsed() < Duration::from_mins(1),
        "{options:?} took {:?}",
        started.elapsed()
    );
    let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    (output.status.code(), text)
}

fn fails(options: &[&str], variables: &[(&str, &str)], parts: &[&str]) {
    let (code, text) = run(options, variables);
    assert_eq!(code, Some(1), "{text}");
    for part in parts {
        assert!(text.contains(part), "expected {part:?} in: {text}");
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

#[test]
fn a_library_that_is_missing_or_broken_is_told_with_where_it_was_looked_for() {
    let models = fixture_models();
    let serve = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--models",
        models.to_str().unwrap(),
    ];
    let missing = [("ORT_DYLIB_PATH", "/nowhere/libonnxruntime.so")];
    fails(
        &serve,
        &missing,
        &[
            "/nowhere/libonnxruntime.so (named by ORT_DYLIB_PATH)",
            "No such file",
            "make setup",
        ],
    );

    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("libonnxruntime.so");
    fs::write(&broken, "not a library").unwrap();
    let named = [&serve[..], &["--onnxruntime", broken.to_str().unwrap()]].concat();
    fails(
        &named,
        &[],
        &[broken.to_str().unwrap(), "named by --onnxruntime", "make setup"],
    );

    // A copy that was interrupted: the system's loader would map it, and the process would end with SIGBUS.
    let whole = fs::read(root().join(".onnxruntime/libonnxruntime.so.1.31.1")).unwrap();
    fs::write(&broken, &whole[..whole.len() / 2]).unwrap();
    let expected = format!("found {} bytes: the file is incomplete", whole.len() / 2);
    fails(&named, &[], &[broken.to_str().unwrap(), &expected]);

    // A library that is none of ONNX Runtime: any other that is there.
    let other = fs::read_to_string("/proc/self/maps").unwrap();
    let other = other
        .split_whitespace()
        .find(|word| word.contains("libc.so"))
        .unwrap()
        .to_owned();
    let named = [&serve[..], &["--onnxruntime", &other]].concat();
    fails(&named, &[], &[&other, "OrtGetApiBase"]);
}

#[test]
fn without_a_name_the_library_is_looked_for_in_the_usual_places() {
    let folder = tempfile::tempdir().unwrap();
    let executable = folder.path().join("bin/classifyd");
    fs::create_dir_all(executable.parent().unwrap()).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_classifyd"), &executable).unwrap();
    let check = || {
        let mut command = std::process::Command::new(&executable);
        command.arg("check").arg(fixture_models().join("linear/1"));
        command.env_remove("ORT_DYLIB_PATH").output().unwrap()
    };
    let output = check();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    for place in [
        "/bin: no libonnxruntime.so",
        "/lib: no",
        "/.onnxruntime: no",
        "the system's loader path",
    ] {
        assert!(text.contains(place), "expected {place:?} in: {text}");
    }
    let library = root().join(".onnxruntime/libonnxruntime.so.1.31.1");
    for place in ["bin", "lib", ".onnxruntime"] {
        let place = folder.path().join(place);
        fs::create_dir_all(&place).unwrap();
        let link = place.join("libonnxruntime.so.1.31.1");
        std::os::unix::fs::symlink(&library, &link).unwrap();
        let output = check();
        assert!(output.status.success(), "{place:?}: {output:?}");
        fs::remove_file(link).unwrap();
    }
}

#[test]
fn a_mistake_in_the_configuration_is_told_before_anything_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("classifyd.toml");
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
fn flags_are_stronger_than_the_environment_and_that_than_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("classifyd.toml");
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
fn the_configurations_in_deploy_are_understood() {
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
fn a_table_for_a_model_is_checked_against_the_models() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("classifyd.toml");
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
                "expected version 7, which model.linear.version of the configuration names, found 1",
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
async fn a_models_own_table_holds_for_it_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("classifyd.toml");
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

#[test]
fn a_model_that_does_not_reproduce_its_trainers_scores_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    copy(
        &shipped_models().join("digits/1"),
        &folder.path().join("digits/1"),
    );
    let file = folder.path().join("digits/1/preprocessor_config.json");
    let config = fs::read_to_string(&file).unwrap();
    // The kind of drift that is hard to see: another mean than in training.
    assert!(config.contains("0.1307"), "{config}");
    fs::write(&file, config.replace("0.1307", "0.5")).unwrap();
    let serve = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--models",
        folder.path().to_str().unwrap(),
    ];
    fails(&serve, &[], &["golden.json", "expected a score of", "found"]);
}

#[test]
fn a_broken_model_directory_is_told_with_its_file() {
    let folder = tempfile::tempdir().unwrap();
    copy(&fixture_models().join("linear"), &folder.path().join("linear"));
    fs::write(folder.path().join("linear/1/model.onnx"), "not ONNX").unwrap();
    let serve = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--models",
        folder.path().to_str().unwrap(),
    ];
    fails(&serve, &[], &["linear/1/model.onnx", "expected an ONNX graph"]);
    fails(
        &["serve", "--listen", "127.0.0.1:0", "--models", "/nowhere"],
        &[],
        &["/nowhere", "readable folder"],
    );
}

#[test]
fn a_port_that_is_taken_is_told() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let models = fixture_models();
    let serve = [
        "serve",
        "--listen",
        &address,
        "--models",
        models.to_str().unwrap(),
    ];
    let advice = "choose another address with --listen, CLASSIFYD_LISTEN or listen in the file";
    fails(&serve, &[], &["cannot listen on", &address, "in use", advice]);
    let (_, log) = run(&serve, &[]);
    assert!(
        !log.contains("ONNX Runtime loaded"),
        "nothing is loaded for nothing: {log}"
    );
    let admin = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--admin-listen",
        &address,
        "--models",
        models.to_str().unwrap(),
    ];
    fails(
        &admin,
        &[],
        &["flag --admin-listen: admin_listen: cannot listen on", &address],
    );
}

/// What `make serve` and documents would read is told where it is not read.
#[test]
fn a_configuration_in_the_working_directory_is_told_and_not_read() {
    let folder = some_models(&["linear"]);
    fs::write(folder.path().join("classifyd.toml"), "queue_capacity = 77").unwrap();
    let in_folder = |options: &[&str]| {
        let output = classifyd()
            .current_dir(folder.path())
            .args(options)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
    };
    let told = "./classifyd.toml is not read: name it with --config classifyd.toml or CLASSIFYD_CONFIG";
    let printed = in_folder(&["serve", "--print-config"]);
    assert!(printed.starts_with(&format!("# {told}\n")), "{printed}");
    assert!(!printed.contains("77"), "{printed}");
    for options in [&["models", "."][..], &["warm", "--models", "."]] {
        assert!(in_folder(options).contains(told), "{options:?}");
    }
    let printed = in_folder(&["serve", "--print-config", "--config", "classifyd.toml"]);
    assert!(!printed.contains(told), "{printed}");
    assert!(
        printed.contains("queue_capacity = 77 # classifyd.toml:1"),
        "{printed}"
    );
}

#[tokio::test]
async fn the_server_says_where_its_pages_are_when_it_is_ready() {
    let models = some_models(&["linear"]);
    let server = Server::start_at("0.0.0.0:0", models.path(), &[]);
    let url = format!("http://127.0.0.1:{}/", server.address.port());
    let pages = format!("open {url} for the playground, {url}docs for the API");
    server.wait_for_log(&[&pages]).await;
    let ready = server
        .log()
        .into_iter()
        .find(|line| line.contains("\"ready\""))
        .unwrap();
    assert!(ready.contains(&format!("\"url\":\"{url}\"")), "{ready}");
}
