//! Keeps a claim alive from a thread of its own, with a database connection of its own: neither a busy
//! runtime nor a silent child can let the lease lapse, and a worker that is gone cannot keep it.

use std::{
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::config::{Config, WorkerConfig};
use crate::db;
use crate::db::{Claim, Db, Renewal};

/// A claim being kept alive; dropping it stops the renewal.
pub struct Lease {
    news: watch::Receiver<Renewal>,
    stop: Option<mpsc::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Lease {
    /// Starts to renew `claim`.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn keep(config: &Config, claim: &Claim) -> std::io::Result<Self> {
        let (tell, news) = watch::channel(Renewal::Held);
        let (stop, stopped) = mpsc::channel();
        let renewer = Renewer {
            url: config.database_url(),
            database: crate::config::DatabaseConfig { max_connections: 1, ..config.database.clone() },
            worker: config.worker.clone(),
            claim: claim.clone(),
        };
        let name = format!("lease {}", claim.step);
        let thread = thread::Builder::new().name(name).spawn(move || renewer.run(&tell, &stopped))?;
        Ok(Self { news, stop: Some(stop), thread: Some(thread) })
    }

    /// Waits until there is something else to do than to carry on.
    pub async fn next_news(&mut self) -> Renewal {
        match self.news.wait_for(|renewal| *renewal != Renewal::Held).await {
            Ok(renewal) => *renewal,
            // The thread ended without a word: nobody renews any more.
            Err(_) => Renewal::Lost,
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.stop.take();
        // The thread may be inside a renewal; it must not outlive the claim's last write.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The things that the thread needs.
struct Renewer {
    url: String,
    database: crate::config::DatabaseConfig,
    worker: WorkerConfig,
    claim: Claim,
}

impl Renewer {
    fn run(self, tell: &watch::Sender<Renewal>, stopped: &mpsc::Receiver<()>) {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return tracing::error!(%error, "no runtime for lease renewal"),
        };
        match runtime.block_on(Db::open(&self.url, &self.database)) {
            Ok(db) => {
                self.renew_until_stopped(&runtime, &db, tell, stopped);
                runtime.block_on(db.close());
            }
            Err(error) => tracing::error!(%error, step = %self.claim.step, "no database for lease renewal"),
        }
    }

    fn renew_until_stopped(
        &self,
        runtime: &tokio::runtime::Runtime,
        db: &Db,
        tell: &watch::Sender<Renewal>,
        stopped: &mpsc::Receiver<()>,
    ) {
        let lease = Duration::from_millis(self.worker.lease_ms);
        let mut held_until = Instant::now() + lease;
        loop {
            match stopped.recv_timeout(Duration::from_millis(self.worker.renew_ms)) {
                Err(RecvTimeoutError::Timeout) => {}
                _ => return,
            }
            let asked = Instant::now();
            match runtime.block_on(db::renew_lease(db, &self.claim, lease)) {
                Ok(Renewal::Lost) => {
                    tell.send_replace(Renewal::Lost);
                    return;
                }
                Ok(renewal) => {
                    held_until = asked + lease;
                    tell.send_replace(renewal);
                }
                Err(error) => {
                    tracing::warn!(%error, step = %self.claim.step, "lease not renewed");
                    if Instant::now() >= held_until {
                        tell.send_replace(Renewal::Lost);
                        return;
                    }
                }
            }
        }
    }
}
