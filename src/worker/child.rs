//! A step's child process as the worker sees it: started, listened to, stopped.
//!
//! A submitted model may abort or hang a device; in a process of its own it takes nothing else with it.

use std::{
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::lease::Lease;
use super::progress::ProgressRecorder;
use super::protocol::{Made, StepLine};
use crate::config::WorkerConfig;
use crate::db::{Failure, Renewal};

/// The end of a child.
#[derive(Debug, Clone, PartialEq)]
pub enum Ending {
    /// It did what was asked.
    Finished(Option<Made>),
    /// It said why it could not.
    Failed(Failure),
    /// It ended, or had to be ended, without a word.
    Crashed(String),
    /// It was stopped because the job is to be cancelled.
    Cancelled,
    /// It was stopped because the worker shuts down.
    ShutDown,
    /// It was killed because somebody else holds the step now.
    LeaseLost,
}

impl Ending {
    /// One word for the log.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Finished(_) => "finished",
            Self::Failed(_) => "failed",
            Self::Crashed(_) => "crashed",
            Self::Cancelled => "cancelled",
            Self::ShutDown => "shut down",
            Self::LeaseLost => "lease lost",
        }
    }
}

/// A running child.
pub struct StepChild {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl StepChild {
    /// Starts `program step --dir folder` with pipes to it; it logs what the filter `log` lets through to our
    /// standard error.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn start(program: &Path, folder: &Path, log: &str) -> std::io::Result<Self> {
        let mut process = Command::new(program)
            .arg("step")
            .arg("--dir")
            .arg(folder)
            .env("ANTIGEN_LOG", log)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C in a terminal reaches the whole group: the worker decides when its children stop.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let stdout = process.stdout.take().expect("standard output is piped two lines above");
        Ok(Self { process, lines: BufReader::new(stdout).lines() })
    }

    /// Listens until the child ends or has to be ended.
    pub async fn attend(
        mut self,
        config: &WorkerConfig,
        lease: &mut Lease,
        progress: &mut ProgressRecorder<'_>,
        shutdown: &CancellationToken,
    ) -> Ending {
        let stall = Duration::from_millis(config.stall_ms);
        let mut patience = Instant::now() + stall;
        let mut last_word = None;
        loop {
            tokio::select! {
                line = self.lines.next_line() => match line {
                    Ok(Some(line)) => {
                        patience = Instant::now() + stall;
                        match self.hear(&line, progress).await {
                            Heard::Carry => {}
                            Heard::LastWord(ending) => last_word = Some(ending),
                            Heard::LeaseLost => return self.kill(Ending::LeaseLost).await,
                        }
                    }
                    _ => return self.ended(last_word).await,
                },
                news = lease.next_news() => return match news {
                    Renewal::Lost => self.kill(Ending::LeaseLost).await,
                    _ => self.stop(config, Ending::Cancelled).await,
                },
                () = shutdown.cancelled() => return self.stop(config, Ending::ShutDown).await,
                () = sleep_until(patience) => {
                    let seen = format!("no sign of life for {} ms", config.stall_ms);
                    return self.kill(Ending::Crashed(seen)).await;
                }
            }
        }
    }

    async fn hear(&self, line: &str, progress: &mut ProgressRecorder<'_>) -> Heard {
        let held = match serde_json::from_str(line) {
            Ok(StepLine::Stage { stage }) => progress.enter(stage).await,
            Ok(StepLine::Progress { done, total }) => progress.advance(done, total).await,
            Ok(StepLine::Finished { made }) => return Heard::LastWord(Ending::Finished(made)),
            Ok(StepLine::Failed { failure }) => return Heard::LastWord(Ending::Failed(failure)),
            Err(error) => {
                tracing::warn!(%error, line, "a line that is not part of the protocol");
                true
            }
        };
        if held { Heard::Carry } else { Heard::LeaseLost }
    }

    /// Its output has ended: its last word counts only when it also left in good order.
    async fn ended(mut self, last_word: Option<Ending>) -> Ending {
        match (self.process.wait().await, last_word) {
            (Ok(status), Some(Ending::Finished(made))) if status.success() => Ending::Finished(made),
            (_, Some(Ending::Failed(failure))) => Ending::Failed(failure),
            (Ok(status), _) => Ending::Crashed(describe(status)),
            (Err(error), _) => Ending::Crashed(format!("its end could not be read: {error}")),
        }
    }

    /// Asks first (its standard input closes), kills when that takes too long.
    async fn stop(mut self, config: &WorkerConfig, ending: Ending) -> Ending {
        drop(self.process.stdin.take());
        let leaves = async {
            while let Ok(Some(_)) = self.lines.next_line().await {}
            self.process.wait().await
        };
        if timeout(Duration::from_millis(config.stop_grace_ms), leaves).await.is_ok() {
            return ending;
        }
        self.kill(ending).await
    }

    async fn kill(mut self, ending: Ending) -> Ending {
        if let Err(error) = self.process.kill().await {
            tracing::warn!(%error, "a child could not be killed");
        }
        ending
    }
}

enum Heard {
    Carry,
    LastWord(Ending),
    LeaseLost,
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("the step process was ended by signal {signal}"),
        (None, Some(code)) => format!("the step process left with code {code} and without a result"),
        (None, None) => "the step process ended".to_owned(),
    }
}

/// The program that children run: this one.
///
/// # Errors
/// The operating system does not say.
pub fn this_program() -> std::io::Result<PathBuf> {
    std::env::current_exe()
}
