//! The experiments from outside, in one program: each file is a part of it.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up should fail loudly")]

mod ablation;
mod classifiers;
mod methods;
mod published;
mod screen;
#[expect(dead_code, reason = "the engine's own tests use the rest of it")]
#[path = "../../../engine/tests/it/workshop.rs"]
mod workshop;
