//! Bodies of `/v1/jobs/{id}/events`.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::db::{EventKind, EventRow, StepId, Timestamp};

/// One thing that happened to a job.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct EventView {
    /// Number of the event: grows, is never used twice, and is what `after` and `Last-Event-ID` take.
    #[schema(example = 17)]
    pub id: i64,
    #[serde(rename = "type")]
    pub kind: EventKind,
    /// The step that it concerns.
    pub step_id: Option<StepId>,
    /// Details; the shape depends on the type.
    #[schema(value_type = Object)]
    pub data: Value,
    pub created_at: Timestamp,
}

impl From<EventRow> for EventView {
    fn from(row: EventRow) -> Self {
        EventView { id: row.seq, kind: row.kind, step_id: row.step_id, data: row.data.0, created_at: row.created_at }
    }
}

/// Events of a job, oldest first.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct EventsPage {
    pub data: Vec<EventView>,
    /// True when more events exist already.
    pub has_more: bool,
    /// The `after` of the next request, also to ask later for events that do not exist yet.
    #[schema(example = 17)]
    pub next_cursor: i64,
}
