//! From a child's lines to rows: each stage becomes an event, and progress becomes at most one event a
//! percent.

use std::time::{Duration, Instant};

use antigen_engine::stage::Stage;

use crate::db;
use crate::db::{Claim, Db, EventKind, Progress};

/// The row follows at most this often: a child may report a thousand times a second.
const ROW_EVERY: Duration = Duration::from_millis(500);
/// Events are kept for ever, so there are fewer of them.
const EVENT_EVERY: Duration = Duration::from_secs(2);

/// Writes the progress of one step.
pub struct ProgressRecorder<'a> {
    db: &'a Db,
    claim: &'a Claim,
    pace: Pace,
    now: Progress,
}

impl<'a> ProgressRecorder<'a> {
    /// For one claim.
    pub fn new(db: &'a Db, claim: &'a Claim) -> Self {
        Self { db, claim, pace: Pace::default(), now: Progress { stage: String::new(), done: 0, total: 0 } }
    }

    /// A stage begins. `false`: the lease is lost.
    pub async fn enter(&mut self, stage: Stage) -> bool {
        self.now = Progress { stage: stage_name(stage), done: 0, total: 0 };
        self.pace = Pace::default();
        self.write(Some(EventKind::StepStage)).await
    }

    /// The stage advanced. `false`: the lease is lost.
    pub async fn advance(&mut self, done: u64, total: u64) -> bool {
        self.now.done = i64::try_from(done).unwrap_or(i64::MAX);
        self.now.total = i64::try_from(total).unwrap_or(i64::MAX);
        match self.pace.due(done, total, Instant::now()) {
            Due::Nothing => true,
            Due::Row => self.write(None).await,
            Due::RowAndEvent => self.write(Some(EventKind::StepProgress)).await,
        }
    }

    /// A database that is busy or full costs a line of progress, not the step.
    async fn write(&self, event: Option<EventKind>) -> bool {
        match db::record_progress(self.db, self.claim, &self.now, event).await {
            Ok(held) => held,
            Err(error) => {
                tracing::warn!(%error, step = %self.claim.step, "progress not written");
                true
            }
        }
    }
}

/// The text form of a stage, as in JSON.
fn stage_name(stage: Stage) -> String {
    match serde_json::to_value(stage) {
        Ok(serde_json::Value::String(name)) => name,
        other => unreachable!("a stage is a word in JSON, not {other:?}"),
    }
}

/// The lines to be written now.
#[derive(Debug, PartialEq, Eq)]
enum Due {
    Nothing,
    Row,
    RowAndEvent,
}

/// The moment of the last writing.
#[derive(Debug, Default)]
struct Pace {
    row: Option<Instant>,
    event: Option<(Instant, u64)>,
}

impl Pace {
    fn due(&mut self, done: u64, total: u64, now: Instant) -> Due {
        let percent = (done * 100).checked_div(total).unwrap_or(0);
        let complete = total > 0 && done >= total;
        let event_due = match self.event {
            None => true,
            Some((_, last)) if complete => last != percent,
            Some((moment, last)) => percent > last && now - moment >= EVENT_EVERY,
        };
        if event_due {
            self.event = Some((now, percent));
            self.row = Some(now);
            return Due::RowAndEvent;
        }
        if complete || self.row.is_none_or(|moment| now - moment >= ROW_EVERY) {
            self.row = Some(now);
            return Due::Row;
        }
        Due::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_reports_in_a_second_are_a_handful_of_rows_and_two_events() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let dues: Vec<Due> = (1..=1000).map(|i| pace.due(i, 1000, start + Duration::from_millis(i))).collect();
        let count = |due: Due| dues.iter().filter(|found| **found == due).count();
        assert_eq!(count(Due::RowAndEvent), 2, "the first and the last");
        assert!(count(Due::Row) <= 3, "{}", count(Due::Row));
    }

    #[test]
    fn slow_work_has_at_most_one_event_a_percent() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let events = (1..=1000u64)
            .filter(|i| pace.due(*i, 1000, start + Duration::from_secs(*i * 10)) == Due::RowAndEvent)
            .count();
        assert!(events <= 101, "{events}");
    }
}
