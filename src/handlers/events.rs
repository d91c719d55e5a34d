//! `/v1/jobs/{id}/events`: what happened to a job, as a page of JSON or as a stream of server-sent events.
//!
//! Both read the same rows. The id of an event is its row number, so a reader that lost its connection misses
//! nothing.

use std::{collections::VecDeque, time::Duration};

use axum::{
    Json as Body,
    extract::State,
    http::HeaderMap,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures::{Stream, stream};
use serde::Deserialize;
use tokio::sync::watch;
use utoipa::IntoParams;

use super::jobs::{SLOW_POLL, find_job};
use crate::app::App;
use crate::db;
use crate::db::{EventRow, JobId};
use crate::error::{ApiResult, Kind, Problem, ProblemBody};
use crate::extract::{Accept, Path, Query, Wanted};
use crate::views::{EventView, EventsPage};

/// Pause before a reader connects again, as the stream tells it.
const RETRY: Duration = Duration::from_millis(3000);
/// Rows read at once by a stream.
const BATCH: i64 = 200;

/// The first event and the number of events to read.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EventsQuery {
    /// Only events after this number; 0 for all.
    #[serde(default)]
    #[param(default = 0)]
    after: i64,
    /// Number of events of a JSON page, 1 to 1000. A stream has no limit.
    #[serde(default = "hundred")]
    #[param(default = 100, minimum = 1, maximum = 1000)]
    limit: i64,
}

fn hundred() -> i64 {
    100
}

/// Read or follow the events of a job.
///
/// `Accept: text/event-stream` follows them until the job has ended; the last event is `end`. `Last-Event-ID`
/// continues after a broken connection and wins over `after`. With curl:
/// `curl -N -H 'Accept: text/event-stream' .../events`.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/events", tag = "jobs",
    params(("id" = JobId, Path, description = "The job"), EventsQuery,
           ("Last-Event-ID" = Option<i64>, Header, description = "Number of the last event that a stream's reader has seen")),
    responses(
        (status = 200, description = "Events, oldest first: a page, or a stream of `id`, `event` (the type) and `data` (one event as JSON)",
            content((EventsPage = "application/json"), (String = "text/event-stream"))),
        (status = 400, description = "A parameter is unknown or impossible", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "There is no such job", body = ProblemBody, content_type = "application/problem+json"),
        (status = 406, description = "Neither JSON nor an event stream is accepted", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub async fn list_events(
    State(app): State<App>,
    Path(id): Path<JobId>,
    Query(query): Query<EventsQuery>,
    accept: Accept,
    headers: HeaderMap,
) -> ApiResult<Response> {
    find_job(&app, id).await?;
    if !(1..=1000).contains(&query.limit) {
        return Err(Problem::malformed("limit", format!("expected 1 to 1000, found {}", query.limit)));
    }
    match accept.choose(&[Wanted::Json, Wanted::EventStream]) {
        Some(Wanted::EventStream) => {
            let after = last_event_id(&headers)?.unwrap_or(query.after);
            let ping = KeepAlive::new().interval(Duration::from_millis(app.config.server.ping_ms)).text("ping");
            Ok(Sse::new(follow(app, id, after)).keep_alive(ping).into_response())
        }
        Some(_) => Ok(Body(page_of_events(&app, id, query.after, query.limit).await?).into_response()),
        None => {
            Err(Problem::new(Kind::NotAcceptable, "expected Accept to allow application/json or text/event-stream"))
        }
    }
}

fn last_event_id(headers: &HeaderMap) -> ApiResult<Option<i64>> {
    let Some(value) = headers.get("last-event-id") else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| Problem::malformed("Last-Event-ID", "expected the number of an event"))
}

/// A page of events; one more row than asked for tells whether there are more.
pub(super) async fn page_of_events(app: &App, id: JobId, after: i64, limit: i64) -> ApiResult<EventsPage> {
    let mut rows = db::list_events(&app.db, id, after, limit + 1).await?;
    let has_more = rows.len() as i64 > limit;
    rows.truncate(limit as usize);
    let next_cursor = rows.last().map_or(after, |row| row.seq);
    Ok(EventsPage { data: rows.into_iter().map(EventView::from).collect(), has_more, next_cursor })
}

/// A reader of one job's events.
struct Follower {
    app: App,
    job: JobId,
    after: i64,
    waiting: VecDeque<EventRow>,
    commits: watch::Receiver<u64>,
    stage: FollowStage,
}

#[derive(PartialEq, Eq)]
enum FollowStage {
    Opening,
    Following,
    Closed,
}

fn follow(app: App, job: JobId, after: i64) -> impl Stream<Item = Result<Event, Problem>> {
    let commits = app.db.subscribe();
    let follower = Follower { app, job, after, waiting: VecDeque::new(), commits, stage: FollowStage::Opening };
    stream::try_unfold(
        follower,
        |mut follower| async move { Ok(follower.next().await?.map(|event| (event, follower))) },
    )
}

impl Follower {
    async fn next(&mut self) -> ApiResult<Option<Event>> {
        match self.stage {
            FollowStage::Closed => return Ok(None),
            FollowStage::Opening => {
                self.stage = FollowStage::Following;
                return Ok(Some(Event::default().retry(RETRY).comment("events of a job")));
            }
            FollowStage::Following => {}
        }
        loop {
            if let Some(row) = self.waiting.pop_front() {
                self.after = row.seq;
                return as_event(row).map(Some);
            }
            self.commits.mark_unchanged();
            // In this order: an event that is written between the two reads is read by the second.
            let ended = db::find_job(&self.app.db, self.job).await?.is_none_or(|job| job.state.is_final());
            self.waiting = db::list_events(&self.app.db, self.job, self.after, BATCH).await?.into();
            if !self.waiting.is_empty() {
                continue;
            }
            if ended {
                self.stage = FollowStage::Closed;
                return Ok(Some(Event::default().event("end").data("{}")));
            }
            // Both ends of this wait mean the same: look again.
            let _ = tokio::time::timeout(SLOW_POLL, self.commits.changed()).await;
        }
    }
}

fn as_event(row: EventRow) -> ApiResult<Event> {
    let name = serde_json::to_value(row.kind).map_err(Problem::internal)?;
    let event = Event::default().id(row.seq.to_string()).event(name.as_str().unwrap_or("message"));
    event.json_data(EventView::from(row)).map_err(Problem::internal)
}
