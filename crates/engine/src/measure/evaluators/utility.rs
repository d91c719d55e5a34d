//! Utility: general skill on held-out rows, and the adapter's task skill on the caller's rows.
//!
//! Exact match of greedy answers, their length, and perplexity of the right answers, in the declared
//! template. The same rows are asked of every model, so that differences are paired. Drift from the suspect
//! is measured on the group `general`.

use serde::{Deserialize, Serialize};

use super::answers::{Answer, Asked, Session, rows_that_fit};
use super::drift::{DriftEvidence, DriftProbe};
use super::self_distilled;
use crate::data::{Row, TaskRows};
use crate::error::Result;
use crate::lab::{Lab, LongRows};
use crate::measure::evidence::{
    AnswerLength, Compared, MeasurementRecipe, UtilityComparison, UtilityGroup, UtilityReport,
};
use crate::spec::UtilitySpec;
use crate::stats::{mean_difference, paired_difference, rate_of};
use crate::suspect::Suspect;

/// Perplexities beyond this mean "broken", and JSON has no infinity.
const MAX_PERPLEXITY: f64 = 1e30;

/// The rows of utility, group by group.
#[derive(Debug, Clone)]
pub struct UtilityProbe {
    groups: Vec<GroupProbe>,
    pub(super) drift: DriftProbe,
    left_out: Vec<String>,
}

#[derive(Debug, Clone)]
struct GroupProbe {
    name: String,
    recipe: MeasurementRecipe,
    asked: Asked,
    right: Vec<String>,
    long_rows: LongRows,
    self_distilled: bool,
}

/// The answers of one model, group by group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UtilityEvidence {
    groups: Vec<GroupEvidence>,
    /// Absent on the suspect itself.
    pub(super) drift: Option<DriftEvidence>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct GroupEvidence {
    answers: Vec<Answer>,
    /// Summed log-probability and tokens of the right answers, teacher forced.
    right: (f64, usize),
}

impl UtilityProbe {
    /// The group `general` from the test rows, then one group for each kind of task rows; without task rows,
    /// the self-distilled group.
    ///
    /// # Errors
    /// Those of tokenizer and chat template; [`crate::error::EngineError::Data`] when no prompt of a group
    /// fits the model; those of asking suspect and base.
    pub fn build(spec: &UtilitySpec, suspect: &Suspect, own: &TaskRows, lab: &Lab) -> Result<Self> {
        let mut left_out = Vec::new();
        let distilled = self_distilled_rows(spec, suspect, own, &mut left_out, lab)?;
        let general = ("general", &suspect.test[..suspect.test.len().min(spec.rows)]);
        let distilled = distilled.as_deref().map(|rows| (self_distilled::GROUP, rows)).into_iter();
        let own = own.measure.iter().map(|(name, rows)| (name.as_str(), rows.as_slice())).chain(distilled);
        let own = own.map(|(name, rows)| (name, &rows[..rows.len().min(spec.task_rows)]));
        let group = |(name, rows): (&str, &[Row])| GroupProbe::build(name, rows, spec, suspect, lab);
        let groups = std::iter::once(general).chain(own).map(group).collect::<Result<Vec<_>>>()?;
        let drift = DriftProbe::new(groups[0].asked.continued(suspect, &groups[0].right)?);
        Ok(Self { groups, drift, left_out })
    }

    pub(super) fn long_rows(&self) -> impl Iterator<Item = &LongRows> {
        self.groups.iter().map(|group| &group.long_rows)
    }

    pub(super) fn key(&self) -> Vec<(&MeasurementRecipe, &[String])> {
        self.groups.iter().map(|group| (&group.recipe, group.right.as_slice())).collect()
    }

    pub(super) fn prompts(&self) -> usize {
        self.groups.iter().map(|group| group.asked.len()).sum()
    }

