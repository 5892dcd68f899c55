//! Log lines are put into a buffer in memory, and a thread of their own writes it to standard error: a request never waits
//! for whoever reads the log, and many access lines cost one system call.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// How long a line that is not urgent may wait for others.
const DELAY: Duration = Duration::from_millis(50);
/// Bytes that are worth a system call at once.
const ENOUGH: usize = 64 * 1024;
/// Bytes that may wait for a reader that is slow, or has stopped. Beyond it lines are dropped, and counted.
const CAPACITY: usize = 4 * 1024 * 1024;
/// How long [`LogWriter::close`] waits for such a reader.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A handle to the buffer.
#[derive(Debug, Clone)]
pub struct LogWriter(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// For the thread: there is something to write, or more of it, or it is urgent.
    changed: Condvar,
    /// For [`LogWriter::close`].
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

    /// Appends a whole line. An urgent one is written at once, with all before it; others within 50 ms.
    pub fn append(&self, line: &[u8], urgent: bool) {
        let mut state = self.0.lock();
        if state.ended {
            drop(state);
            // The process is about to end. There is nobody to tell if this fails.
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
        let enough = before < ENOUGH && state.lines.len() >= ENOUGH;
        let became_urgent = urgent && !state.urgent;
        state.urgent |= urgent;
        drop(state);
        if first || enough || became_urgent {
            self.0.changed.notify_one();
        }
    }

    /// Lines that were lost because nobody took them.
    pub fn dropped(&self) -> u64 {
        self.0.lock().dropped
    }

    /// Writes what is left, and ends the thread. A reader that does not read is given up after two seconds.
    pub fn close(&self) {
        let mut state = self.0.lock();
        state.closed = true;
        self.0.changed.notify_one();
        let ended = self
            .0
            .ended
            .wait_timeout_while(state, LAST_WORDS, |state| !state.ended);
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
            // Nobody can be told that the log cannot be written.
            let _ = sink.write_all(&taken).and_then(|()| sink.flush());
            taken.clear();
            if taken.capacity() > 2 * ENOUGH {
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

    /// Waits for lines that should be written now. False when there will be none any more.
    fn take(&self, taken: &mut Vec<u8>) -> bool {
        let idle = |state: &mut State| state.lines.is_empty() && !state.closed;
        let early = |state: &mut State| state.lines.len() < ENOUGH && !state.urgent && !state.closed;
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

/// For tracing's own lines, each of which is urgent.
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

    /// Gives each write to the test, and waits for its leave to go on.
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
    fn lines_keep_their_order_and_none_is_lost_at_the_end() {
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
    fn a_line_that_is_not_urgent_is_written_without_another_one() {
        let (writer, received, _go_on) = slow();
        writer.append(b"alone\n", false);
        assert_eq!(received.recv().unwrap(), b"alone\n");
    }

    #[test]
    fn a_reader_that_stops_costs_lines_and_not_time_or_memory() {
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
