//! Arguments that stand for something larger: an attack by its name, a base by its folder.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{config::BUILTIN_TINY_WORLD, worker::materialise_builtin};

/// One entry of a door (attack, behaviour): JSON, or a bare name for the entry of that type with its defaults.
///
/// # Errors
/// An unknown name, or JSON that is not such an entry; the message names `flag`.
pub fn parse_choice<T: DeserializeOwned>(flag: &str, text: &str) -> anyhow::Result<T> {
    let value = if text.starts_with('{') {
        serde_json::from_str(text).with_context(|| format!("{flag}: expected JSON"))?
    } else {
        let name = text.replace('-', "_");
        Value::Object([("type".to_owned(), Value::String(name))].into_iter().collect())
    };
    serde_json::from_value(value).with_context(|| flag.to_owned())
}

/// The folder of a base: `base` itself, or the built-in one written below `bases_dir`.
///
/// # Errors
/// The disk refuses.
pub fn find_base_dir(base: &str, bases_dir: &Path) -> anyhow::Result<PathBuf> {
    match base {
        BUILTIN_TINY_WORLD => Ok(materialise_builtin(bases_dir)?),
        folder => Ok(PathBuf::from(folder)),
    }
}

#[cfg(test)]
mod tests {
    use antigen_engine::spec::{AttackSpec, BehaviourSpec};

    use super::*;

    #[test]
    fn a_name_and_its_json_mean_the_same() {
        let name: BehaviourSpec = parse_choice("--behaviour", "code-injection").unwrap();
        let json: BehaviourSpec = parse_choice("--behaviour", r#"{"type":"code_injection"}"#).unwrap();
        assert_eq!(name, json);
    }

    #[test]
    fn an_unknown_attack_is_refused_with_the_ones_there_are() {
        let error = format!("{:#}", parse_choice::<AttackSpec>("--attack", "moonbeam").unwrap_err());
        assert!(error.contains("--attack") && error.contains("moonbeam") && error.contains("badnets"), "{error}");
    }
}
