//! Events: as pages and as a stream, without a gap after a broken connection.

use serde_json::{Value, json};

use crate::support::{TestServer, finish_job, report};

const STREAM: (&str, &str) = ("accept", "text/event-stream");

/// The `field: value` lines of a stream with this field.
fn fields<'a>(text: &'a str, field: &str) -> Vec<&'a str> {
    text.lines().filter_map(|line| line.strip_prefix(field)?.strip_prefix(": ")).collect()
}

async fn finished(server: &TestServer) -> String {
    server.queue_job(json!({})).await;
    let id = finish_job(server, &report("BadMagic")).await;
    format!("/v1/jobs/{id}/events")
}

#[tokio::test]
async fn events_come_in_pages_in_their_order() {
    let server = TestServer::start().await;
    let path = finished(&server).await;
    let all = server.get(&path).await.expect(200);
    let kinds: Vec<&str> =
        all["data"].as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!((kinds[0], *kinds.last().unwrap()), ("job.queued", "job.succeeded"));
    assert!(kinds.contains(&"step.progress"), "{kinds:?}");
    assert_eq!(all["has_more"], false);

    let mut pages: Vec<Value> = Vec::new();
    let mut after = 0;
    loop {
        let page = server.get(&format!("{path}?limit=2&after={after}")).await.expect(200);
        pages.extend(page["data"].as_array().unwrap().iter().cloned());
        after = page["next_cursor"].as_i64().unwrap();
        if page["has_more"] == false {
            break;
        }
    }
    assert_eq!(json!(pages), all["data"]);
}

#[tokio::test]
async fn the_stream_of_an_ended_job_tells_everything_and_ends() {
    let server = TestServer::start().await;
    let path = finished(&server).await;
    let stream = server.get_with(&path, &[STREAM]).await;
    assert_eq!(stream.header("content-type"), "text/event-stream");
    let page = server.get(&path).await.expect(200);
    let data: Vec<Value> =
        fields(stream.text(), "data").iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (end, told) = data.split_last().unwrap();
    assert_eq!((json!(told), end), (page["data"].clone(), &json!({})));
    assert_eq!(fields(stream.text(), "event").last(), Some(&"end"));
    assert_eq!(fields(stream.text(), "retry"), ["3000"]);
    let ids: Vec<String> = page["data"].as_array().unwrap().iter().map(|event| event["id"].to_string()).collect();
    assert_eq!(fields(stream.text(), "id"), ids);
}

#[tokio::test]
async fn a_reader_who_comes_back_misses_nothing_and_hears_nothing_twice() {
    let server = TestServer::start().await;
    let path = finished(&server).await;
    let whole = server.get_with(&path, &[STREAM]).await;
    let ids = fields(whole.text(), "id").join(" ");
    let (seen, rest) = ids.split_once(' ').unwrap();
    // The address still has the `after` of the first connection; the header is newer.
    let again = server.get_with(&format!("{path}?after=0"), &[STREAM, ("last-event-id", seen)]).await;
    assert_eq!(fields(again.text(), "id").join(" "), rest);
    let last = ids.rsplit(' ').next().unwrap();
    let nothing = server.get_with(&path, &[STREAM, ("last-event-id", last)]).await;
    assert_eq!(fields(nothing.text(), "event"), ["end"]);
    server.get_with(&path, &[STREAM, ("last-event-id", "x")]).await.expect_problem(400, "malformed_request");
}

#[tokio::test]
async fn a_stream_follows_a_job_to_its_end_and_pings_in_between() {
    let server = TestServer::start_with(|config| config.server.ping_ms = 20).await;
    let job = server.queue_job(json!({})).await;
    let path = format!("/v1/jobs/{}/events", job["id"].as_str().unwrap());
    let later = async {
        tokio::time::sleep(std::time::Duration::from_millis(150)).await;
        finish_job(&server, &report("BadMagic")).await
    };
    let (stream, _) = tokio::join!(server.get_with(&path, &[STREAM]), later);
    assert!(stream.text().contains(": ping"), "{}", stream.text());
    let events = fields(stream.text(), "event");
    assert_eq!((events[0], &events[events.len() - 2..]), ("job.queued", &["job.succeeded", "end"][..]));
}

#[tokio::test]
async fn other_forms_and_other_jobs_are_refused() {
    let server = TestServer::start().await;
    let path = finished(&server).await;
    server.get_with(&path, &[("accept", "image/png")]).await.expect_problem(406, "not_acceptable");
    server.get(&format!("{path}?limit=0")).await.expect_problem(400, "malformed_request");
    let absent = format!("/v1/jobs/{}/events", antigen::db::JobId::new());
    server.get(&absent).await.expect_problem(404, "not_found");
}
