//! Runs the programs in documents and compares their output.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use crate::busy::Busy;
use crate::harness::root;

/// The address of the server in documents.
const ADDRESS: &str = "127.0.0.1:8080";
const API_KEY: &str = "key-of-a-test";
/// Its hash, as in the configuration of a server.
pub(crate) const API_KEY_SHA256: &str = "175b99ddc84d97d10b1a8550267e9b07f3e45a2da8c28bf3bd7947fc8768b08b";

/// A fenced code block, and its documented output from the next block.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) language: String,
    source: String,
    output: String,
}

/// The programs in these languages that are followed by their output.
pub(crate) fn programs(document: &str, languages: &[&str]) -> Vec<Program> {
    let text = fs::read_to_string(root().join(document)).unwrap();
    let mut blocks: Vec<(String, String)> = Vec::new();
    let mut open = false;
    for line in text.lines() {
        match (line.strip_prefix("```"), open) {
            (Some(language), false) => {
                blocks.push((language.to_owned(), String::new()));
                open = true;
            }
            (Some(_), true) => open = false,
            (None, true) => {
                let (_, source) = blocks.last_mut().unwrap();
                source.push_str(line);
                source.push('\n');
            }
            (None, false) => {}
        }
    }
    let program = |pair: &[(String, String)]| {
        let ((language, source), (printed, output)) = (&pair[0], &pair[1]);
        let prints = ["json", "text"].contains(&printed.as_str());
        (prints && languages.contains(&language.as_str())).then(|| Program {
            language: language.clone(),
            source: source.clone(),
            output: output.clone(),
        })
    };
    blocks.windows(2).filter_map(program).collect()
}

impl Program {
    /// Whether the program sends an API key.
    pub(crate) fn has_key(&self) -> bool {
        self.source.contains("CLASSIFYD_API_KEY")
    }

    /// Runs the program with a server and checks its output. `start` builds the command from the
    /// path of a file with the program.
    ///
    /// A program that retries meets a busy server first.
    pub(crate) fn check(&self, server: SocketAddr, extension: &str, start: impl Fn(&str) -> Command) {
        let retries = self.source.to_ascii_lowercase().contains("retry");
        let proxy = Busy::before(server, usize::from(retries));
        assert!(self.source.contains(ADDRESS), "no server in: {}", self.source);
        let source = self.source.replace(ADDRESS, &proxy.address.to_string());
        // By default, temporary file names begin with a dot, and Go ignores such files.
        let file = tempfile::Builder::new()
            .prefix("program")
            .suffix(extension)
            .tempfile()
            .unwrap();
        fs::write(file.path(), source).unwrap();

        let output = start(file.path().to_str().unwrap())
            .current_dir(root())
            .env("CLASSIFYD_API_KEY", API_KEY)
            .env("NO_PROXY", "127.0.0.1")
            .output()
            .unwrap();
        let printed = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {printed}{errors}", self.source);
        assert!(
            same(&printed, &self.output),
            "{}: expected {}, found {printed}{errors}",
            self.source,
            self.output
        );

        let requests = proxy.requests();
        if self.has_key() {
            for request in &requests {
                assert_eq!(
                    request.header("authorization"),
                    Some(&*format!("Bearer {API_KEY}")),
                    "{}",
                    request.head
                );
            }
        }
        if retries {
            let pause = requests[1].at - requests[0].at;
            assert!(
                pause >= Duration::from_millis(950),
                "Retry-After is a second: {pause:?}"
            );
        }
    }
}

/// Compares the words, and the scores except for their last digits, which depend on the CPU.
fn same(found: &str, expected: &str) -> bool {
    let (found, expected) = (pieces(found.trim_end()), pieces(expected.trim_end()));
    let close = |(found, expected): (&&str, &&str)| match (fraction(found), fraction(expected)) {
        (Some(found), Some(expected)) => (found - expected).abs() < 2e-4,
        _ => found == expected,
    };
    found.len() == expected.len() && found.iter().zip(&expected).all(close)
}

fn fraction(piece: &str) -> Option<f64> {
    piece.contains('.').then(|| piece.parse().ok())?
}

fn pieces(text: &str) -> Vec<&str> {
    text.split_inclusive(|letter: char| !letter.is_ascii_digit() && letter != '.')
        .flat_map(|piece| {
            let end = piece
                .trim_end_matches(|letter: char| !letter.is_ascii_digit() && letter != '.')
                .len();
            let (number, rest) = piece.split_at(end);
            [number, rest]
        })
        .collect()
}

#[test]
fn comparison_allows_differences_in_the_last_digits_of_scores_only() {
    assert!(same("7 1.0000, 2 0.0000\n", "7 0.9999, 2 0.0001"));
    assert!(!same("7 1.0000", "7 0.9900"));
    assert!(!same("7 1.0000", "8 1.0000"));
    assert!(!same("7 1.0000 more", "7 1.0000"));
    assert!(!same("422 invalid.", "423 invalid."));
}
