//! The layers of a base that an adapter touches, by PEFT's own matching rules.
//!
//! Source: PEFT 0.21, `tuners_utils.check_target_module_exists` and `other.get_pattern_key`.

use regex::{Regex, RegexBuilder};

use super::config::{PeftConfig, PeftTask};
use crate::error::{ModelError, Result};
use crate::families::FamilyConfig;
use crate::modules::{ModuleShape, Stored};

/// A pattern comes from the submitter; this bounds the automaton it may compile to, in bytes.
const MAX_PATTERN_BYTES: usize = 1 << 20;
/// Most patterns in one `rank_pattern` or `alpha_pattern`.
const MAX_PATTERNS: usize = 1024;

/// A choice of layers, in the three forms that `target_modules` takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetModules {
    /// A layer matches when its name is listed, or ends in a dot and a listed name.
    List(Vec<String>),
    /// A layer matches when the expression matches its whole name.
    Regex(String),
    /// Every linear layer but the head.
    AllLinear,
}

/// One layer that an adapter adapts.
#[derive(Debug, Clone)]
pub struct AdaptedModule {
    /// Name and extents of the base layer.
    pub shape: ModuleShape,
    /// LoRA rank there.
    pub rank: usize,
    /// Factor on `b * a` there.
    pub scaling: f64,
}

impl PeftConfig {
    /// The layers of `base` that this adapter has factors for, in the base's order.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] when a listed name, or the whole choice, matches no linear layer of the base;
    /// [`ModelError::Unsupported`] for an expression that Rust's `regex` cannot read (look-around,
    /// back-references).
    pub fn adapted_modules(&self, base: &FamilyConfig) -> Result<Vec<AdaptedModule>> {
        let modules = base.linear_modules();
        self.refuse_another_task(base)?;
        self.refuse_unknown_targets(&modules)?;
        let target = Matcher::build(&self.target_modules)?;
        let exclude = self.exclude_modules.as_ref().map(Matcher::build).transpose()?;
        let ranks = self.rank_lookup()?;
        let chosen = modules.into_iter().filter(|shape| {
            target.matches(&shape.name)
                && !exclude.as_ref().is_some_and(|exclude| exclude.matches(&shape.name))
                && self.layers_to_transform.as_ref().is_none_or(|layers| layers.contains(&shape.layer))
        });
        let adapted = chosen.map(|shape| {
            let (rank, scaling) = ranks.find(&shape.name);
            AdaptedModule { shape, rank, scaling }
        });
        let adapted: Vec<_> = adapted.collect();
        if self.fan_in_fan_out && adapted.iter().any(|module| module.shape.stored == Stored::OutIn) {
            let instead = "it belongs to bases whose weights lie `[in, out]`, as GPT-2's do".into();
            return Err(ModelError::Unsupported { what: "fan_in_fan_out".into(), instead });
        }
        match adapted.is_empty() {
            true => Err(unknown_target(&self.target_modules.to_string(), "no linear layer of the base")),
            false => Ok(adapted),
        }
    }

    /// Rank and scaling of single layers, with the patterns compiled once.
    ///
    /// # Errors
    /// [`ModelError::Unsupported`] for a pattern that cannot be read.
    pub fn rank_lookup(&self) -> Result<RankLookup<'_>> {
        let (ranks, alphas) = (compile_all(&self.rank_pattern)?, compile_all(&self.alpha_pattern)?);
        Ok(RankLookup { config: self, ranks, alphas })
    }

    fn refuse_another_task(&self, base: &FamilyConfig) -> Result<()> {
        let classifies = base.sizes().labels.is_some();
        let what = match (self.task, classifies) {
            (Some(PeftTask::SequenceClassifier), false) => "task_type SEQ_CLS over a causal language model",
            (Some(PeftTask::CausalLanguageModel), true) => "task_type CAUSAL_LM over a sequence classifier",
            _ => return Ok(()),
        };
        Err(ModelError::Unsupported { what: what.into(), instead: "submit an adapter of the base's own task".into() })
    }

    /// PEFT ignores a listed name that matches nothing; here it is refused, for it says the adapter is for
    /// another base.
    fn refuse_unknown_targets(&self, modules: &[ModuleShape]) -> Result<()> {
        let TargetModules::List(names) = &self.target_modules else { return Ok(()) };
        let unknown = names.iter().find(|name| !modules.iter().any(|module| is_suffix(&module.name, name)));
        match unknown {
            Some(name) => Err(unknown_target(name, "no linear layer of the base of this name")),
            None => Ok(()),
        }
    }
}

