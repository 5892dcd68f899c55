//! Clients that do no harm, and how long they wait.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use benches::classify_target;
use benches::figures::attack::Waits;

use crate::attacker::exchange;
use crate::{DIGIT, EVERY};

/// The address of these clients. The server tells them from the attacker by it.
pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// A client in a process of its own, so that it does not wait for the attacker's thousand threads.
pub(crate) struct Bystander {
    child: Child,
}

impl Bystander {
    /// Starts a client that sends `what`, `livez` or `classify`.
    pub(crate) fn start(what: &str, address: SocketAddr) -> Result<Self> {
        let child = Command::new(std::env::current_exe()?)
            .args(["--ask", what, &address.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Self { child })
    }

    /// Ends the client, and returns how long it waited.
    pub(crate) fn end(self) -> Result<Waits> {
        // Closes its standard input, which ends it.
        let output = self.child.wait_with_output()?;
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

/// The client itself: sends one request after the other, each on a new connection, until standard
/// input ends, and prints how long it waited.
pub(crate) fn run(what: &str, address: &str) -> Result<()> {
    let target = classify_target(address, Some("digits"))?;
    let request = match what {
        "livez" => target.get("/livez"),
        _ => target.post("image/png", DIGIT),
    };
    let address = address.parse()?;
    let over = AtomicBool::new(false);
    let mut waits = Waits::default();
    let mut longest = Duration::ZERO;
    thread::scope(|scope| {
        scope.spawn(|| {
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            over.store(true, Ordering::Relaxed);
        });
        while !over.load(Ordering::Relaxed) {
            let begun = Instant::now();
            let response = exchange(ADDRESS, address, &request);
            longest = longest.max(begun.elapsed());
            waits.sent += 1;
            waits.failed += u64::from(!response.is_ok_and(|response| response.status == 200));
            thread::sleep(EVERY);
        }
    });
    waits.longest_ms = longest.as_millis() as u64;
    println!("{}", serde_json::to_string(&waits)?);
    Ok(())
}
