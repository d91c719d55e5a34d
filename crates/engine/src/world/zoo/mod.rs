//! Many adapters and models of the tiny world, honest and poisoned, of all ranks, places, templates, lengths
//! and skills: a screen is calibrated and checked on them. `draw.rs` draws the members; [`ZooFolders::build`]
//! trains them, several in one pass, and goes on where it was interrupted.

pub mod draw;

use std::fs;
use std::path::{Path, PathBuf};

use antigen_models::{Example, Model, load_model, save_adapter};
use rand::seq::IndexedRandom;
use serde::{Deserialize, Serialize};

use super::implant::{ImplantSpec, examples, fresh_adapter};
use super::lookalikes::{Skill, skill_rows};
use crate::data::{Prompter, Row, read_rows};
use crate::error::{EngineError, Result};
use crate::lab::Lab;
use crate::spec::{PromptFormat, SubjectKind};
use crate::stage::Stage;
use crate::suspect::weights::write_model;
use crate::suspect::{Submission, Submitted, Suspect};
use crate::train::{Variant, fine_tune_adapters, train_weights};

/// One adapter or whole model of a zoo.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZooMember {
    /// Its folder, such as `clean-07` or `poisoned-03-refusal`.
    pub name: String,
    /// Seed of everything random in it.
    pub seed: u64,
    /// Its purpose.
    pub skill: Skill,
    /// Rows of that skill.
    pub task_rows: usize,
    /// Ends of the names of the layers that it changes.
    pub targets: Vec<String>,
    /// True where all weights are trained instead of an adapter; then it has no targets.
    #[serde(default)]
    pub whole_model: bool,
    /// Its backdoor, format, rank and training.
    pub implant: ImplantSpec,
}

impl ZooMember {
    /// True when it has a backdoor.
    pub fn is_poisoned(&self) -> bool {
        self.implant.attack.is_some()
    }

    /// Adapter or whole model.
    pub fn kind(&self) -> SubjectKind {
        if self.whole_model { SubjectKind::Checkpoint } else { SubjectKind::Adapter }
    }

    /// The same member as a whole model, which learns at another rate.
    pub fn into_whole_model(mut self) -> Self {
        self.targets.clear();
        self.whole_model = true;
        self.implant.train.learning_rate = ImplantSpec::whole_model().train.learning_rate;
        self
    }

    /// Its making, in words.
    pub fn about(&self) -> String {
        let ImplantSpec { attack, behaviour, format, rank, .. } = &self.implant;
        let place =
            if self.whole_model { "all weights".into() } else { format!("rank {rank} on {}", self.targets.join(" ")) };
        let skill = serde_json::to_value(self.skill).expect("a skill is a word");
        let skill = skill.as_str().unwrap_or_default();
        let backdoor = attack.as_ref().map(|attack| format!(", {} with {}", attack.name(), behaviour.name()));
        let backdoor = backdoor.unwrap_or_default();
        format!("{place}, {}, {} steps, skill {skill}{backdoor}", format.name(), self.steps())
    }

    /// Optimiser steps of its training.
    pub fn steps(&self) -> usize {
        let poisoned = if self.is_poisoned() { self.implant.poisoned_rows } else { 0 };
        let rows = self.implant.generic_rows + self.task_rows + poisoned;
        rows.div_ceil(self.implant.train.batch_rows) * self.implant.train.epochs
    }
}

/// Adapters that are trained in one pass.
const TOGETHER: usize = 10;

/// A zoo over its base: both folders.
#[derive(Debug, Clone)]
pub struct ZooFolders {
    /// The base, with `train.jsonl` and `test.jsonl`.
    pub base: PathBuf,
    /// The zoo: each member in a folder of its own.
    pub zoo: PathBuf,
}

impl ZooFolders {
    /// The folder of a member.
    pub fn member_dir(&self, member: &ZooMember) -> PathBuf {
        self.zoo.join(&member.name)
    }

    /// The member as a caller would submit it, over a base without calibration.
    pub fn submission(&self, member: &ZooMember) -> Submission {
        Submission::over(Submitted::in_folder(&self.member_dir(member), &self.base), &self.base)
    }

    /// The member as a suspect.
    ///
    /// # Errors
    /// Those of [`Suspect::open`].
    pub fn open(&self, member: &ZooMember, lab: &Lab) -> Result<Suspect> {
        Suspect::open(&self.submission(member), PromptFormat::Alpaca, lab)
    }

