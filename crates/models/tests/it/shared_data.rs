//! Data beside the repository, which not every checkout has.

use std::path::PathBuf;

/// A file or folder of that data; where it is absent, `None`, and stderr says so.
pub fn shared_data(path: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared").join(path);
    if !path.exists() {
        eprintln!("skipped: {} is absent", path.display());
        return None;
    }
    Some(path)
}
