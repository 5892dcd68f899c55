//! What prevents the server from starting, and its error messages.

mod configuration;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::harness::{Server, classifyd, fixture_models, root, serve_args, shipped_models, some_models};

/// Runs the command and returns its exit code and its output.
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
fn the_error_for_a_missing_or_broken_library_names_the_places_searched() {
    let models = fixture_models();
    let serve = serve_args(&models);
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

    let directory = tempfile::tempdir().unwrap();
    let broken = directory.path().join("libonnxruntime.so");
    fs::write(&broken, "not a library").unwrap();
    let named = [&serve[..], &["--onnxruntime", broken.to_str().unwrap()]].concat();
    fails(
        &named,
        &[],
        &[broken.to_str().unwrap(), "named by --onnxruntime", "make setup"],
    );

    // A truncated copy. Mapping it would end the process with SIGBUS.
    let whole = fs::read(root().join(".onnxruntime/libonnxruntime.so.1.31.1")).unwrap();
    fs::write(&broken, &whole[..whole.len() / 2]).unwrap();
    let expected = format!("found {} bytes: the file is incomplete", whole.len() / 2);
    fails(&named, &[], &[broken.to_str().unwrap(), &expected]);

    // A library other than ONNX Runtime.
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
fn an_unnamed_library_is_searched_for_in_the_usual_places() {
    let directory = tempfile::tempdir().unwrap();
    let executable = directory.path().join("bin/classifyd");
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
        "the system's search path",
    ] {
        assert!(text.contains(place), "expected {place:?} in: {text}");
    }
    let library = root().join(".onnxruntime/libonnxruntime.so.1.31.1");
    for place in ["bin", "lib", ".onnxruntime"] {
        let place = directory.path().join(place);
        fs::create_dir_all(&place).unwrap();
        let link = place.join("libonnxruntime.so.1.31.1");
        std::os::unix::fs::symlink(&library, &link).unwrap();
        let output = check();
        assert!(output.status.success(), "{place:?}: {output:?}");
        fs::remove_file(link).unwrap();
    }
}

#[test]
fn a_model_that_does_not_reproduce_its_golden_samples_is_rejected() {
    let directory = tempfile::tempdir().unwrap();
    copy(
        &shipped_models().join("digits/1"),
        &directory.path().join("digits/1"),
    );
    let file = directory.path().join("digits/1/preprocessor_config.json");
    let config = fs::read_to_string(&file).unwrap();
    // Drift that is hard to notice: another mean than in training.
    assert!(config.contains("0.1307"), "{config}");
    fs::write(&file, config.replace("0.1307", "0.5")).unwrap();
    let serve = serve_args(directory.path());
    fails(&serve, &[], &["golden.json", "expected a score of", "found"]);
}

#[test]
fn the_error_for_a_broken_model_directory_names_the_file() {
    let directory = tempfile::tempdir().unwrap();
    copy(&fixture_models().join("linear"), &directory.path().join("linear"));
    fs::write(directory.path().join("linear/1/model.onnx"), "not ONNX").unwrap();
    let serve = serve_args(directory.path());
    fails(&serve, &[], &["linear/1/model.onnx", "expected an ONNX graph"]);
    fails(
        &["serve", "--listen", "127.0.0.1:0", "--models", "/nowhere"],
        &[],
        &["/nowhere", "readable directory"],
    );
}

#[test]
fn the_error_for_an_address_in_use_names_the_address() {
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
    let advice = "choose another one with --listen, CLASSIFYD_LISTEN or listen in the file";
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

#[tokio::test]
async fn the_ready_log_line_names_the_urls_of_the_pages() {
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
