//! The lock and the counters that the caller-runs protocol is made of: those of the standard
//! library, or loom's when the protocol is checked. Everything else in the crate uses the standard
//! library directly.

use std::sync::PoisonError;

#[cfg(loom)]
pub(crate) use loom::sync::{Mutex, MutexGuard, atomic::AtomicU32};
#[cfg(not(loom))]
pub(crate) use std::sync::{Mutex, MutexGuard, atomic::AtomicU32};

/// Locks a mutex whether or not a thread panicked while it held it: every change under the locks of
/// this crate is complete before anything can panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
