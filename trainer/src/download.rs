//! Packages of data, fetched with resume through the addresses that the ordinary npm client gives.

use std::{
    fs,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use ureq::tls::{RootCerts, TlsConfig};

use crate::progress::Bar;

/// How long a server may take to accept a connection, and to begin an answer.
const TIMEOUT: Duration = Duration::from_secs(30);

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

/// Fetches a Debian package into `directory` with apt-get, which verifies it, and gives its path.
pub fn debian_package(package: &str, directory: &Path) -> Result<PathBuf> {
    fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let find = || -> Option<PathBuf> {
        let entries = fs::read_dir(directory).ok()?.flatten();
        let is_it = |name: &str| name.starts_with(&format!("{package}_"));
        entries.map(|entry| entry.path()).find(|path| {
            path.file_name()
                .is_some_and(|name| is_it(&name.to_string_lossy()))
        })
    };
    if let Some(path) = find() {
        return Ok(path);
    }
    eprintln!("apt-get download {package}");
    let output = Command::new("apt-get")
        .args(["download", package])
        .current_dir(directory)
        .output()
        .with_context(|| format!("cannot run `apt-get download {package}`: is this a Debian or Ubuntu?"))?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        bail!(
            "`apt-get download {package}` failed ({}): {}",
            output.status,
            reason.trim()
        );
    }
    find()
        .with_context(|| format!("apt-get download {package}: expected it to write a .deb file, found none"))
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

/// Trusts whom the system trusts, so that it works behind a company's proxy as npm does.
fn agent() -> ureq::Agent {
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::PlatformVerifier)
        .build();
    ureq::Agent::config_builder()
        .tls_config(tls)
        .timeout_connect(Some(TIMEOUT))
        .timeout_recv_response(Some(TIMEOUT))
        .build()
        .into()
}

/// Fetches `address` into `complete`, through a file with `.part` at its end that a later call goes on with.
fn http(address: &str, complete: &Path) -> Result<()> {
    let mut part = complete.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let have = fs::metadata(&part).map_or(0, |metadata| metadata.len());

    let agent = agent();
    let mut request = agent.get(address);
    if have > 0 {
        request = request.header("Range", format!("bytes={have}-"));
    }
    let mut answer = match request.call() {
        // The part is as long as the whole, or longer: nothing can be added to it.
        Err(ureq::Error::StatusCode(416)) => {
            fs::remove_file(&part).with_context(|| format!("cannot remove {}", part.display()))?;
            agent.get(address).call()
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

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader},
        net::TcpListener,
        thread::{self, JoinHandle},
    };

    use super::*;

    const CONTENT: &[u8] = b"0123456789";

    /// Answers one request for each entry: how many bytes of what was asked for it sends before it hangs up. Gives the
    /// `Range` headers it was sent.
    fn server(cuts: Vec<usize>) -> (String, JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/file", listener.local_addr().unwrap());
        let thread = thread::spawn(move || {
            let answer = |cut: usize| {
                let (mut stream, _) = listener.accept().unwrap();
                let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let head: Vec<String> = lines
                    .map(Result::unwrap)
                    .take_while(|line| !line.is_empty())
                    .collect();
                let range = head
                    .iter()
                    .find_map(|line| Some(line.to_lowercase().strip_prefix("range: ")?.to_owned()));
                let range = range.unwrap_or_default();
                let first: usize = range
                    .trim_matches(|c: char| !c.is_ascii_digit())
                    .parse()
                    .unwrap_or(0);
                let (status, rest) = match CONTENT.get(first..) {
                    Some([]) | None => ("416 Range Not Satisfiable", CONTENT),
                    Some(rest) if first > 0 => ("206 Partial Content", rest),
                    Some(rest) => ("200 OK", rest),
                };
                write!(
                    stream,
                    "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    rest.len()
                )
                .unwrap();
                stream.write_all(&rest[..cut.min(rest.len())]).unwrap();
                range
            };
            cuts.into_iter().map(answer).collect()
        });
        (address, thread)
    }

    #[test]
    fn a_download_that_was_cut_off_is_continued() {
        let directory = tempfile::tempdir().unwrap();
        let complete = directory.path().join("file.tgz");
        let (address, server) = server(vec![4, 99]);
        assert!(http(&address, &complete).is_err());
        assert!(!complete.exists());
        http(&address, &complete).unwrap();
        assert_eq!(fs::read(&complete).unwrap(), CONTENT);
        assert_eq!(server.join().unwrap(), ["", "bytes=4-"]);
        assert_eq!(
            fs::read_dir(directory.path()).unwrap().count(),
            1,
            "nothing is left over"
        );
    }

    #[test]
    fn a_part_that_cannot_be_continued_is_fetched_anew() {
        let directory = tempfile::tempdir().unwrap();
        let complete = directory.path().join("file.tgz");
        fs::write(directory.path().join("file.tgz.part"), [0; 20]).unwrap();
        let (address, server) = server(vec![99, 99]);
        http(&address, &complete).unwrap();
        assert_eq!(fs::read(&complete).unwrap(), CONTENT);
        assert_eq!(server.join().unwrap(), ["bytes=20-", ""]);
    }
}
