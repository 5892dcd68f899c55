//! Downloads packages that contain data sets. A download that was cut off is resumed.

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

/// The time limit for connecting, and for the first byte of a response.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The output of `npm view PACKAGE dist --json`.
#[derive(Debug, Deserialize)]
struct Distribution {
    tarball: String,
}

/// Downloads the archive of an npm package, given as `name@version`, into `directory` and returns
/// its path.
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
    // On some networks only npm may reach the registry. It cannot resume a download.
    eprintln!("cannot download directly ({error:#}); running npm instead");
    npm(&["pack", "--silent", package], directory)?;
    if !complete.is_file() {
        bail!("`npm pack {package}` did not write {}", complete.display());
    }
    Ok(complete)
}

/// Downloads a Debian package into `directory` with apt-get, which verifies it, and returns its
/// path.
pub fn debian_package(package: &str, directory: &Path) -> Result<PathBuf> {
    fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let find = || -> Option<PathBuf> {
        let entries = fs::read_dir(directory).ok()?.flatten();
        let is_package = |name: &str| name.starts_with(&format!("{package}_"));
        entries.map(|entry| entry.path()).find(|path| {
            path.file_name()
                .is_some_and(|name| is_package(&name.to_string_lossy()))
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
        .with_context(|| format!("cannot run `apt-get download {package}`: is this Debian or Ubuntu?"))?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        bail!(
            "`apt-get download {package}` failed ({}): {}",
            output.status,
            reason.trim()
        );
    }
    find().with_context(|| format!("`apt-get download {package}` did not write a .deb file"))
}

fn address(package: &str) -> Result<String> {
    let output = npm(&["view", package, "dist", "--json"], Path::new("."))?;
    let distribution: Distribution = serde_json::from_str(&output)
        .with_context(|| format!("`npm view {package} dist --json`: expected an object with `tarball`"))?;
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

/// Trusts the certificates that the system trusts, so that downloads work behind a company's proxy.
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

/// Downloads `address` to the file `complete`. Until the download is complete the file has the
/// suffix `.part`, and a later call resumes it.
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
    let mut response = match request.call() {
        // The partial file is as long as the whole or longer, so it cannot be resumed.
        Err(ureq::Error::StatusCode(416)) => {
            fs::remove_file(&part).with_context(|| format!("cannot remove {}", part.display()))?;
            agent.get(address).call()
        }
        other => other,
    }
    .with_context(|| format!("cannot fetch {address}"))?;

    // A server that ignores the range sends the whole file.
    let resumed = response.status() == 206;
    let done = if resumed { have } else { 0 };
    let total = response.body().content_length().map(|rest| done + rest);
    let mut file = fs::OpenOptions::new()
        .create(true)
        .write(true)
        .append(resumed)
        .truncate(!resumed)
        .open(&part)
        .with_context(|| format!("cannot write {}", part.display()))?;
    let name = complete.file_name().unwrap_or_default().to_string_lossy();
    let bar = Bar::bytes(&name, total, done);
    let mut body = response.body_mut().as_reader();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = body.read(&mut buffer).with_context(|| {
            format!("the download of {address} was cut off: run the same command again to resume it")
        })?;
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
            "{}: expected {} bytes, found {length}: run the same command again",
            part.display(),
            total.unwrap_or_default()
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

    /// A server that handles one request for each entry of `cuts`: it hangs up after that many
    /// bytes of the body. The thread returns the `Range` headers of the requests.
    fn server(cuts: Vec<usize>) -> (String, JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/file", listener.local_addr().unwrap());
        let thread = thread::spawn(move || {
            let respond = |cut: usize| {
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
            cuts.into_iter().map(respond).collect()
        });
        (address, thread)
    }

    #[test]
    fn a_download_that_was_cut_off_is_resumed() {
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
    fn a_partial_file_that_is_too_long_is_downloaded_again() {
        let directory = tempfile::tempdir().unwrap();
        let complete = directory.path().join("file.tgz");
        fs::write(directory.path().join("file.tgz.part"), [0; 20]).unwrap();
        let (address, server) = server(vec![99, 99]);
        http(&address, &complete).unwrap();
        assert_eq!(fs::read(&complete).unwrap(), CONTENT);
        assert_eq!(server.join().unwrap(), ["bytes=20-", ""]);
    }
}
