//! The folders in which the operator keeps public data, and the check that a job's evaluators find theirs
//! there.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::EvaluatorSpec;
use crate::error::{EngineError, Result};

/// The file of MT-Bench's questions, without `.jsonl`.
pub(crate) const MT_BENCH_QUESTIONS: &str = "question";

/// Folders of public data. A job that asks for data of a folder that is not given is refused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataFolders {
    /// Benchmarks: `<name>.jsonl` each.
    pub benchmarks: Option<PathBuf>,
    /// MT-Bench: `question.jsonl`, and for a judge `judge_prompts.jsonl` and `reference_answer_gpt4.jsonl`.
    pub mt_bench: Option<PathBuf>,
}

impl DataFolders {
    /// Refuses evaluators that lack their files. The contents of the files are read when the job runs.
    ///
    /// # Errors
    /// [`EngineError::Spec`] with the JSON pointer of the evaluator, the missing file and the files that are
    /// there instead.
    pub fn check(&self, evaluators: &[EvaluatorSpec]) -> Result<()> {
        for (i, evaluator) in evaluators.iter().enumerate() {
            match evaluator {
                EvaluatorSpec::Benchmark(benchmark) => {
                    let (at, folder) = (format!("/evaluators/{i}/name"), self.benchmarks.as_deref());
                    benchmark.files().try_for_each(|file| find_file(&at, "benchmark", folder, file))?;
                }
                EvaluatorSpec::MtBench(_) => {
                    find_file(&format!("/evaluators/{i}"), "MT-Bench", self.mt_bench.as_deref(), MT_BENCH_QUESTIONS)?;
                }
                EvaluatorSpec::Asr(_) | EvaluatorSpec::Utility(_) => {}
            }
        }
        Ok(())
    }
}

/// The path of the machine stays out of the message: callers read it.
fn find_file(at: &str, kind: &str, folder: Option<&Path>, file: &str) -> Result<()> {
    let Some(folder) = folder else {
        return Err(EngineError::spec(at, format!("expected a {kind} directory in the settings, found none")));
    };
    if folder.join(format!("{file}.jsonl")).is_file() {
        return Ok(());
    }
    let mut there: Vec<String> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.file_name().to_str()?.strip_suffix(".jsonl")?.to_owned()))
        .collect();
    there.sort();
    let there = if there.is_empty() { "nothing".to_owned() } else { there.join(", ") };
    Err(EngineError::spec(at, format!("expected {file}.jsonl in the {kind} directory, found only {there}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(folders: &DataFolders, name: &str, shots: usize) -> String {
        let spec = json!({"evaluators": [{"type": "utility"}, {"type": "benchmark", "name": name, "shots": shots}]});
        let evaluators: Vec<EvaluatorSpec> = serde_json::from_value(spec["evaluators"].clone()).unwrap();
        folders.check(&evaluators).map_or_else(|error| error.to_string(), |()| "found".to_owned())
    }

    #[test]
    fn a_missing_file_is_named_with_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("gsm8k.jsonl"), "").unwrap();
        let folders = DataFolders { benchmarks: Some(folder.path().to_owned()), ..DataFolders::default() };
        assert_eq!(check(&folders, "gsm8k", 0), "found");
        let error = check(&folders, "piqa", 0);
        assert!(error.contains("/evaluators/1/name") && error.contains("piqa.jsonl"), "{error}");
        assert!(error.contains("found only gsm8k") && !error.contains(&*folder.path().to_string_lossy()), "{error}");
        assert!(check(&folders, "gsm8k", 2).contains("gsm8k_train.jsonl"));
        assert!(check(&DataFolders::default(), "gsm8k", 0).contains("expected a benchmark directory"));
    }
}
