//! The engine: backdoor signatures, suppression, healing and the evidence about them.
//!
//! Blocking and deterministic; reads and writes files, knows no HTTP and no database. Read `run.rs` first: it
//! is the whole pipeline on one page. `job` is the request, `report` the result, `lab` the workplace.
//!
//! Rooms use only those above them in this list, and a test holds them to it.
#![warn(missing_docs)]

pub mod stage;

pub mod stats;

pub mod error;

pub mod lab;

pub mod spec;

pub mod data;

pub mod suspect;

pub mod threat;

pub mod train;

pub mod world;

pub mod measure;

pub mod methods;

pub mod job;

pub mod catalogue;

pub mod report;

pub mod run;

pub mod replay;
