//! Runs every input of `fuzz/corpus` through its fuzz target. The corpus includes inputs that once
//! broke something.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../fuzz/src/lib.rs"]
#[allow(unreachable_pub, reason = "a crate of its own where it is fuzzed")]
mod fuzz;

use std::fs;

use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// The maximum size of all inputs together, in bytes.
const CORPUS: usize = 1_000_000;

// A single test, because the memory of parallel tests could not be told apart.
#[test]
fn every_corpus_input_passes_its_fuzz_target() {
    let corpus = fuzz::repository().join("fuzz/corpus");
    let mut size = 0;
    for (name, target) in fuzz::TARGETS {
        let mut files: Vec<_> = fs::read_dir(corpus.join(name))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        assert!(!files.is_empty(), "{name}: expected inputs, found none");
        for file in files {
            let bytes = fs::read(&file).unwrap();
            size += bytes.len();
            // Shown if the test fails.
            println!("{}", file.display());
            fuzz::run(&MEMORY, target, &bytes);
        }
    }
    assert!(size <= CORPUS, "expected at most {CORPUS} bytes, found {size}");
}
