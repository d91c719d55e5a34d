//! A step as its own process sees it: `antigen step --dir FOLDER`.
//!
//! It reads `step.json`, works under the folder's lock and says on standard output how far it is. When its
//! standard input closes, its worker wants it to stop or is gone: it stops within seconds either way, so that
//! a killed server leaves no runaway.

use std::{
    io::{self, Read, Write},
    process::ExitCode,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use antigen_engine::lab::ProgressSink;
use antigen_engine::stage::Stage;

use super::folder::WorkFolder;
use super::protocol::StepLine;
use super::purifier;
use crate::db::{ErrorClass, Failure, StepKind};

/// Time that the work may take to notice that it is to stop, before the process ends anyway.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// Exit code of a step that was told to stop and did not notice in time.
const STOPPED: i32 = 75;
/// Progress lines closer together than this are left out.
const LINE_EVERY: Duration = Duration::from_millis(100);

/// Runs the step whose order lies in `folder` and says how it ended.
pub fn run_step(folder: &WorkFolder) -> ExitCode {
    let cancel = watch_standard_input();
    let (line, code) = match work(folder, cancel) {
        Ok(line) => (line, ExitCode::SUCCESS),
        Err(failure) => (StepLine::Failed { failure }, ExitCode::FAILURE),
    };
    say(&line);
    code
}

fn work(folder: &WorkFolder, cancel: Arc<AtomicBool>) -> Result<StepLine, Failure> {
    let io_failure = |error: io::Error| Failure {
        class: ErrorClass::Infrastructure,
        code: "worker.folder".to_owned(),
        message: format!("{}: {error}", folder.root().display()),
    };
    let _held = folder.lock().map_err(io_failure)?;
    let order = folder.read_order().map_err(io_failure)?;
    tracing::debug!(job = %order.job, kind = ?order.kind, "step begins");
    let made = match order.kind {
        StepKind::Inspect => {
            purifier::inspect(&order, folder)?;
            None
        }
        StepKind::Purify => Some(purifier::purify(&order, folder, Arc::new(Speaker::default()), cancel)?),
    };
    Ok(StepLine::Finished { made })
}

/// Sets the flag when standard input closes, and ends the process when nobody acts on it.
fn watch_standard_input() -> Arc<AtomicBool> {
    let cancel = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&cancel);
    thread::spawn(move || {
        let mut ignored = [0u8; 64];
        while matches!(io::stdin().read(&mut ignored), Ok(count) if count > 0) {}
        flag.store(true, Ordering::Relaxed);
        thread::sleep(STOP_PATIENCE);
        std::process::exit(STOPPED);
    });
    cancel
}

/// Writes one line. A worker that no longer reads is gone, and closing standard input has told us so already.
fn say(line: &StepLine) {
    let mut text = serde_json::to_vec(line).expect("lines hold text and numbers only");
    text.push(b'\n');
    let mut out = io::stdout().lock();
    let _ = out.write_all(&text).and_then(|()| out.flush());
}

/// Tells the worker how far the engine is.
#[derive(Debug, Default)]
struct Speaker {
    last: Mutex<Option<Instant>>,
}

impl ProgressSink for Speaker {
    fn enter(&self, stage: Stage) {
        say(&StepLine::Stage { stage });
    }

    fn advance(&self, done: u64, total: u64) {
        let now = Instant::now();
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if done >= total || last.is_none_or(|moment| now - moment >= LINE_EVERY) {
            *last = Some(now);
            say(&StepLine::Progress { done, total });
        }
    }
}
