#![no_main]

use libfuzzer_sys::fuzz_target;
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

// The hook of libfuzzer-sys aborts on every panic. The reader of tokenizer.json catches those of its library; one that nobody
// catches is found all the same.
fuzz_target!(
    init: std::panic::set_hook(Box::new(|_| {})),
    |bytes: &[u8]| fuzz::run(&MEMORY, fuzz::directory, bytes)
);
