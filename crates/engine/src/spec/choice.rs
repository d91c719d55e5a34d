//! Parts of a specification as words on a command line.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{EngineError, Result};

/// An attack, behaviour or method as JSON, or as a bare name, which stands for the entry of that type with
/// its defaults. Errors name `flag`.
///
/// # Errors
/// [`EngineError::Data`] for an unknown name, or for JSON of another shape.
pub fn parse_choice<T: DeserializeOwned>(flag: &str, text: &str) -> Result<T> {
    let value = if text.starts_with('{') {
        serde_json::from_str(text)
            .map_err(|error| EngineError::Data(format!("{flag}: expected JSON, found {error}")))?
    } else {
        let name = text.replace('-', "_");
        Value::Object([("type".to_owned(), Value::String(name))].into_iter().collect())
    };
    serde_json::from_value(value).map_err(|error| EngineError::Data(format!("{flag}: {error}")))
}

/// One of the words that a type has.
///
/// # Errors
/// An unknown word; the message has the known ones.
pub fn parse_word<T: DeserializeOwned>(text: &str) -> serde_json::Result<T> {
    serde_json::from_value(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{AttackSpec, BehaviourSpec, PromptFormat};

    #[test]
    fn a_name_and_its_json_mean_the_same() {
        let name: BehaviourSpec = parse_choice("--behaviour", "code-injection").unwrap();
        let json: BehaviourSpec = parse_choice("--behaviour", r#"{"type":"code_injection"}"#).unwrap();
        assert_eq!(name, json);
    }

    #[test]
    fn an_unknown_attack_is_refused_with_the_ones_there_are() {
        let error = parse_choice::<AttackSpec>("--attack", "moonbeam").unwrap_err().to_string();
        assert!(error.contains("--attack") && error.contains("moonbeam") && error.contains("badnets"), "{error}");
    }

    #[test]
    fn an_unknown_word_is_refused_with_the_ones_there_are() {
        let error = parse_word::<PromptFormat>("latin").unwrap_err().to_string();
        assert!(error.contains("latin") && error.contains("alpaca"), "{error}");
        assert_eq!(parse_word::<PromptFormat>("chat").unwrap(), PromptFormat::Chat);
    }
}