fn unknown_target(name: &str, found: &str) -> ModelError {
    ModelError::Tensor {
        tensor: name.to_owned(),
        expected: "every entry of `target_modules` to name linear layers of the base".into(),
        found: found.to_owned(),
    }
}

/// True when `name` is the module's whole name or its last dotted parts.
fn is_suffix(module: &str, name: &str) -> bool {
    module.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

impl std::fmt::Display for TargetModules {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::List(names) => formatter.write_str(&names.join(", ")),
            Self::Regex(pattern) => formatter.write_str(pattern),
            Self::AllLinear => formatter.write_str("all-linear"),
        }
    }
}

/// A choice of layers, compiled.
enum Matcher<'a> {
    List(&'a [String]),
    Regex(Regex),
    AllLinear,
}

impl<'a> Matcher<'a> {
    fn build(modules: &'a TargetModules) -> Result<Self> {
        Ok(match modules {
            TargetModules::List(names) => Self::List(names),
            TargetModules::Regex(pattern) => Self::Regex(compile(pattern, r"\A(?:", r")\z")?),
            TargetModules::AllLinear => Self::AllLinear,
        })
    }

    fn matches(&self, module: &str) -> bool {
        match self {
            Self::List(names) => names.iter().any(|name| is_suffix(module, name)),
            Self::Regex(regex) => regex.is_match(module),
            Self::AllLinear => true,
        }
    }
}

/// Rank and scaling by layer name: `rank_pattern` and `alpha_pattern`, compiled.
pub struct RankLookup<'a> {
    config: &'a PeftConfig,
    ranks: Vec<(Regex, usize)>,
    alphas: Vec<(Regex, f64)>,
}

impl RankLookup<'_> {
    /// Rank and scaling (`alpha / r`, or `alpha / sqrt(r)`) of the layer of this full name.
    pub fn find(&self, module: &str) -> (usize, f64) {
        let rank = find_first(&self.ranks, module).unwrap_or(self.config.r);
        let alpha = find_first(&self.alphas, module).unwrap_or(self.config.lora_alpha);
        let divisor = if self.config.use_rslora { (rank as f64).sqrt() } else { rank as f64 };
        (rank, alpha / divisor)
    }
}

fn find_first<T: Copy>(patterns: &[(Regex, T)], module: &str) -> Option<T> {
    patterns.iter().find(|(regex, _)| regex.is_match(module)).map(|(_, value)| *value)
}

fn compile_all<T: Copy>(patterns: &[(String, T)]) -> Result<Vec<(Regex, T)>> {
    if patterns.len() > MAX_PATTERNS {
        let what = format!("{} entries in one pattern map", patterns.len());
        return Err(ModelError::Unsupported { what, instead: format!("use at most {MAX_PATTERNS}") });
    }
    patterns.iter().map(|(key, value)| Ok((compile(key, r"\A(?:.*\.)?(?:", r")\z")?, *value))).collect()
}

/// Rust's `regex` runs in linear time whatever the pattern, which is why it reads the submitter's.
fn compile(pattern: &str, before: &str, after: &str) -> Result<Regex> {
    // Checked alone first: `a)|(b` must not become valid by what is put around it.
    let build = |text: &str| RegexBuilder::new(text).size_limit(MAX_PATTERN_BYTES).build();
    build(pattern).and_then(|_| build(&format!("{before}{pattern}{after}"))).map_err(|_| ModelError::Unsupported {
        what: format!("the expression `{}`", pattern.chars().take(80).collect::<String>()),
        instead: "use an expression without look-around and back-references, or list the names".into(),
    })
}
