//! `adapter_config.json`: what it says, and what of it we refuse.
//!
//! PEFT grows a field with every release, and a field may change the arithmetic. So the rule is turned round:
//! fields known to be harmless may hold anything, fields we implement are read, and **every other field must
//! be unset**.

use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use super::targets::TargetModules;
use crate::checkpoint::header::Dtype;
use crate::checkpoint::strict_json::Pairs;
use crate::error::{ModelError, Result};

const FILE_NAME: &str = "adapter_config.json";
/// Real files have about a kilobyte; long rank patterns reach some tens.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// Fields that say where an adapter came from, how it was trained or how its factors were first filled. None
/// of them changes what the stored factors compute.
const HARMLESS: &[&str] = &[
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "inference_mode",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
];

/// Fields that are read below.
const IMPLEMENTED: &[&str] = &[
    "alpha_pattern",
    "bias",
    "exclude_modules",
    "fan_in_fan_out",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "peft_type",
    "r",
    "rank_pattern",
    "target_modules",
    "task_type",
    "use_rslora",
];

/// The task of the base that an adapter is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeftTask {
    /// `CAUSAL_LM`.
    CausalLanguageModel,
    /// `SEQ_CLS`.
    SequenceClassifier,
}

/// One LoRA adapter's `adapter_config.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct PeftConfig {
    /// Rank of every adapted layer that `rank_pattern` does not name. At least 1.
    pub r: usize,
    /// Numerator of the scaling for every layer that `alpha_pattern` does not name.
    pub lora_alpha: f64,
    /// Divide alpha by `sqrt(r)` instead of `r` (rank-stabilised LoRA).
    pub use_rslora: bool,
    /// Ranks of single layers: pattern and rank, in file order, the first match counts.
    pub rank_pattern: Vec<(String, usize)>,
    /// Alphas of single layers, as `rank_pattern`.
    pub alpha_pattern: Vec<(String, f64)>,
    /// The layers that are adapted.
    pub target_modules: TargetModules,
    /// Those among them that are left out.
    pub exclude_modules: Option<TargetModules>,
    /// The task of the base; `None` where the file does not say.
    pub task: Option<PeftTask>,
    /// True when the file says that the base's weights lie `[in, out]`, as GPT-2's do; the factors lie the
    /// same way either way.
    pub fan_in_fan_out: bool,
    /// If set, only layers of these blocks are adapted.
    pub layers_to_transform: Option<Vec<usize>>,
    /// Element type of the stored factors; `load_adapter` sets it, `save_adapter` writes it. `F32`, `F16` or
    /// `Bf16`.
    pub dtype: Dtype,
    /// The file as it was read, written back unchanged: order and foreign fields included.
    pub(super) raw: String,
}

impl PeftConfig {
    /// A plain float32 LoRA configuration over a causal language model, as PEFT itself would write it.
    pub fn new(r: usize, lora_alpha: u32, target_modules: &[&str], base_name: &str) -> Self {
        Self::plain(r, lora_alpha, target_modules, base_name, PeftTask::CausalLanguageModel)
    }

    /// The same over a sequence classifier, whose head stays as it is.
    pub fn of_classifier(r: usize, lora_alpha: u32, target_modules: &[&str], base_name: &str) -> Self {
        Self::plain(r, lora_alpha, target_modules, base_name, PeftTask::SequenceClassifier)
    }

    fn plain(r: usize, lora_alpha: u32, target_modules: &[&str], base_name: &str, task: PeftTask) -> Self {
        let task_type = match task {
            PeftTask::CausalLanguageModel => "CAUSAL_LM",
            PeftTask::SequenceClassifier => "SEQ_CLS",
        };
        let raw = json!({
            "peft_type": "LORA", "task_type": task_type, "base_model_name_or_path": base_name,
            "r": r, "lora_alpha": lora_alpha, "lora_dropout": 0.0, "use_rslora": false, "use_dora": false,
            "bias": "none", "fan_in_fan_out": false, "init_lora_weights": true, "inference_mode": true,
            "modules_to_save": null, "rank_pattern": {}, "alpha_pattern": {}, "target_modules": target_modules,
        });
        Self {
            r,
            lora_alpha: f64::from(lora_alpha),
            use_rslora: false,
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            target_modules: TargetModules::List(target_modules.iter().map(ToString::to_string).collect()),
            exclude_modules: None,
            task: Some(task),
            fan_in_fan_out: false,
            layers_to_transform: None,
            dtype: Dtype::F32,
            raw: format!("{raw:#}\n"),
        }
    }

