//! The command against a server that gives the same response to every request.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::{Args, run};

/// Starts the server. Its threads end with the test's process.
fn serve(response: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || respond(stream.unwrap(), response));
        }
    });
    address
}

/// The requests of these tests are so short that each comes in one piece.
fn respond(mut stream: TcpStream, response: &str) -> std::io::Result<()> {
    while stream.read(&mut [0; 4096])? > 0 {
        stream.write_all(response.as_bytes())?;
    }
    Ok(())
}

fn arguments(url: &str, directory: &Path) -> Args {
    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }
    let image = directory.join("one.png");
    std::fs::write(&image, b"x").unwrap();
    let image = image.to_str().unwrap();
    let words = [
        "bench",
        url,
        "--file",
        image,
        "--duration",
        "200ms",
        "--warmup",
        "0s",
    ];
    <Cli as clap::Parser>::parse_from(words).args
}

#[test]
fn a_run_writes_its_results_as_json() {
    let directory = tempfile::tempdir().unwrap();
    let address = serve("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let mut args = arguments(&address.to_string(), directory.path());
    args.concurrency = vec![1, 2];
    args.json = Some(directory.path().join("results.json"));
    run(&args).unwrap();
    let text = std::fs::read_to_string(directory.path().join("results.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["steps"].as_array().unwrap().len(), 2);
    assert!(report["steps"][1]["throughput"].as_f64().unwrap() > 0.0);
    // This server has no metrics, so the batch size is unknown.
    assert!(report["steps"][0].get("mean_batch_size").is_none());
}

#[test]
fn a_rejected_request_is_reported_in_the_words_of_the_server() {
    let directory = tempfile::tempdir().unwrap();
    let address = serve("HTTP/1.1 404 Not Found\r\nContent-Length: 13\r\n\r\nno such model");
    let error = run(&arguments(&address.to_string(), directory.path())).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the server responded with status 404: no such model"
    );
}

#[test]
fn invalid_arguments_are_rejected() {
    let directory = tempfile::tempdir().unwrap();
    let good = arguments("localhost:1", directory.path());
    for (change, reason) in [
        (
            (|args| args.concurrency = vec![8, 0]) as fn(&mut Args),
            "--concurrency: expected at least 1",
        ),
        (|args| args.rate = Some(0.0), "--rate: expected a number above 0"),
        (|args| args.threads = 0, "--threads: expected at least 1"),
        (
            |args| args.duration = Duration::ZERO,
            "--duration: expected more than 0s",
        ),
        (
            |args| args.headers = vec!["nonsense".into()],
            "--header: expected",
        ),
    ] {
        let mut args = good.clone();
        change(&mut args);
        let error = run(&args).unwrap_err().to_string();
        assert!(error.starts_with(reason), "{error}");
    }
}
