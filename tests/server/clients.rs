//! Runs the programs of README.md and docs/clients.md verbatim. The system tests run the Go
//! program, and the documentation tests compile the Rust program.

use std::process::Command;

use crate::documents::{API_KEY_SHA256, programs};
use crate::harness::{Server, root, shipped_models};

const DEFAULTS: [&str; 4] = [
    "--default-image-model",
    "images",
    "--default-text-model",
    "sentiment",
];

#[test]
fn the_readme_shows_the_output_of_its_examples() {
    let server = Server::start(&shipped_models(), &DEFAULTS);
    let programs = programs("README.md", &["sh"]);
    assert_eq!(programs.len(), 5);
    for program in programs {
        program.check(server.address, ".sh", |file| {
            let mut command = Command::new("sh");
            command.arg("-eu").arg(file);
            command
        });
    }
}

#[test]
fn the_programs_in_clients_md_print_the_documented_output() {
    let server = Server::start(&shipped_models(), &DEFAULTS);
    let directory = tempfile::tempdir().unwrap();
    let keys = directory.path().join("keys.toml");
    let entry = format!("[[api_keys]]\nname = \"test\"\nsha256 = \"{API_KEY_SHA256}\"\n");
    std::fs::write(&keys, entry).unwrap();
    let options = [&DEFAULTS[..], &["--config", keys.to_str().unwrap()]].concat();
    let locked = Server::start(&shipped_models(), &options);
    let setup = Command::new(root().join("scripts/setup-clients.sh"))
        .output()
        .unwrap();
    assert!(
        setup.status.success(),
        "{}",
        String::from_utf8_lossy(&setup.stderr)
    );
    let packages = String::from_utf8(setup.stdout).unwrap();

    let programs = programs("docs/clients.md", &["sh", "python", "javascript"]);
    let languages: Vec<&str> = programs.iter().map(|program| program.language.as_str()).collect();
    assert_eq!(
        languages,
        ["sh", "sh", "sh", "sh", "python", "python", "javascript"]
    );
    for program in programs {
        let (extension, words) = match program.language.as_str() {
            "sh" => (".sh", &["sh", "-eu"][..]),
            "python" => (".py", &["python3"][..]),
            _ => (".mjs", &["node"][..]),
        };
        let server = if program.has_key() { &locked } else { &server };
        program.check(server.address, extension, |file| {
            let mut command = Command::new(words[0]);
            command
                .args(&words[1..])
                .arg(file)
                .env("PYTHONPATH", packages.trim());
            command
        });
    }
}
