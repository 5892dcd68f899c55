//! The Go program of docs/clients.md; the server's tests run the others.

use std::process::Command;

use crate::documents::{API_KEY_SHA256, programs};
use crate::harness::{Server, shipped_models};

#[test]
#[ignore = "needs Go: make test-system"]
fn the_go_program_in_clients_md_prints_the_documented_output() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("classifyd.toml");
    let text = format!(
        "default_image_model = \"images\"\ndefault_text_model = \"sentiment\"\n\
         [[api_keys]]\nname = \"test\"\nsha256 = \"{API_KEY_SHA256}\"\n"
    );
    std::fs::write(&config, text).unwrap();
    let server = Server::start(&shipped_models(), &["--config", config.to_str().unwrap()]);
    let programs = programs("docs/clients.md", &["go"]);
    let languages: Vec<&str> = programs.iter().map(|program| program.language.as_str()).collect();
    assert_eq!(languages, ["go"]);
    // A separate cache, because the test's environment may have no home.
    let cache = tempfile::tempdir().unwrap();
    programs[0].check(server.address, ".go", |file| {
        let mut command = Command::new("go");
        command
            .args(["run", file])
            .env("GOCACHE", cache.path())
            .env("GO111MODULE", "off");
        command
    });
}
