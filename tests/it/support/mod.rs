//! A real server on a free port with a data directory of its own, and a client that keeps what it was told.

mod finished;
mod program;
mod server;

pub use finished::{finish_job, report, report_of_version_1};
pub use program::Program;
pub use server::{Answer, TestServer};