    /// Reads the text of an `adapter_config.json`; `path` is only named in errors.
    ///
    /// # Errors
    /// [`ModelError::Format`] for text that is no such file; [`ModelError::Unsupported`] for a field that
    /// asks for arithmetic we do not do, with the field's name.
    pub fn from_json(text: &str, path: &Path) -> Result<Self> {
        let fields: Pairs<Value> = serde_json::from_str(text)
            .map_err(|error| malformed(path, "a JSON object with PEFT's LoRA fields", error))?;
        if let Some(key) = fields.find_repeated_key() {
            return Err(malformed(path, "each field once", format_args!("`{key}` twice")));
        }
        let patterns: Patterns = serde_json::from_str(text)
            .map_err(|error| malformed(path, "`rank_pattern` and `alpha_pattern` as JSON objects", error))?;
        let fields = Fields { fields, path };
        fields.refuse_unsupported()?;
        Ok(Self {
            r: fields.rank("r", fields.value("r"))?,
            lora_alpha: fields.alpha("lora_alpha", fields.value("lora_alpha"))?,
            use_rslora: fields.flag("use_rslora")?,
            rank_pattern: fields.pattern("rank_pattern", patterns.rank_pattern, Fields::rank)?,
            alpha_pattern: fields.pattern("alpha_pattern", patterns.alpha_pattern, Fields::alpha)?,
            target_modules: fields.modules("target_modules")?.ok_or_else(|| {
                malformed(path, "`target_modules` as a list, a regular expression or \"all-linear\"", "nothing")
            })?,
            exclude_modules: fields.modules("exclude_modules")?,
            task: fields.task()?,
            fan_in_fan_out: fields.flag("fan_in_fan_out")?,
            layers_to_transform: fields.layers()?,
            dtype: Dtype::F32,
            raw: text.to_owned(),
        })
    }
}

/// Opens the `adapter_config.json` of an adapter folder.
///
/// # Errors
/// [`ModelError::Io`] when it cannot be read, otherwise those of [`PeftConfig::from_json`].
pub fn open_adapter_config(dir: &Path) -> Result<PeftConfig> {
    let path = dir.join(FILE_NAME);
    let text = crate::checkpoint::read_text(&path, MAX_CONFIG_BYTES)?;
    PeftConfig::from_json(&text, &path)
}

/// Writes the configuration as it was read.
pub(super) fn write_adapter_config(config: &PeftConfig, dir: &Path) -> Result<()> {
    let path = dir.join(FILE_NAME);
    fs::write(&path, &config.raw).map_err(ModelError::io(path))
}

fn malformed(path: &Path, expected: &str, found: impl ToString) -> ModelError {
    ModelError::Format { path: path.to_owned(), expected: expected.to_owned(), found: found.to_string() }
}

fn unsupported(what: impl Into<String>, instead: &str) -> ModelError {
    ModelError::Unsupported { what: what.into(), instead: instead.to_owned() }
}

/// True when a field holds what PEFT writes when nobody asked for it.
fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    }
}

/// The two pattern maps in file order: PEFT takes the first match, so order is meaning, and `Value` sorts.
#[derive(Deserialize)]
struct Patterns {
    rank_pattern: Option<Pairs<Value>>,
    alpha_pattern: Option<Pairs<Value>>,
}

struct Fields<'a> {
    fields: Pairs<Value>,
    path: &'a Path,
}

