//! The store of bytes: immutable blobs named by their SHA-256, and staged uploads on their way in.
//!
//! [`ArtifactStore`] is the only way to a blob and [`ArtifactKey`] the only maker of paths. Names of files
//! are rows (`db::artifacts`), so equal files are stored once. The order is always: blob first, row second; a
//! crash between leaves a blob that nobody names, and the sweep removes it a day later.

mod hash;
mod key;
mod staging;
mod store;

pub use hash::{hash_file, list_files};
pub use key::ArtifactKey;
pub use staging::Staging;
pub use store::{ArtifactStore, BlobStream, StoreError, open_store};
