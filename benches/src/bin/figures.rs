//! Renders the measured figures of benches/figures into the pages that show them. Run it in the
//! root of the repository.

use std::path::Path;

fn main() -> anyhow::Result<()> {
    benches::figures::update(Path::new("."))
}
