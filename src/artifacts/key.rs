//! The only maker of paths in the store.

use object_store::path::Path;

use super::StoreError;

/// The things that have a name in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArtifactKey {
    /// Immutable bytes, by their SHA-256 in lower-case hexadecimal digits.
    Blob(String),
}

impl ArtifactKey {
    /// The prefix of every blob.
    pub const BLOBS: &'static str = "blobs/sha256";

    /// The key of the bytes with this SHA-256.
    ///
    /// # Errors
    /// Text that is not 64 lower-case hexadecimal digits.
    pub fn blob(sha256: &str) -> Result<Self, StoreError> {
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if sha256.len() == 64 && sha256.bytes().all(hex) {
            Ok(Self::Blob(sha256.to_owned()))
        } else {
            Err(StoreError::BadDigest(sha256.chars().take(80).collect()))
        }
    }

    /// The path in the store. Two levels of folders keep a million blobs listable on any file system.
    pub fn path(&self) -> Path {
        let Self::Blob(sha256) = self;
        Path::from(format!("{}/{}/{}/{sha256}", Self::BLOBS, &sha256[..2], &sha256[2..4]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_lies_under_the_first_digits_of_its_digest() {
        let sha256 = format!("abcd{}", "0".repeat(60));
        let path = ArtifactKey::blob(&sha256).unwrap().path();
        assert_eq!(path.as_ref(), format!("blobs/sha256/ab/cd/{sha256}"));
    }

    #[test]
    fn what_is_not_a_digest_never_becomes_a_path() {
        for bad in ["", "../../etc/passwd", &"A".repeat(64), &"é".repeat(32)] {
            assert!(ArtifactKey::blob(bad).is_err(), "{bad} became a path");
        }
    }
}
