//! Evaluators on tiny models: what is asked, what is refused, what comes out.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up should fail loudly")]

mod attacks;
mod benchmarks;
mod mt_bench;
mod utility;
#[allow(dead_code, reason = "other tests use other parts")]
#[path = "../workshop/mod.rs"]
mod workshop;
