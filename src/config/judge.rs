//! The judge of generated answers: any endpoint that speaks OpenAI's chat completions. Off unless its address
//! is given.

use std::fmt;

use anyhow::ensure;
use serde::{Deserialize, Serialize};

/// Whom to ask for ratings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgeConfig {
    /// Address up to and without `/chat/completions`, such as `http://judge.internal/v1`. Unset: nobody
    /// judges. Answers of the submitted model are sent there.
    pub url: Option<String>,
    /// The model to ask for.
    pub model: String,
    /// Sent as a bearer token.
    pub key: Option<Secret>,
    /// Patience with one rating, in milliseconds.
    pub timeout_ms: u64,
}

impl Default for JudgeConfig {
    fn default() -> Self {
        Self { url: None, model: String::new(), key: None, timeout_ms: 60_000 }
    }
}

impl JudgeConfig {
    /// The address, if there is a judge.
    pub fn address(&self) -> Option<&str> {
        self.url.as_deref().filter(|url| !url.is_empty())
    }

    /// Refuses a judge that could not be asked.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        let Some(address) = self.address() else { return Ok(()) };
        // The HTTP client is built without TLS; a gateway beside the service may add it.
        ensure!(
            address.starts_with("http://"),
            "evaluators.judge.url: expected an address that begins with http://, found another"
        );
        ensure!(!self.model.is_empty(), "evaluators.judge.model: expected the name of a model, found nothing");
        Ok(())
    }
}

/// A setting that is never shown.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The secret itself, to send it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_in_what_is_logged() {
        let config = JudgeConfig { key: Some(Secret::from("sk-123".to_owned())), ..JudgeConfig::default() };
        assert!(!format!("{config:?}").contains("sk-123"));
    }

    #[test]
    fn a_judge_that_cannot_be_asked_is_refused_and_none_is_fine() {
        assert!(JudgeConfig::default().check().is_ok());
        let at = |url: &str, model: &str| JudgeConfig {
            url: Some(url.into()),
            model: model.into(),
            ..JudgeConfig::default()
        };
        assert!(at("http://judge/v1", "m").check().is_ok());
        assert!(at("https://judge/v1", "m").check().unwrap_err().to_string().contains("judge.url"));
        assert!(at("http://judge/v1", "").check().unwrap_err().to_string().contains("judge.model"));
    }
}
