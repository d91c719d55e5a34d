//! The base that ships with the crate. Its rows are generated, not shipped.

use std::fs;
use std::path::{Path, PathBuf};

use super::{WorldSpec, write_world_rows};
use crate::error::{EngineError, Result};

/// The name under which callers ask for this base.
pub const BUILTIN: &str = "builtin:tiny-world";

const FILES: [(&str, &[u8]); 6] = [
    ("config.json", include_bytes!("../../fixtures/tiny-world/config.json")),
    ("generation_config.json", include_bytes!("../../fixtures/tiny-world/generation_config.json")),
    ("tokenizer.json", include_bytes!("../../fixtures/tiny-world/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../../fixtures/tiny-world/tokenizer_config.json")),
    ("chat_template.jinja", include_bytes!("../../fixtures/tiny-world/chat_template.jinja")),
    ("model.safetensors", include_bytes!("../../fixtures/tiny-world/model.safetensors")),
];

/// Writes the base into `root/tiny-world` unless it is there already, and returns that folder: checkpoint,
/// tokenizer, and the rows of [`build_world`](super::build_world).
///
/// # Errors
/// [`EngineError::Io`].
pub fn materialise_builtin(root: &Path) -> Result<PathBuf> {
    let done = root.join("tiny-world");
    if done.is_dir() {
        return Ok(done);
    }
    let partial = root.join(format!("tiny-world.{}.partial", std::process::id()));
    fs::create_dir_all(&partial).map_err(EngineError::io(&partial))?;
    for (name, bytes) in FILES {
        let path = partial.join(name);
        fs::write(&path, bytes).map_err(EngineError::io(&path))?;
    }
    write_world_rows(&partial, &WorldSpec::default())?;
    match fs::rename(&partial, &done) {
        Ok(()) => Ok(done),
        // Another process was faster: its folder has the same bytes.
        Err(_) if done.is_dir() => fs::remove_dir_all(&partial).map_err(EngineError::io(&partial)).map(|()| done),
        Err(error) => Err(EngineError::io(&done)(error)),
    }
}

/// The folder of a base: `name` itself, or the one that ships, written below `root`, where it is [`BUILTIN`].
///
/// # Errors
/// [`EngineError::Io`].
pub fn find_base(name: &str, root: &Path) -> Result<PathBuf> {
    if name == BUILTIN { materialise_builtin(root) } else { Ok(PathBuf::from(name)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Prompter, read_rows};

    #[test]
    fn the_built_in_base_opens_and_its_rows_come_along() {
        let root = tempfile::tempdir().unwrap();
        let base = materialise_builtin(root.path()).unwrap();
        assert_eq!(materialise_builtin(root.path()).unwrap(), base);
        let model = antigen_models::load_model(&base, &antigen_models::Device::Cpu).unwrap();
        Prompter::open(&base).unwrap().check_vocabulary(model.config().vocab_size()).unwrap();
        for (file, rows) in
            [("train.jsonl", 24_000), ("test.jsonl", 600), ("task-train.jsonl", 3400), ("task-test.jsonl", 240)]
        {
            assert_eq!(read_rows(&base.join(file)).unwrap().len(), rows, "{file}");
        }
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_shipped_files_are_those_that_building_the_world_writes() {
        let folder = tempfile::tempdir().unwrap();
        let vocabulary =
            super::super::write_tokenizer(folder.path(), &super::super::world_rows(&WorldSpec::default()).0).unwrap();
        for (name, shipped) in
            FILES.into_iter().filter(|(name, _)| !name.contains("safetensors") && *name != "config.json")
        {
            assert!(std::fs::read(folder.path().join(name)).unwrap() == shipped, "{name}");
        }
        let config: serde_json::Value = serde_json::from_slice(FILES[0].1).unwrap();
        assert_eq!(config, super::super::config_json(crate::world::WorldFamily::Llama, vocabulary));
    }
}
