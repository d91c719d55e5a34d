//! Every setting of the service: defaults, then `antigen.toml`, then `ANTIGEN_*` variables, later ones
//! winning.
//!
//! One file per concern; `config.example.env` lists each setting with its default and unit, and a test keeps
//! it complete. Nothing here opens a file or a socket except [`Config::load`] reading `antigen.toml`. Read
//! [`Config`] first.

mod artifacts;
mod bases;
mod database;
mod evaluators;
mod judge;
mod limits;
mod server;
mod worker;

use std::path::{Path, PathBuf};

use figment::{
    Figment,
    providers::{Env, Format, Serialized, Toml},
};
use serde::{Deserialize, Serialize};

pub use artifacts::ArtifactsConfig;
pub use bases::{BUILTIN_TINY_WORLD, Base, BasesConfig};
pub use database::DatabaseConfig;
pub use evaluators::EvaluatorsConfig;
pub use judge::{JudgeConfig, Secret};
pub use limits::LimitsConfig;
pub use server::ServerConfig;
pub use worker::WorkerConfig;

/// The settings file that is read from the current directory when no other is named.
pub const CONFIG_FILE: &str = "antigen.toml";

/// All settings. A name that is not one of these is refused, so a typing error cannot pass for a default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The folder of the database, the stored artifacts and the work folders unless set one by one.
    pub data_dir: PathBuf,
    /// The `tracing` filter of what is logged to standard error (`info`, `antigen=debug,info`).
    pub log: String,
    /// The HTTP side.
    pub server: ServerConfig,
    /// The database.
    pub database: DatabaseConfig,
    /// The artifact store.
    pub artifacts: ArtifactsConfig,
    /// The queue and its workers.
    pub worker: WorkerConfig,
    /// Public data that evaluators measure on.
    pub evaluators: EvaluatorsConfig,
    /// Limits of what a caller may send.
    pub limits: LimitsConfig,
    /// Base models by name.
    pub bases: BasesConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from(".antigen"),
            log: "info".to_owned(),
            server: ServerConfig::default(),
            database: DatabaseConfig::default(),
            artifacts: ArtifactsConfig::default(),
            worker: WorkerConfig::default(),
            evaluators: EvaluatorsConfig::default(),
            limits: LimitsConfig::default(),
            bases: BasesConfig::default(),
        }
    }
}

impl Config {
    /// Reads the settings: defaults < `file` (or `antigen.toml` when it exists) < `ANTIGEN_*`, with `__`
    /// between levels (`ANTIGEN_SERVER__BIND`).
    ///
    /// # Errors
    /// A named file that is absent, an unknown setting, or a value of the wrong type: the message names the
    /// setting and its source.
    pub fn load(file: Option<&Path>) -> anyhow::Result<Self> {
        let toml = match file {
            Some(path) => Toml::file_exact(path),
            None => Toml::file(CONFIG_FILE),
        };
        let config: Self = Figment::from(Serialized::defaults(Self::default()))
            .merge(toml)
            .merge(Env::prefixed("ANTIGEN_").split("__"))
            .extract()
            .map_err(Box::new)?;
        config.check()?;
        Ok(config)
    }

    /// Refuses combinations that would fail later in a way that is hard to read.
    fn check(&self) -> anyhow::Result<()> {
        self.worker.check()?;
        self.evaluators.judge.check()?;
        self.bases.check()
    }

    /// The folder of the artifact store.
    pub fn store_dir(&self) -> PathBuf {
        self.artifacts
            .dir
            .clone()
            .filter(|dir| !dir.as_os_str().is_empty())
            .unwrap_or_else(|| self.data_dir.join("store"))
    }

    /// The folder that holds one work folder per unfinished job.
    pub fn work_dir(&self) -> PathBuf {
        self.data_dir.join("work")
    }

    /// The folder in which each live worker of this machine has a locked file.
    pub fn roll_dir(&self) -> PathBuf {
        self.data_dir.join("workers")
    }

    /// The folder below which the built-in base is written.
    pub fn bases_dir(&self) -> PathBuf {
        self.data_dir.join("bases")
    }

    /// The database address; without a setting, a SQLite file in the data directory.
    pub fn database_url(&self) -> String {
        match &self.database.url {
            Some(url) if !url.is_empty() => url.clone(),
            _ => format!("sqlite://{}", self.data_dir.join("antigen.db").display()),
        }
    }

    /// The base model called `name`, or `None` when no such base is registered.
    pub fn base(&self, name: &str) -> Option<Base> {
        self.bases.find(name, &self.bases_dir())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flatten(prefix: &str, value: &serde_json::Value, into: &mut Vec<(String, String)>) {
        match value {
            serde_json::Value::Object(fields) if !fields.is_empty() => {
                for (name, inner) in fields {
                    let separator = if prefix == "ANTIGEN_" { "" } else { "__" };
                    flatten(&format!("{prefix}{separator}{}", name.to_uppercase()), inner, into);
                }
            }
            serde_json::Value::Null | serde_json::Value::Object(_) => into.push((prefix.to_owned(), String::new())),
            serde_json::Value::String(text) => into.push((prefix.to_owned(), text.clone())),
            other => into.push((prefix.to_owned(), other.to_string())),
        }
    }

    #[test]
    fn the_example_file_lists_every_setting_with_its_default() {
        let example = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config.example.env")).unwrap();
        let mut settings = Vec::new();
        flatten("ANTIGEN_", &serde_json::to_value(Config::default()).unwrap(), &mut settings);
        for (name, default) in &settings {
            let shown = format!("#{name}={default}");
            let listed =
                |line: &str| line == shown || (name == "ANTIGEN_BASES" && line.starts_with("#ANTIGEN_BASES__"));
            assert!(example.lines().any(listed), "config.example.env lacks `{shown}`");
        }
        let listed = example.lines().filter(|line| line.starts_with("#ANTIGEN_")).count();
        assert_eq!(listed, settings.len(), "config.example.env lists a setting that does not exist");
    }

    #[test]
    fn a_misspelt_setting_is_refused_by_name() {
        let parsed = Figment::from(Serialized::defaults(Config::default()))
            .merge(Toml::string("[server]\nbnd = \"127.0.0.1:1\""))
            .extract::<Config>();
        assert!(parsed.unwrap_err().to_string().contains("bnd"));
    }

    #[test]
    fn the_default_address_is_not_reachable_from_outside() {
        assert!(Config::default().server.bind.ip().is_loopback());
    }
}