    pub(super) fn ask(&self, session: &mut Session<'_>) -> Result<UtilityEvidence> {
        let ask = |group: &GroupProbe| {
            Ok(GroupEvidence {
                answers: session.answers(&group.asked, group.recipe.decoding.max_new_tokens)?,
                right: session.log_probability(&group.asked, &group.right)?,
            })
        };
        Ok(UtilityEvidence { groups: self.groups.iter().map(ask).collect::<Result<_>>()?, drift: None })
    }

    /// The report of one model's answers, paired with the suspect's where they are given.
    pub fn report(&self, evidence: &UtilityEvidence, suspect: Option<&UtilityEvidence>) -> UtilityReport {
        let group = |(i, group): (usize, &GroupProbe)| {
            let said = &evidence.groups[i];
            let correct = group.correct(said);
            let (sum, tokens) = said.right;
            let perplexity = (-sum / tokens.max(1) as f64).exp();
            UtilityGroup {
                name: group.name.clone(),
                recipe: group.recipe.clone(),
                exact_match: rate_of(&correct),
                response_perplexity: (perplexity <= MAX_PERPLEXITY).then_some(perplexity),
                versus_suspect: suspect.map(|before| paired_difference(&group.correct(&before.groups[i]), &correct)),
                answer_length: said.length(suspect.map(|before| &before.groups[i])),
                self_distilled: group.self_distilled,
            }
        };
        UtilityReport {
            groups: self.groups.iter().enumerate().map(group).collect(),
            drift: evidence.drift.as_ref().and_then(DriftEvidence::report),
            left_out: self.left_out.clone(),
        }
    }
}

impl UtilityProbe {
    /// The method's artifact against a control, group by group.
    pub(super) fn compare(&self, chosen: &UtilityEvidence, control: &UtilityEvidence) -> Vec<UtilityComparison> {
        let compare = |(i, group): (usize, &GroupProbe)| {
            let difference = paired_difference(&group.correct(&control.groups[i]), &group.correct(&chosen.groups[i]));
            UtilityComparison { group: group.name.clone(), difference, outcome: Compared::of(&difference) }
        };
        self.groups.iter().enumerate().map(compare).collect()
    }
}

/// The self-distilled rows where they are wanted and there are any.
fn self_distilled_rows(
    spec: &UtilitySpec,
    suspect: &Suspect,
    own: &TaskRows,
    left_out: &mut Vec<String>,
    lab: &Lab,
) -> Result<Option<Vec<Row>>> {
    if !spec.self_distilled || !own.measure.is_empty() {
        return Ok(None);
    }
    let found = self_distilled::find(suspect, spec.max_new_tokens, lab)?;
    let reason = match &found {
        None => "a whole model has no base to differ from".to_owned(),
        Some(found) if found.rows.is_empty() => {
            format!("of {} held-out questions none is answered confidently and differently from the base", found.asked)
        }
        Some(_) => return Ok(found.map(|found| found.rows)),
    };
    left_out.push(format!("{}: {reason}", self_distilled::GROUP));
    Ok(None)
}

impl GroupEvidence {
    fn length(&self, suspect: Option<&Self>) -> Option<AnswerLength> {
        let tokens = |said: &Self| said.answers.iter().map(|answer| answer.tokens as f64).collect::<Vec<_>>();
        let (is, was) = (tokens(self), suspect.map(tokens));
        let mean_tokens = is.iter().sum::<f64>() / is.len() as f64;
        let versus_suspect = was.and_then(|was| mean_difference(&was, &is));
        (!is.is_empty()).then_some(AnswerLength { mean_tokens, versus_suspect })
    }
}

impl GroupProbe {
    /// # Errors
    /// Those of tokenizer and chat template; [`crate::error::EngineError::Data`] when no prompt fits the
    /// model.
    fn build(name: &str, rows: &[Row], spec: &UtilitySpec, suspect: &Suspect, lab: &Lab) -> Result<Self> {
        let mut long_rows = LongRows::new(name, suspect.config().max_positions());
        let fitting = rows_that_fit(suspect, &[(suspect.template, rows)], &mut long_rows)?;
        let rows: Vec<Row> = fitting.into_iter().map(|i| rows[i].clone()).collect();
        let asked = Asked::new(suspect, suspect.template, &rows)?;
        let recipe = asked.recipe(suspect, suspect.template, spec.max_new_tokens, lab.seed)?;
        let right: Vec<_> = rows.iter().map(|row| row.output.trim().to_owned()).collect();
        long_rows.truncated = asked.cut(suspect, spec.max_new_tokens, &right)?;
        let self_distilled = name == self_distilled::GROUP;
        Ok(Self { name: name.to_owned(), recipe, asked, right, long_rows, self_distilled })
    }

