//! SHA-256 of files, and the list of files below a folder.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use sha2::{Digest, Sha256};

/// SHA-256 of a file in lower-case hexadecimal digits, and its size. Blocks; memory does not grow with the
/// file.
///
/// # Errors
/// The file cannot be read.
pub fn hash_file(path: &Path) -> io::Result<(String, u64)> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0u8; 1 << 16];
    let mut bytes = 0u64;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((format!("{:x}", hasher.finalize()), bytes)),
            count => {
                hasher.update(&buffer[..count]);
                bytes += count as u64;
            }
        }
    }
}

/// Every regular file below `dir`, as a path relative to it with `/`, sorted. Links and special files are
/// refused: nothing that we store points elsewhere.
///
/// # Errors
/// The folder cannot be read, a name is not UTF-8, or something is neither a file nor a folder.
pub fn list_files(dir: &Path) -> io::Result<Vec<String>> {
    let mut files = Vec::new();
    collect_files(dir, "", &mut files)?;
    files.sort();
    Ok(files)
}

fn collect_files(dir: &Path, prefix: &str, files: &mut Vec<String>) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let invalid =
            |why: &str| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {why}", entry.path().display()));
        let name = entry.file_name();
        let name = name.to_str().ok_or_else(|| invalid("the name is not UTF-8"))?;
        let kind = entry.file_type()?;
        match () {
            () if kind.is_dir() => collect_files(&entry.path(), &format!("{prefix}{name}/"), files)?,
            () if kind.is_file() => files.push(format!("{prefix}{name}")),
            () => return Err(invalid("expected a file or a folder, found a link or a special file")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_the_one_that_sha256sum_prints() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("abc"), "abc").unwrap();
        let (sha256, bytes) = hash_file(&dir.path().join("abc")).unwrap();
        assert_eq!(sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(bytes, 3);
    }

    #[test]
    fn a_link_in_a_folder_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/hostname", dir.path().join("sly")).unwrap();
        assert!(list_files(dir.path()).unwrap_err().to_string().contains("sly"));
    }
}
