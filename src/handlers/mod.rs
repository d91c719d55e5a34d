//! One file per resource: parse, ask the other rooms, answer. No SQL, no paths, no tensors.
//!
//! Every handler carries its OpenAPI description; `router.rs` lists them all.

pub mod artifacts;
pub mod catalogue;
pub mod events;
pub mod health;
pub mod jobs;
pub mod pages;
pub mod results;
pub mod upload_content;
pub mod uploads;

mod admission;
mod download;
