//! All SQL of the service, one file per table. Nothing here knows HTTP, files or models.
//!
//! A job is rows: `jobs`, `steps` and `job_events` change together in one transaction, and every write by a
//! worker carries the fence of its claim. Read [`Db`], then `steps.rs` (claim, renew) and `outcomes.rs` (how
//! a step ends).

mod artifacts;
mod dialect;
mod events;
mod ids;
mod jobs;
mod outcomes;
mod steps;
mod time;
mod uploads;

pub use artifacts::*;
pub use dialect::{Db, DbError};
pub use events::*;
pub use ids::*;
pub use jobs::*;
pub use outcomes::*;
pub use steps::*;
pub use time::Timestamp;
pub use uploads::*;

/// Result of this room.
pub type Result<T, E = DbError> = std::result::Result<T, E>;