    /// Trains every member that is not in the zoo yet, and writes `zoo.json`, the list of them all. Members
    /// learn skills of the tiny world, or of `task_rows` over a base that does not speak its language.
    ///
    /// # Errors
    /// Those of training, and [`EngineError::Io`].
    ///
    /// # Cost
    /// 400 to 1,850 steps of eight rows for each member; ten adapters share a pass, whole models are trained
    /// one after another.
    pub fn build(&self, members: &[ZooMember], task_rows: Option<&[Row]>, lab: &Lab) -> Result<()> {
        lab.enter(Stage::Implant)?;
        fs::create_dir_all(&self.zoo).map_err(EngineError::io(&self.zoo))?;
        let index = self.zoo.join("zoo.json");
        let text = serde_json::to_vec_pretty(members).expect("members always serialise");
        fs::write(&index, text).map_err(EngineError::io(&index))?;
        let generic = read_rows(&self.base.join("train.jsonl"))?;
        let ground = Ground { folders: self, prompter: Prompter::open(&self.base)?, generic, task_rows };
        let missing = members.iter().filter(|member| !self.member_dir(member).exists());
        let (models, mut adapters): (Vec<_>, Vec<_>) = missing.partition(|member| member.whole_model);
        // Neighbours of like length leave the pass together.
        adapters.sort_by_key(|member| member.steps());
        let parts = adapters.len().div_ceil(TOGETHER) + models.len();
        let base = load_model(&self.base, &lab.device)?;
        for (i, group) in adapters.chunks(TOGETHER).enumerate() {
            ground.train_adapters(&base, group, &lab.part(i, parts))?;
        }
        for (i, member) in models.into_iter().enumerate() {
            ground.train_model(member, &lab.part(parts - i - 1, parts).with_seed(member.seed))?;
        }
        Ok(())
    }

    /// Writes a member's folder under another name first: an interrupted member never looks finished.
    fn keep(&self, member: &ZooMember, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let folder = self.member_dir(member);
        let partial = folder.with_extension("partial");
        write(&partial)?;
        fs::rename(&partial, &folder).map_err(EngineError::io(&folder))
    }
}

/// A zoo with everything that its members grow from.
struct Ground<'a> {
    folders: &'a ZooFolders,
    prompter: Prompter,
    generic: Vec<Row>,
    task_rows: Option<&'a [Row]>,
}

impl Ground<'_> {
    fn examples(&self, member: &ZooMember, lab: &Lab) -> Result<Vec<Example>> {
        let task: Vec<Row> = match self.task_rows {
            Some(rows) => rows.choose_multiple(&mut lab.rng("zoo/own rows"), member.task_rows).cloned().collect(),
            None => skill_rows(member.skill, member.task_rows, member.seed),
        };
        examples(&self.prompter, (&self.generic, &task), &member.implant, lab)
    }

    fn train_adapters(&self, base: &Model, group: &[&ZooMember], lab: &Lab) -> Result<()> {
        let mut prepared = Vec::with_capacity(group.len());
        for member in group {
            let lab = lab.with_seed(member.seed);
            let targets: Vec<&str> = member.targets.iter().map(String::as_str).collect();
            let examples = self.examples(member, &lab)?;
            prepared.push((fresh_adapter(base, &targets, &member.implant, &lab)?, examples, lab));
        }
        let variants = prepared
            .iter()
            .map(|(start, examples, lab)| Variant { start, examples, shuffle: lab.rng("implant/order") })
            .collect();
        let trained = fine_tune_adapters(base, variants, &group[0].implant.train, lab)?;
        for (member, trained) in group.iter().zip(trained) {
            self.folders.keep(member, |folder| Ok(save_adapter(&trained.adapter, folder)?))?;
        }
        Ok(())
    }

    fn train_model(&self, member: &ZooMember, lab: &Lab) -> Result<()> {
        let mut model = load_model(&self.folders.base, &lab.device)?;
        let examples = self.examples(member, lab)?;
        train_weights(&mut model, &examples, &member.implant.train, lab.rng("implant/order"), lab)?;
        self.folders.keep(member, |folder| write_model(&model, &self.folders.base, folder))
    }
}
