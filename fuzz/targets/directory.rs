#![no_main]

use libfuzzer_sys::fuzz_target;
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

// The panic hook of libfuzzer-sys aborts, but the reader of tokenizer.json catches panics of its
// library. Without the hook, a panic that nothing catches still ends the process and is found.
fuzz_target!(
    init: std::panic::set_hook(Box::new(|_| {})),
    |bytes: &[u8]| fuzz::run(&MEMORY, fuzz::directory, bytes)
);
