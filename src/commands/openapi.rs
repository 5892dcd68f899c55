//! `classifyd openapi`: the OpenAPI document of the server.

use std::io::Write;

use anyhow::Result;

use crate::cli::OpenapiFormat;
use crate::http;

pub fn run(format: OpenapiFormat) -> Result<()> {
    let document = http::document();
    let mut output = std::io::stdout();
    match format {
        OpenapiFormat::Json => writeln!(output, "{}", document.to_pretty_json()?)?,
        OpenapiFormat::Yaml => write!(output, "{}", document.to_yaml()?)?,
    }
    Ok(())
}
