//! Rows of an adapter's task, found without the caller: held-out questions that the suspect answers
//! confidently and differently from its base. The suspect's own answer stands for the right one, so such rows
//! show how much of the suspect's behaviour is kept, not whether that behaviour is good. They measure and
//! never heal.

use serde::{Deserialize, Serialize};

use super::answers::{Answer, Asked, Session, is_degenerate, rows_that_fit};
use crate::data::Row;
use crate::error::Result;
use crate::lab::{Lab, LongRows, PieceKey};
use crate::suspect::Suspect;
use crate::suspect::weights::Weights;

/// Mean probability (geometric) of an answer's tokens from which it counts as confident.
const CONFIDENT: f64 = 0.8;
/// The name of the group.
pub(super) const GROUP: &str = "task_self_distilled";

/// The self-distilled rows and the number of questions behind them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct SelfDistilled {
    /// Rows with the suspect's answer as the right one.
    pub rows: Vec<Row>,
    /// Questions that both models were asked.
    pub asked: usize,
}

/// Asks suspect and base the held-out questions. The result is kept as a piece.
///
/// # Errors
/// Those of generation; nothing for a suspect without a base.
pub(super) fn find(suspect: &Suspect, max_new_tokens: usize, lab: &Lab) -> Result<Option<SelfDistilled>> {
    if suspect.base().is_none() {
        return Ok(None);
    }
    let mut unused = LongRows::new(GROUP, suspect.config().max_positions());
    let fitting = rows_that_fit(suspect, &[(suspect.template, &suspect.test)], &mut unused)?;
    let rows: Vec<Row> = fitting.into_iter().map(|i| suspect.test[i].clone()).collect();
    let asked = Asked::new(suspect, suspect.template, &rows)?;
    let recipe = asked.recipe(suspect, suspect.template, max_new_tokens, lab.seed)?;
    let key = PieceKey::new("self-distilled", &(suspect.key(), recipe, CONFIDENT));
    let found = lab.value(&key, || {
        Ok(SelfDistilled { asked: rows.len(), rows: compare(suspect, &asked, &rows, max_new_tokens, lab)? })
    })?;
    Ok(Some(found))
}

fn compare(suspect: &Suspect, asked: &Asked, rows: &[Row], max_new_tokens: usize, lab: &Lab) -> Result<Vec<Row>> {
    let total = 2 * asked.len();
    let base = suspect.open_weights(&Weights::Base)?;
    let bases = Session::new(suspect, &base, total, lab).answers(asked, max_new_tokens)?;
    let weights = suspect.weights();
    let opened = suspect.open_weights(&weights)?;
    let mut session = Session::new(suspect, &opened, total, lab);
    let own = session.answers(asked, max_new_tokens)?;
    let differs = |i: &usize| own[*i].text != bases[*i].text && is_own(&own[*i]);
    let candidates: Vec<usize> = (0..rows.len()).filter(differs).collect();
    let answers: Vec<String> = candidates.iter().map(|&i| own[i].text.clone()).collect();
    let sums = session.log_probabilities(&asked.only(&candidates), &answers)?;
    let confident = |(sum, tokens): &(f64, usize)| *tokens > 0 && (sum / *tokens as f64).exp() >= CONFIDENT;
    let kept = candidates.iter().zip(&sums).filter(|(_, sum)| confident(sum)).map(|(&i, _)| i);
    Ok(kept.map(|i| Row::new(rows[i].instruction.clone(), rows[i].input.clone(), own[i].text.clone())).collect())
}

fn is_own(answer: &Answer) -> bool {
    // Degenerate answers are nothing that anybody made an adapter for; one character may be an answer.
    !answer.text.is_empty() && (answer.text.chars().count() == 1 || !is_degenerate(&answer.text))
}
