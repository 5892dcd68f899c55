//! Properties of all commands besides `serve`. The crate `load` tests `bench`.

mod classify;
mod models;

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::harness::{classifyd, root};

fn run(options: &[&str]) -> Output {
    classifyd().args(options).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn exit_codes_match_the_help() {
    for (options, code) in [
        (&["--help"][..], 0),
        (&["serve", "-h"], 0),
        (&["--version"], 0),
        (&["models", "/nowhere"], 1),
        (&["check", "/nowhere"], 1),
        (&["serve", "--queue-capacity", "0"], 1),
        (&[], 2),
        (&["classify"], 2),
        (&["classify", "--top-k", "0", "x"], 2),
        (&["classify", "--concurrency", "0", "x"], 2),
        (&["serve", "--max-bach", "3"], 2),
        (&["serve", "--grace", "soon"], 2),
    ] {
        let output = run(options);
        assert_eq!(output.status.code(), Some(code), "{options:?}: {output:?}");
    }
}

#[test]
fn closing_the_output_early_is_no_error() {
    for options in [&["openapi"][..], &["completions", "bash"], &["man"]] {
        let mut child = classifyd()
            .args(options)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let status = child.wait().unwrap();
        let mut errors = String::new();
        child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        assert!(
            status.success() && errors.is_empty(),
            "{options:?}: {status}: {errors}"
        );
    }
}

#[test]
fn colours_are_printed_on_terminals_only() {
    let models = root().join("models");
    let colourful = |command: &mut Command| {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        output.stdout.contains(&b'\x1b')
    };
    let line = format!("{} models {}", env!("CARGO_BIN_EXE_classifyd"), models.display());
    let terminal = |line: &str| {
        let mut command = Command::new("script");
        command
            .args(["--quiet", "--return", "--command", line, "/dev/null"])
            .env("TERM", "xterm")
            .env_remove("NO_COLOR");
        command
    };
    let help = format!("{} --help", env!("CARGO_BIN_EXE_classifyd"));
    for line in [line, help] {
        assert!(colourful(&mut terminal(&line)), "{line}");
        assert!(!colourful(terminal(&line).env("NO_COLOR", "1")), "{line}");
    }
    assert!(!colourful(classifyd().arg("models").arg(models)));
    assert!(!colourful(classifyd().arg("--help")));
}

#[test]
fn shell_completions_work() {
    let script = run(&["completions", "bash"]);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("classifyd.bash");
    fs::write(&file, script.stdout).unwrap();
    for (words, expected) in [
        ("classifyd cla", "classify"),
        ("classifyd serve --queue-c", "--queue-capacity"),
        ("classifyd completions zs", "zsh"),
    ] {
        let line = format!(
            "source {}; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _classifyd classifyd \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"; echo \"${{COMPREPLY[@]}}\"",
            file.display()
        );
        let output = Command::new("bash").args(["-c", &line]).output().unwrap();
        assert_eq!(text(&output.stdout).trim(), expected, "{words}: {output:?}");
    }
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        let output = run(&["completions", shell]);
        let script = text(&output.stdout);
        assert!(
            script.contains("classify") && script.contains("queue-capacity"),
            "{shell}: {script}"
        );
    }
}

#[test]
fn every_command_has_a_manual_page() {
    let directory = tempfile::tempdir().unwrap();
    let man1 = directory.path().join("man1");
    assert!(run(&["man", man1.to_str().unwrap()]).status.success());
    let main = fs::read_to_string(man1.join("classifyd.1")).unwrap();
    assert_eq!(main, text(&run(&["man"]).stdout));
    assert!(
        main.contains(".TH classifyd 1") && main.contains("Exit codes"),
        "{main}"
    );
    for command in [
        "serve",
        "classify",
        "models",
        "check",
        "bench",
        "completions",
        "man",
    ] {
        let page = fs::read_to_string(man1.join(format!("classifyd-{command}.1"))).unwrap();
        assert!(page.contains(".SH NAME") && !page.contains('\x1b'), "{page}");
    }
}

/// The code block under this heading of README.md.
fn readme_block(heading: &str) -> String {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let (_, section) = readme.split_once(&format!("\n## {heading}\n")).unwrap();
    let (_, block) = section.split_once("```sh\n").unwrap();
    block.split_once("```").unwrap().0.to_owned()
}

#[test]
fn the_command_line_examples_of_the_readme_work() {
    let directory = Path::new(env!("CARGO_BIN_EXE_classifyd")).parent().unwrap();
    let block = readme_block("On the command line");
    let path = "PATH=\"$PWD/target/release:$PATH\"";
    assert!(block.contains(path), "{block}");
    let block = block.replace(path, &format!("PATH=\"{}:$PATH\"", directory.display()));
    let mut command = Command::new("bash");
    command.args(["-euxc", &block]).current_dir(root());
    for (variable, _) in std::env::vars().filter(|(name, _)| name.starts_with("CLASSIFYD_")) {
        command.env_remove(variable);
    }
    let library = root().join(".onnxruntime/libonnxruntime.so.1.31.1");
    let output = command.env("ORT_DYLIB_PATH", library).output().unwrap();
    let (printed, errors) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{printed}{errors}");
    for part in [
        "models/digits/1/golden/7_0.png\t7 1.0000",
        "models/images/1/golden/cat_0.png\tcat",
        "ok      models/sentiment/1: ",
        "default_image_model = \"images\" # ",
        "classifyd.toml:4",
    ] {
        assert!(printed.contains(part), "expected {part:?} in: {printed}{errors}");
    }
    let defaults: Vec<&str> = printed
        .lines()
        .filter(|line| line.ends_with(" yes"))
        .filter_map(|line| line.split('/').next())
        .collect();
    assert_eq!(defaults, ["images", "sentiment"], "{printed}");
    assert!(
        errors.matches("WARN").count() <= 1,
        "one line says that there is no GPU: {errors}"
    );
}
