//! Packages of data, fetched with resume through the addresses that the ordinary npm client gives.

use std::{
    fs,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::progress::Bar;

/// What `npm view PACKAGE dist --json` says.
#[derive(Debug, Deserialize)]
struct Distribution {
    tarball: String,
}

/// Fetches the archive of an npm package (`name@version`) into `directory` and gives its path. A download that was
/// cut off is continued.
pub fn npm_package(package: &str, directory: &Path) -> Result<PathBuf> {
    fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let complete = directory.join(format!("{}.tgz", package.replace(['@', '/'], "-")));
    if complete.is_file() {
        return Ok(complete);
    }
    let direct = address(package).and_then(|address| http(&address, &complete));
    let Err(error) = direct else {
        return Ok(complete);
    };
    // Where only npm itself may reach the registry, it can still fetch the package; it cannot continue a part of it.
    eprintln!("direct download failed ({error:#}); asking npm for the whole package");
    npm(&["pack", "--silent", package], directory)?;
    if !complete.is_file() {
        bail!(
            "npm pack {package}: expected it to write {}, which it did not",
            complete.display()
        );
    }
    Ok(complete)
}

fn address(package: &str) -> Result<String> {
    let answer = npm(&["view", package, "dist", "--json"], Path::new("."))?;
    let distribution: Distribution = serde_json::from_str(&answer)
        .with_context(|| format!("npm view {package} dist --json: expected an object with `tarball`"))?;
    Ok(distribution.tarball)
}

fn npm(arguments: &[&str], directory: &Path) -> Result<String> {
    let command = format!("npm {}", arguments.join(" "));
    let output = Command::new("npm")
        .args(arguments)
        .current_dir(directory)
        .output()
        .with_context(|| format!("cannot run `{command}`: is npm installed?"))?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        bail!("`{command}` failed ({}): {}", output.status, reason.trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{command}`: expected UTF-8 text"))
}

/// Fetches `address` into `complete`, through a file with `.part` at its end that a later call goes on with.
fn http(address: &str, complete: &Path) -> Result<()> {
    let mut part = complete.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let have = fs::metadata(&part).map_or(0, |metadata| metadata.len());

    let mut request = ureq::get(address);
    if have > 0 {
        request = request.header("Range", format!("bytes={have}-"));
    }
    let mut answer = match request.call() {
        // The part is as long as the whole, or longer: nothing can be added to it.
        Err(ureq::Error::StatusCode(416)) => {
            fs::remove_file(&part).with_context(|| format!("cannot remove {}", part.display()))?;
            ureq::get(address).call()
        }
        other => other,
    }
    .with_context(|| format!("cannot fetch {address}"))?;

    // Whoever ignores the range sends everything from the start.
    let resumed = answer.status() == 206;
    let done = if resumed { have } else { 0 };
    let total = answer.body().content_length().map(|rest| done + rest);
    let mut file = fs::OpenOptions::new()
        .create(true)
        .write(true)
        .append(resumed)
        .truncate(!resumed)
        .open(&part)
        .with_context(|| format!("cannot write {}", part.display()))?;
    let name = complete.file_name().unwrap_or_default().to_string_lossy();
    let bar = Bar::bytes(&name, total, done);
    let mut body = answer.body_mut().as_reader();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = body
            .read(&mut buffer)
            .with_context(|| format!("{address} was cut off: run the same command again to continue"))?;
        if read == 0 {
            break;
        }
        file.write_all(&buffer[..read])
            .with_context(|| format!("cannot write {}", part.display()))?;
        bar.advance(read as u64);
    }
    file.sync_all()
        .with_context(|| format!("cannot write {}", part.display()))?;
    bar.finish();
    let length = fs::metadata(&part).map_or(0, |metadata| metadata.len());
    if total.is_some_and(|total| total != length) {
        bail!(
            "{}: expected {total:?} bytes, found {length}: run the same command again",
            part.display()
        );
    }
    fs::rename(&part, complete).with_context(|| format!("cannot write {}", complete.display()))
}
