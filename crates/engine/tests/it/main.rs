//! The engine from outside, in one program: each file is a part of it.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up should fail loudly")]

mod adversarial;
mod algorithm_one;
mod arrows;
mod auto;
mod evaluation;
mod given_signature;
mod methods;
mod relearning;
mod replay;
mod screen;
mod tiny_world;
mod training;
mod whole_model;
mod workshop;
