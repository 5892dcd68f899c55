//! Writes log lines to standard error from a thread of its own.
//!
//! A line goes into a buffer in memory, so a request never waits for the reader of the log, and
//! many access lines are written with one system call. `tracing-appender`, which does something
//! similar, writes each line with a system call of its own.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// How long a line that is not urgent waits for others.
const DELAY: Duration = Duration::from_millis(50);
/// With this many bytes in the buffer, no line waits any longer.
const WRITE_AT: usize = 64 * 1024;
/// Size of the buffer. When a slow reader has filled it, lines are dropped and counted.
const CAPACITY: usize = 4 * 1024 * 1024;
/// How long [`LogWriter::close`] waits for a slow reader.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug, Clone)]
pub struct LogWriter(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Wakes the thread: the buffer is no longer empty, has enough to write, or has an urgent line.
    changed: Condvar,
    /// Wakes [`LogWriter::close`].
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<u8>,
    urgent: bool,
    closed: bool,
    ended: bool,
    dropped: u64,
}

impl LogWriter {
    /// Starts the thread that writes to `sink`.
    pub fn start(sink: impl Write + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let writer = Self(Arc::clone(&shared));
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || shared.run(sink))?;
        Ok(writer)
    }

    /// Appends a whole line. An urgent line is written at once, with all lines before it, others
    /// within 50 ms.
    pub fn append(&self, line: &[u8], urgent: bool) {
        let mut state = self.0.lock();
        if state.ended {
            drop(state);
            // The process is about to end, and a failure cannot be reported.
            let _ = io::stderr().write_all(line);
            return;
        }
        if state.lines.len() + line.len() > CAPACITY {
            state.dropped += 1;
            return;
        }
        let before = state.lines.len();
        state.lines.extend_from_slice(line);
        let first = before == 0;
        let enough = before < WRITE_AT && state.lines.len() >= WRITE_AT;
        let became_urgent = urgent && !state.urgent;
        state.urgent |= urgent;
        drop(state);
        if first || enough || became_urgent {
            self.0.changed.notify_one();
        }
    }

    /// Number of lines that were dropped because the reader was too slow.
    pub fn dropped(&self) -> u64 {
        self.0.lock().dropped
    }

    /// Writes the rest of the buffer and ends the thread. Waits up to two seconds for the reader.
    pub fn close(&self) {
        let mut state = self.0.lock();
        state.closed = true;
        self.0.changed.notify_one();
        let ended = self
            .0
            .ended
            .wait_timeout_while(state, CLOSE_TIMEOUT, |state| !state.ended);
        drop(ended.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, mut sink: impl Write) {
        let mut taken = Vec::new();
        let mut reported = 0;
        while self.take(&mut taken) {
            // A failure cannot be reported: this is the log.
            let _ = sink.write_all(&taken).and_then(|()| sink.flush());
            taken.clear();
            if taken.capacity() > 2 * WRITE_AT {
                taken = Vec::new();
            }
            let dropped = self.lock().dropped;
            if dropped > reported {
                tracing::warn!(
                    lines = dropped - reported,
                    "log lines were dropped: their reader is too slow"
                );
                reported = dropped;
            }
        }
        self.lock().ended = true;
        self.ended.notify_all();
    }

    /// Waits until lines should be written. Returns false once the writer is closed and empty.
    fn take(&self, taken: &mut Vec<u8>) -> bool {
        let idle = |state: &mut State| state.lines.is_empty() && !state.closed;
        let early = |state: &mut State| state.lines.len() < WRITE_AT && !state.urgent && !state.closed;
        let state = self
            .changed
            .wait_while(self.lock(), idle)
            .unwrap_or_else(PoisonError::into_inner);
        let (mut state, _) = self
            .changed
            .wait_timeout_while(state, DELAY, early)
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut state.lines, taken);
        state.urgent = false;
        !taken.is_empty()
    }
}

/// For tracing, whose lines are all urgent.
impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.append(line, true);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Sends each write to the test and waits until the test lets it continue.
    struct Slow(mpsc::Sender<Vec<u8>>, mpsc::Receiver<()>);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.send(bytes.to_vec());
            let _ = self.1.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn slow() -> (LogWriter, mpsc::Receiver<Vec<u8>>, mpsc::Sender<()>) {
        let (written, received) = mpsc::channel();
        let (go_on, gone_on) = mpsc::channel();
        (LogWriter::start(Slow(written, gone_on)).unwrap(), received, go_on)
    }

    #[test]
    fn lines_stay_in_order_and_closing_loses_none() {
        let (writer, received, go_on) = slow();
        drop(go_on);
        let mut expected = Vec::new();
        for at in 0..10_000 {
            let line = format!("line {at}\n");
            expected.extend_from_slice(line.as_bytes());
            writer.append(line.as_bytes(), at % 7 == 0);
        }
        writer.close();
        let written: Vec<u8> = received.try_iter().flatten().collect();
        assert!(
            written == expected,
            "{} of {} bytes",
            written.len(),
            expected.len()
        );
        assert_eq!(writer.dropped(), 0);
    }

    #[test]
    fn a_line_that_is_not_urgent_is_written_even_if_no_other_line_follows() {
        let (writer, received, _go_on) = slow();
        writer.append(b"alone\n", false);
        assert_eq!(received.recv().unwrap(), b"alone\n");
    }

    #[test]
    fn a_reader_that_stops_costs_lines_but_neither_time_nor_memory() {
        let (writer, received, go_on) = slow();
        writer.append(b"first\n", true);
        received.recv().unwrap();
        // The thread is in its write now.
        let line = vec![b'x'; 1024];
        for _ in 0..CAPACITY / line.len() + 10 {
            writer.append(&line, false);
        }
        assert_eq!(writer.dropped(), 10);
        assert_eq!(writer.0.lock().lines.len(), CAPACITY);
        drop(go_on);
        writer.close();
        assert_eq!(
            received.try_iter().map(|bytes| bytes.len()).sum::<usize>(),
            CAPACITY
        );
    }
}
