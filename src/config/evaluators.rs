//! Public data that evaluators measure on: folders of the operator, read when a job asks for them.

use std::path::PathBuf;

use antigen_engine::spec::DataFolders;
use serde::{Deserialize, Serialize};

use super::JudgeConfig;

/// Folders of public data. Jobs that ask for what is not there are refused.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluatorsConfig {
    /// Folder of benchmarks: `boolq.jsonl`, `rte.jsonl`, `hellaswag.jsonl` and so on, one JSON object a line.
    pub benchmarks_dir: Option<PathBuf>,
    /// Folder of MT-Bench: `question.jsonl`, and for a judge `judge_prompts.jsonl` and
    /// `reference_answer_gpt4.jsonl`.
    pub mt_bench_dir: Option<PathBuf>,
    /// Who rates MT-Bench answers.
    pub judge: JudgeConfig,
}

impl EvaluatorsConfig {
    /// The folders as the engine takes them; an empty setting is none.
    pub fn folders(&self) -> DataFolders {
        let given = |dir: &Option<PathBuf>| dir.clone().filter(|dir| !dir.as_os_str().is_empty());
        DataFolders { benchmarks: given(&self.benchmarks_dir), mt_bench: given(&self.mt_bench_dir) }
    }
}
