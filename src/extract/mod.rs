//! Extractors: how a request's parts become typed arguments of a handler, refused as
//! [`Problem`](crate::error::Problem).
//!
//! They read JSON bodies ([`Json`]), bodies that are files ([`receive_file`]), identifiers in paths
//! ([`Path`]), query strings ([`Query`]), and the headers with a grammar of their own: digests, ranges,
//! `Prefer`, `Accept`. None of them asks the database.

mod accept;
mod digest;
mod json;
mod path;
mod prefer;
mod query;
mod range;
mod receive;

pub use accept::{Accept, Wanted};
pub use digest::{AnnouncedDigest, digest_header};
pub use json::Json;
pub use path::Path;
pub use prefer::PreferWait;
pub use query::Query;
pub use range::{RangeAnswer, answer_range};
pub use receive::{Expected, Received, check_headers, receive_file};