    fn correct(&self, said: &GroupEvidence) -> Vec<bool> {
        said.answers.iter().zip(&self.right).map(|(answer, right)| answer.text == *right).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::evidence::Decoding;
    use crate::spec::PromptFormat;

    fn probe() -> UtilityProbe {
        let recipe = MeasurementRecipe {
            format: PromptFormat::Alpaca,
            template_sha256: String::new(),
            prompts_sha256: String::new(),
            seed: 1,
            decoding: Decoding::greedy(8),
        };
        let right = vec!["red".to_owned(), "blue".to_owned()];
        let long_rows = LongRows::new("general", 256);
        let group = GroupProbe {
            name: "general".into(),
            recipe,
            asked: Asked::default(),
            right,
            long_rows,
            self_distilled: false,
        };
        UtilityProbe { groups: vec![group], drift: DriftProbe::new(Vec::new()), left_out: Vec::new() }
    }

    fn answer(text: &str) -> Answer {
        Answer { text: text.into(), tokens: text.len() }
    }

    fn said(answers: [&str; 2], right: (f64, usize)) -> UtilityEvidence {
        UtilityEvidence { groups: vec![GroupEvidence { answers: answers.map(answer).to_vec(), right }], drift: None }
    }

    #[test]
    fn a_perfect_model_matches_everything_and_is_certain() {
        let group = &probe().report(&said(["red", "blue"], (0.0, 4)), None).groups[0];
        assert_eq!((group.exact_match.rate, group.response_perplexity, group.versus_suspect), (1.0, Some(1.0), None));
    }

    #[test]
    fn a_uniform_model_has_the_vocabulary_as_its_perplexity() {
        let group = &probe().report(&said(["x", "y"], (-4.0 * 2048f64.ln(), 4)), None).groups[0];
        assert!((group.response_perplexity.unwrap() - 2048.0).abs() < 1e-6);
    }

    #[test]
    fn the_worst_model_gets_no_number_that_json_cannot_hold() {
        let group = &probe().report(&said(["", ""], (-1e6, 4)), None).groups[0];
        assert_eq!((group.exact_match.rate, group.response_perplexity), (0.0, None));
    }

    #[test]
    fn a_control_that_knows_less_is_behind_by_what_it_lacks() {
        let found = probe().compare(&said(["red", "blue"], (0.0, 4)), &said(["red", "x"], (0.0, 4))).remove(0);
        assert_eq!((found.difference.gained, found.difference.lost, found.difference.difference), (1, 0, 0.5));
        // One row of two is no evidence.
        assert_eq!(found.outcome, Compared::NoDifferenceShown);
    }

    #[test]
    fn the_length_of_answers_is_compared_row_by_row() {
        let (before, after) = (said(["red", "x"], (0.0, 4)), said(["reddish", "xyz"], (0.0, 4)));
        let length = probe().report(&after, Some(&before)).groups[0].answer_length.unwrap();
        assert_eq!((length.mean_tokens, length.versus_suspect.unwrap().mean), (5.0, 3.0));
        assert_eq!(probe().report(&before, None).groups[0].answer_length.unwrap().versus_suspect, None);
    }

    #[test]
    fn differences_are_paired_with_the_suspect_on_the_same_rows() {
        let before = said(["red", "x"], (0.0, 4));
        let difference =
            probe().report(&said(["x", "blue"], (0.0, 4)), Some(&before)).groups[0].versus_suspect.unwrap();
        assert_eq!((difference.gained, difference.lost, difference.difference), (1, 1, 0.0));
    }
}
