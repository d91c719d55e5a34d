//! Progress of a job and the stop signal that it listens to.

use std::sync::{Mutex, PoisonError};

use crate::stage::Stage;

/// The receiver of a job's progress. Calls come from the working thread; keep them short.
pub trait ProgressSink: Send + Sync {
    /// A stage begins. A stage may be entered more than once (once a candidate, for example).
    fn enter(&self, stage: Stage);
    /// `done` of `total` units of the current stage are finished.
    fn advance(&self, done: u64, total: u64);
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl ProgressSink for Silent {
    fn enter(&self, _: Stage) {}
    fn advance(&self, _: u64, _: u64) {}
}

/// Lines on standard error: one for each stage, and for each quarter of it.
#[derive(Debug, Default)]
pub struct Lines {
    now: Mutex<(String, u64)>,
}

impl ProgressSink for Lines {
    fn enter(&self, stage: Stage) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        if now.0 != stage.words() {
            *now = (stage.words(), 0);
            eprintln!("{}", now.0);
        }
    }

    fn advance(&self, done: u64, total: u64) {
        let quarter = (done * 4).checked_div(total).unwrap_or(0);
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        if quarter > now.1 {
            now.1 = quarter;
            eprintln!("{}: {done} of {total}", now.0);
        }
    }
}
