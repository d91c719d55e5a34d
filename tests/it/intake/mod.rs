//! Uploads with one defect each: the code, the place, and that nothing is left behind.
//!
//! Here: how a sound upload is made and how one is inspected. `archives` has forms and files, `weights`
//! headers and values, `bases` what an artifact was made for, `quantised` whole models, `hostile` random
//! bytes and mutations.

// The lint's exception for tests does not reach the functions that tests share.
#![allow(clippy::unwrap_used)]

mod archives;
mod bases;
mod hostile;
mod quantised;
mod weights;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use antigen::intake::{ArtifactFacts, IntakeLimits, Rejection, check_against_base, inspect_upload};
use antigen_models::checkpoint::save_checkpoint;
use antigen_models::{Device, FamilyConfig, LoraAdapter, PeftConfig, Tensor, save_adapter};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Name and bytes of each file of an upload.
pub type Files = Vec<(String, Vec<u8>)>;

/// `config.json` of a base of two blocks and this width.
pub fn base_config(hidden_size: usize) -> Value {
    json!({
        "model_type": "llama", "vocab_size": 16, "hidden_size": hidden_size, "intermediate_size": 12,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32,
        "rms_norm_eps": 1e-5,
    })
}

/// A base checkpoint of zeros, in a folder of its own.
pub fn base_folder(hidden_size: usize) -> TempDir {
    checkpoint_folder(&base_config(hidden_size))
}

/// A checkpoint of zeros of any configuration.
pub fn checkpoint_folder(config: &Value) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let shapes = FamilyConfig::from_json(config).unwrap().tensor_shapes();
    let tensors = shapes.into_iter().map(|(name, shape)| (name, zeros(&shape)));
    save_checkpoint(dir.path(), config, tensors, u64::MAX).unwrap();
    dir
}

/// A float32 tensor of zeros.
pub fn zeros(shape: &[usize]) -> Tensor {
    Tensor::from_vec(vec![0f32; shape.iter().product()], shape, &Device::Cpu).unwrap()
}

/// The two files of a sound adapter of rank 2 on the queries of the base of width 8.
pub fn adapter_files() -> Files {
    let dir = tempfile::tempdir().unwrap();
    let base = FamilyConfig::from_json(&base_config(8)).unwrap();
    let config = PeftConfig::new(2, 4, &["q_proj"], "base");
    let adapter = LoraAdapter::fresh(config, &base, &mut || 0.5).unwrap();
    save_adapter(&adapter, dir.path()).unwrap();
    read_files(dir.path())
}

/// Every file of a folder, sorted by name.
pub fn read_files(dir: &Path) -> Files {
    let mut files: Files = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

/// The same upload with one file added or replaced.
pub fn with_file(mut files: Files, name: &str, bytes: impl Into<Vec<u8>>) -> Files {
    files.retain(|(other, _)| other != name);
    files.push((name.to_owned(), bytes.into()));
    files
}

/// The adapter with one field of its configuration set.
pub fn with_field(name: &str, value: Value) -> Files {
    let files = adapter_files();
    let mut config: Value = serde_json::from_slice(&files[0].1).unwrap();
    config[name] = value;
    with_file(files, "adapter_config.json", config.to_string())
}

pub fn tar(files: &Files) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        append(&mut builder, name.as_bytes(), tar::EntryType::Regular, bytes);
    }
    builder.into_inner().unwrap()
}

/// Adds an entry under any name, also one that the crate itself would refuse to write.
pub fn append(builder: &mut tar::Builder<Vec<u8>>, name: &[u8], kind: tar::EntryType, bytes: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_entry_type(kind);
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    builder.append(&header, bytes).unwrap();
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zip(files: &Files) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in files {
        writer.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// A place for one upload and what is unpacked of it.
pub struct Quarantine {
    dir: TempDir,
    pub limits: IntakeLimits,
}

impl Quarantine {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), limits: IntakeLimits::default() }
    }

    pub fn unpacked(&self) -> PathBuf {
        self.dir.path().join("unpacked")
    }

    pub fn inspect_bytes(&self, bytes: &[u8]) -> Result<ArtifactFacts, Rejection> {
        let staged = self.dir.path().join("staged");
        fs::write(&staged, bytes).unwrap();
        inspect_upload(&staged, &self.limits, &self.unpacked())
    }

    pub fn inspect_files(&self, files: &Files) -> Result<ArtifactFacts, Rejection> {
        let staged = self.dir.path().join("folder");
        fs::create_dir(&staged).unwrap();
        for (name, bytes) in files {
            fs::write(staged.join(name), bytes).unwrap();
        }
        inspect_upload(&staged, &self.limits, &self.unpacked())
    }

    /// Requires that the outcome is this refusal and that nothing is left of the upload.
    pub fn expect_refusal(&self, outcome: Result<ArtifactFacts, Rejection>, code: &str) -> Rejection {
        let rejection = outcome.expect_err(code);
        assert_eq!(rejection.code, code, "{rejection}");
        assert!(!self.unpacked().exists(), "{code} left files behind");
        rejection
    }
}

/// Refuses an archive or a single file.
pub fn refuse_bytes(bytes: &[u8], code: &str) -> Rejection {
    let quarantine = Quarantine::new();
    quarantine.expect_refusal(quarantine.inspect_bytes(bytes), code)
}

/// Refuses a folder of single files.
pub fn refuse_files(files: &Files, code: &str) -> Rejection {
    let quarantine = Quarantine::new();
    quarantine.expect_refusal(quarantine.inspect_files(files), code)
}

/// A file of the shared data, if it is there.
pub fn shared(path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared").join(path);
    if !path.exists() {
        eprintln!("skipped: {} is absent", path.display());
        return None;
    }
    Some(path)
}
