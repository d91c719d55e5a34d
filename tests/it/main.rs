//! The one integration binary: the service as its users meet it. `support` starts servers, the rest is one
//! folder per room.
// clippy.toml allows unwrap in functions marked as tests; everything here is a test or serves one.
#![allow(clippy::unwrap_used)]

mod api;
mod intake;
mod judge;
mod snapshots;
mod support;
mod worker;
