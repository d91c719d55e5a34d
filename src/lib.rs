//! The service: takes submissions in, hands reports out. Knows HTTP, SQL and object stores; knows no tensor.
//!
//! A submission walks through `handlers::uploads`, `intake`, `handlers::jobs`, `db`, `worker` and back out
//! through `handlers::results`. Every route is in [`router`], every setting in [`config`], every statement of
//! SQL in [`db`]. The engine behind it is the crate `antigen_engine`, reached through one seam in `worker`.

pub mod app;
pub mod artifacts;
pub mod cli;
pub mod config;
pub mod db;
pub mod error;
pub mod extract;
pub mod handlers;
pub mod intake;
pub mod judge;
pub mod middleware;
pub mod openapi;
pub mod pages;
pub mod router;
pub mod views;
pub mod worker;
