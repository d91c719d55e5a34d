//! Base models by name: folders registered by the operator, and the built-in tiny world.
//!
//! A base folder holds the model (`config.json`, `model.safetensors` or shards, `tokenizer.json`) and the
//! rows that methods and measurements read (`train.jsonl`, `test.jsonl`).

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use antigen_models::FamilyConfig;
use anyhow::ensure;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The base that is always there: a small trained model embedded in the program.
pub const BUILTIN_TINY_WORLD: &str = "builtin:tiny-world";

/// Folders by base name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BasesConfig(pub BTreeMap<String, PathBuf>);

/// One base model and the rows that belong to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// The name under which jobs refer to it.
    pub name: String,
    /// The folder of the model.
    pub dir: PathBuf,
}

impl Base {
    /// Rows that healing and paired data are drawn from (JSON lines with `instruction`, `input`, `output`).
    pub fn train_rows(&self) -> PathBuf {
        self.dir.join("train.jsonl")
    }

    /// Rows that are only measured on.
    pub fn test_rows(&self) -> PathBuf {
        self.dir.join("test.jsonl")
    }

    /// Blocks of the model; nothing where its configuration cannot be read, which a job says when it opens
    /// the base.
    pub async fn blocks(&self) -> Option<usize> {
        let config = tokio::fs::read(self.dir.join("config.json")).await.ok()?;
        Some(FamilyConfig::from_json(&serde_json::from_slice(&config).ok()?).ok()?.layers())
    }

    /// SHA-256 of the tokenizer, lower-case hexadecimal; nothing where it cannot be read.
    pub async fn tokenizer_sha256(&self) -> Option<String> {
        let bytes = tokio::fs::read(self.dir.join("tokenizer.json")).await.ok()?;
        Some(Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// True for a base that is part of the program.
    pub fn is_builtin(&self) -> bool {
        self.name == BUILTIN_TINY_WORLD
    }
}

impl BasesConfig {
    /// Names that jobs may use, the built-in one first.
    pub fn names(&self) -> Vec<String> {
        std::iter::once(BUILTIN_TINY_WORLD.to_owned()).chain(self.0.keys().cloned()).collect()
    }

    /// The base called `name`; the built-in one lies below `bases_dir`.
    pub(super) fn find(&self, name: &str, bases_dir: &Path) -> Option<Base> {
        let dir = match name {
            BUILTIN_TINY_WORLD => bases_dir.join("tiny-world"),
            _ => self.0.get(name)?.clone(),
        };
        Some(Base { name: name.to_owned(), dir })
    }

    /// Refuses names in the space that the program keeps for itself.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        for name in self.0.keys() {
            ensure!(!name.starts_with("builtin:"), "bases.{name}: names that begin with `builtin:` are taken");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tiny_world_is_there_without_configuration() {
        let base = BasesConfig::default().find(BUILTIN_TINY_WORLD, Path::new("bases")).unwrap();
        assert_eq!(base.test_rows(), Path::new("bases/tiny-world/test.jsonl"));
    }

    #[test]
    fn an_unregistered_base_is_not_found() {
        assert_eq!(BasesConfig::default().find("elsewhere", Path::new("bases")), None);
    }
}
