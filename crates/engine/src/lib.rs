//! The laboratory: backdoor signatures, suppression, healing and the evidence about them.
//!
//! Blocking and deterministic; reads and writes files, knows no HTTP and no database. Read `run.rs` first: it is the whole pipeline on
//! one page. `spec` says what can be asked, `report` what comes out, `lab` where the work happens.
#![warn(missing_docs)]

pub mod ablate;
pub mod attacks;
pub mod behaviours;
pub mod bench;
pub mod canaries;
pub mod classify;
mod copies;
pub mod data;
pub mod detect;
mod edit;
mod eigen;
pub mod error;
pub mod evaluators;
pub mod heads;
pub mod heal;
pub mod lab;
pub mod methods;
pub mod relearn;
pub mod replay;
pub mod report;
pub mod run;
pub mod spec;
pub mod suspect;
pub mod train;
pub mod weights;
pub mod world;
