//! The program `classifyd`. Everything but the allocator is in the library, see [`classifyd::run`].

use std::process::ExitCode;

/// A request allocates a few dozen times, on several threads. With glibc's allocator that is a
/// sixth of its CPU time, see docs/performance.md. The crate's feature `no_thp` turns huge pages
/// off: they cost 25 MB of memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    classifyd::run()
}
