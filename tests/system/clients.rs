//! The program for Go of docs/clients.md; the others are among the server's tests.

use std::process::Command;

use crate::documents::programs;
use crate::harness::{Server, shipped_models};

#[test]
#[ignore = "needs Go: make test-system"]
fn the_go_program_of_the_document_prints_what_it_says() {
    let options = [
        "--default-image-model",
        "images",
        "--default-text-model",
        "sentiment",
    ];
    let server = Server::start(&shipped_models(), &options);
    let programs = programs("docs/clients.md", &["go"]);
    assert_eq!(programs.len(), 1);
    // A cache of its own: the test's environment may have no home.
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
