//! The queue and its workers: leases, attempts and the patience with a child process.

use std::time::Duration;

use antigen_models::kernels::Precision;
use anyhow::ensure;
use serde::{Deserialize, Serialize};

/// Settings of the worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerConfig {
    /// The device on which steps compute: `cpu`, `cpu:portable` (the same bytes on every processor, where one
    /// with a matrix unit would be faster), `cuda` or `cuda:N`.
    pub device: String,
    /// Memory that a step may use for training beside the models it has loaded, in bytes; 0 is four fifths of
    /// what the machine has available when the step starts. Beyond it blocks are computed twice, passes
    /// become smaller, and at last the step fails.
    pub memory_bytes: u64,
    /// The precision in which products with weights take their operands: `float32`, or `bfloat16`, in which
    /// the weights under an adapter take half the memory.
    pub precision: Precision,
    /// Steps that one worker process runs at once.
    pub concurrency: u32,
    /// Interval at which a worker looks for work that another process queued, in milliseconds.
    pub poll_ms: u64,
    /// Time for which a claimed step stays claimed without a sign of life, in milliseconds.
    pub lease_ms: u64,
    /// Interval at which the lease is renewed and the cancel flag read, in milliseconds.
    pub renew_ms: u64,
    /// Time that a child may take to stop after it was asked, in milliseconds, before it is killed.
    pub stop_grace_ms: u64,
    /// Silence of a child after which it counts as hung and is killed, in milliseconds.
    pub stall_ms: u64,
    /// Attempts at one step before the job fails.
    pub max_attempts: u32,
    /// Pause before the second attempt, in milliseconds; doubled for each further one.
    pub retry_delay_ms: u64,
    /// Interval at which leases, uploads and work folders are swept, in milliseconds.
    pub reconcile_ms: u64,
    /// Age at which a job that nobody started expires, in seconds.
    pub queue_ttl_s: u64,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            device: "cpu".to_owned(),
            memory_bytes: 0,
            precision: Precision::Float32,
            concurrency: 1,
            poll_ms: 1_000,
            lease_ms: 15_000,
            renew_ms: 3_000,
            stop_grace_ms: 10_000,
            stall_ms: 900_000,
            max_attempts: 3,
            retry_delay_ms: 2_000,
            reconcile_ms: 10_000,
            queue_ttl_s: 604_800,
        }
    }
}

impl WorkerConfig {
    /// Refuses settings under which a healthy worker would lose its lease.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        ensure!(self.concurrency > 0, "worker.concurrency: expected at least 1, found 0");
        ensure!(self.max_attempts > 0, "worker.max_attempts: expected at least 1, found 0");
        ensure!(
            self.renew_ms > 0 && self.renew_ms * 2 <= self.lease_ms,
            "worker.renew_ms: expected 1 to half of worker.lease_ms ({}), found {}: one late renewal would lose the lease",
            self.lease_ms / 2,
            self.renew_ms
        );
        Ok(())
    }

    /// The pause before attempt `next_attempt` (the first attempt is 1).
    pub fn retry_delay(&self, next_attempt: u32) -> Duration {
        let doublings = next_attempt.saturating_sub(2).min(10);
        Duration::from_millis(self.retry_delay_ms << doublings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_with_each_attempt() {
        let config = WorkerConfig { retry_delay_ms: 100, ..WorkerConfig::default() };
        let pauses: Vec<u128> = (2..5).map(|attempt| config.retry_delay(attempt).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400]);
    }

    #[test]
    fn a_renewal_as_rare_as_the_lease_is_refused() {
        let config = WorkerConfig { lease_ms: 1000, renew_ms: 600, ..WorkerConfig::default() };
        assert!(config.check().unwrap_err().to_string().contains("worker.renew_ms"));
    }
}
