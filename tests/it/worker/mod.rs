//! The queue and its workers: rows alone in `queue.rs`, real processes in `processes.rs`, whole jobs in
//! `jobs.rs`.

mod jobs;
mod processes;
mod queue;
mod replay;
mod site;
