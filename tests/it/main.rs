//! The one integration binary: the service as its users meet it. `support` starts servers, the rest is one folder per room.

mod api;
mod intake;
mod support;
mod worker;