impl Fields<'_> {
    fn value(&self, name: &str) -> &Value {
        self.fields.get(name).unwrap_or(&Value::Null)
    }

    fn wrong(&self, name: &str, expected: &str, found: &Value) -> ModelError {
        let shown: String = found.to_string().chars().take(60).collect();
        malformed(self.path, &format!("`{name}` to be {expected}"), shown)
    }

    fn refuse_unsupported(&self) -> Result<()> {
        match self.value("peft_type").as_str() {
            Some("LORA") => {}
            Some(other) => return Err(unsupported(format!("peft_type {other}"), "submit a LORA adapter")),
            None => return Err(self.wrong("peft_type", "\"LORA\"", self.value("peft_type"))),
        }
        for (name, value) in &self.fields.0 {
            let known = HARMLESS.contains(&name.as_str()) || IMPLEMENTED.contains(&name.as_str());
            if !known && !is_unset(value) {
                return Err(unsupported(name, "it changes what the adapter computes; train the adapter without it"));
            }
        }
        if !matches!(self.value("bias"), Value::Null) && self.value("bias") != "none" {
            return Err(unsupported(format!("bias {}", self.value("bias")), "train the adapter with bias \"none\""));
        }
        self.refuse_changed_base()
    }

    fn task(&self) -> Result<Option<PeftTask>> {
        match self.value("task_type") {
            Value::Null => Ok(None),
            task if task == "CAUSAL_LM" => Ok(Some(PeftTask::CausalLanguageModel)),
            task if task == "SEQ_CLS" => Ok(Some(PeftTask::SequenceClassifier)),
            other => Err(unsupported(
                format!("task_type {other}"),
                "submit an adapter of a causal language model (CAUSAL_LM) or a sequence classifier (SEQ_CLS)",
            )),
        }
    }

    /// Some ways to fill the factors move part of the base into them: PEFT then changes the base again on
    /// loading.
    fn refuse_changed_base(&self) -> Result<()> {
        match self.value("init_lora_weights") {
            Value::Null | Value::Bool(_) => Ok(()),
            Value::String(way) if ["gaussian", "orthogonal", "eva"].contains(&way.as_str()) => Ok(()),
            way => Err(unsupported(
                format!("init_lora_weights {way}"),
                "it changes the base as well; convert the adapter to plain LoRA before saving",
            )),
        }
    }

    fn rank(&self, name: &str, value: &Value) -> Result<usize> {
        let rank = value.as_u64().and_then(|rank| usize::try_from(rank).ok()).filter(|rank| *rank > 0);
        rank.ok_or_else(|| self.wrong(name, "a whole number, at least 1", value))
    }

    fn alpha(&self, name: &str, value: &Value) -> Result<f64> {
        value.as_f64().filter(|alpha| alpha.is_finite()).ok_or_else(|| self.wrong(name, "a finite number", value))
    }

    fn flag(&self, name: &str) -> Result<bool> {
        match self.value(name) {
            Value::Null => Ok(false),
            Value::Bool(flag) => Ok(*flag),
            other => Err(self.wrong(name, "true or false", other)),
        }
    }

    fn pattern<T>(
        &self,
        name: &str,
        pairs: Option<Pairs<Value>>,
        read: fn(&Self, &str, &Value) -> Result<T>,
    ) -> Result<Vec<(String, T)>> {
        let pairs = pairs.unwrap_or_default();
        if let Some(key) = pairs.find_repeated_key() {
            return Err(malformed(self.path, &format!("each key of `{name}` once"), format_args!("`{key}` twice")));
        }
        pairs.0.into_iter().map(|(key, value)| Ok((key, read(self, name, &value)?))).collect()
    }

    fn modules(&self, name: &str) -> Result<Option<TargetModules>> {
        let value = self.value(name);
        if is_unset(value) {
            return Ok(None);
        }
        let expected = "a list of names, a regular expression or \"all-linear\"";
        match value {
            Value::String(text) if text.eq_ignore_ascii_case("all-linear") => Ok(Some(TargetModules::AllLinear)),
            Value::String(pattern) => Ok(Some(TargetModules::Regex(pattern.clone()))),
            Value::Array(items) => {
                let names = items.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>();
                names.map(|names| Some(TargetModules::List(names))).ok_or_else(|| self.wrong(name, expected, value))
            }
            other => Err(self.wrong(name, expected, other)),
        }
    }

    /// `layers_to_transform`, a number or a list. PEFT reads the block's number out of the module name; with
    /// the pattern unset or `layers` that is the block index of every family here.
    fn layers(&self) -> Result<Option<Vec<usize>>> {
        let pattern = self.value("layers_pattern");
        if !is_unset(pattern) && *pattern != json!("layers") && *pattern != json!(["layers"]) {
            return Err(unsupported(format!("layers_pattern {pattern}"), "leave it unset"));
        }
        let value = self.value("layers_to_transform");
        let one = |value: &Value| value.as_u64().and_then(|layer| usize::try_from(layer).ok());
        let layers = match value {
            _ if is_unset(value) => return Ok(None),
            Value::Array(items) => items.iter().map(one).collect::<Option<Vec<_>>>(),
            single => one(single).map(|layer| vec![layer]),
        };
        layers.map(Some).ok_or_else(|| self.wrong("layers_to_transform", "block numbers", value))
    }
}
