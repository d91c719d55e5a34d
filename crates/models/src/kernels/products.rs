//! The time that matrix products took, which benchmarks report as a share of the whole.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

static RUNNING: AtomicBool = AtomicBool::new(false);
static NANOSECONDS: AtomicU64 = AtomicU64::new(0);
/// In units of 1,000 operations.
static KILO_OPERATIONS: AtomicU64 = AtomicU64::new(0);

/// Starts counting from nothing. One clock serves the whole process.
pub fn reset_clock() {
    NANOSECONDS.store(0, Ordering::Relaxed);
    KILO_OPERATIONS.store(0, Ordering::Relaxed);
    RUNNING.store(true, Ordering::Relaxed);
}

/// Seconds in matrix products since [`reset_clock`], summed over the calling threads, and their
/// floating-point operations.
pub fn read_clock() -> (f64, f64) {
    (NANOSECONDS.load(Ordering::Relaxed) as f64 / 1e9, KILO_OPERATIONS.load(Ordering::Relaxed) as f64 * 1e3)
}

/// Counts from here until it is dropped, if the clock runs.
pub(super) fn clock(operations: f64) -> Option<Clock> {
    RUNNING.load(Ordering::Relaxed).then(|| Clock { start: Instant::now(), operations })
}

pub(super) struct Clock {
    start: Instant,
    operations: f64,
}

impl Drop for Clock {
    fn drop(&mut self) {
        NANOSECONDS.fetch_add(self.start.elapsed().as_nanos() as u64, Ordering::Relaxed);
        KILO_OPERATIONS.fetch_add((self.operations / 1e3) as u64, Ordering::Relaxed);
    }
}
