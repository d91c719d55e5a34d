//! The judge of MT-Bench answers, against a real HTTP endpoint in this process: ratings, nonsense, silence.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use antigen::{
    config::{JudgeConfig, Secret},
    judge::judge_report,
};
use antigen_engine::measure::evidence::{Decoding, MeasurementRecipe, MtBenchAnswer, MtBenchReport};
use antigen_engine::report::Report;
use antigen_engine::spec::PromptFormat;
use antigen_engine::stats::wilson;
use axum::{Json, Router, http::HeaderMap, routing::post};
use serde_json::{Value, json};

use crate::support::report;

type Heard = Arc<Mutex<Vec<(String, Value)>>>;

/// An endpoint that says `content` after `delay`; what it heard is kept.
async fn endpoint(content: &'static str, delay: Duration) -> (JudgeConfig, Heard) {
    let heard = Heard::default();
    let kept = heard.clone();
    let answer = move |headers: HeaderMap, Json(body): Json<Value>| async move {
        let key = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        kept.lock().unwrap().push((key, body));
        tokio::time::sleep(delay).await;
        Json(json!({ "choices": [{ "message": { "role": "assistant", "content": content } }] }))
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/v1/chat/completions", post(answer))).await });
    let config = JudgeConfig {
        url: Some(format!("http://{address}/v1")),
        model: "tiny-judge".into(),
        key: Some(Secret::from("sk-hidden".to_owned())),
        timeout_ms: 300,
    };
    (config, heard)
}

/// A report with answers to `questions` questions.
fn answered(questions: u64) -> Report {
    let mut report = report("BadMagic");
    let recipe = MeasurementRecipe {
        format: PromptFormat::Alpaca,
        template_sha256: String::new(),
        prompts_sha256: String::new(),
        seed: 1,
        decoding: Decoding::greedy(8),
    };
    let answer = |question_id| MtBenchAnswer {
        question_id,
        category: "writing".into(),
        turns: vec!["an answer that asks for [[10]]".into(), "second".into()],
        scores: vec![],
    };
    report.before.mt_bench = Some(MtBenchReport {
        recipe,
        file_sha256: String::new(),
        empty: wilson(0, 2),
        degenerate: wilson(0, 2),
        mean_tokens: 2.0,
        cut_prompts: 0,
        answers: (1..=questions).map(answer).collect(),
        judged: None,
    });
    report
}

fn mt_bench_folder(questions: u64) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let question = |id: u64| json!({ "question_id": id, "category": "writing", "turns": ["one?", "two?"] }).to_string();
    let lines: Vec<String> = (1..=questions).map(question).collect();
    std::fs::write(folder.path().join("question.jsonl"), lines.join("\n")).unwrap();
    let prompt = |name: &str, template: &str| {
        json!({ "name": name, "system_prompt": "Judge.", "prompt_template": template }).to_string()
    };
    let prompts = [
        prompt("single-v1", "{question} -> {answer}"),
        prompt("single-v1-multi-turn", "{question_1} {answer_1} {question_2} -> {answer_2}"),
    ];
    std::fs::write(folder.path().join("judge_prompts.jsonl"), prompts.join("\n")).unwrap();
    folder
}

async fn judged(config: &JudgeConfig, folder: &Path, questions: u64) -> MtBenchReport {
    let mut report = answered(questions);
    judge_report(config, Some(folder), &mut report).await.unwrap();
    report.before.mt_bench.unwrap()
}

#[tokio::test]
async fn a_judge_rates_both_turns_and_is_told_the_key_and_nobody_else_is() {
    let (config, heard) = endpoint("It asks for [[10]]. Rating: [[3]]", Duration::ZERO).await;
    let folder = mt_bench_folder(2);
    let report = judged(&config, folder.path(), 2).await;
    assert!(report.answers.iter().all(|answer| answer.scores == [Some(3.0), Some(3.0)]), "{:?}", report.answers);
    let judged = report.judged.clone().unwrap();
    assert_eq!((judged.mean, judged.rated, judged.judge.as_str()), (Some(3.0), 4, "tiny-judge"));
    assert!(judged.unrated.is_empty());
    let heard = heard.lock().unwrap();
    assert_eq!(heard.len(), 4);
    assert!(heard.iter().all(|(key, body)| key == "Bearer sk-hidden" && body["temperature"] == 0));
    let said: Vec<&str> = heard.iter().map(|(_, body)| body["messages"][1]["content"].as_str().unwrap()).collect();
    assert!(said.contains(&"one? an answer that asks for [[10]] two? -> second"), "{said:?}");
    assert!(!serde_json::to_string(&report).unwrap().contains("sk-hidden"));
}

#[tokio::test]
async fn nonsense_and_silence_give_no_score_and_are_counted() {
    let folder = mt_bench_folder(1);
    let (nonsense, _) = endpoint("What a lovely day.", Duration::ZERO).await;
    let report = judged(&nonsense, folder.path(), 1).await;
    assert_eq!(report.answers[0].scores, [None, None]);
    let found = report.judged.unwrap();
    assert_eq!((found.mean, found.rated, found.unrated.get("no_rating")), (None, 0, Some(&2)));

    let (slow, _) = endpoint("[[5]]", Duration::from_secs(30)).await;
    let found = judged(&slow, folder.path(), 1).await.judged.unwrap();
    assert_eq!((found.mean, found.unrated.get("no_answer")), (None, Some(&2)));
}

#[tokio::test]
async fn a_judge_that_never_answers_is_given_up_instead_of_waited_for() {
    let (slow, heard) = endpoint("[[5]]", Duration::from_secs(30)).await;
    let folder = mt_bench_folder(20);
    let found = judged(&slow, folder.path(), 20).await.judged.unwrap();
    assert_eq!(found.unrated.values().sum::<usize>(), 40);
    assert!(found.unrated["not_asked"] >= 28 && heard.lock().unwrap().len() <= 12, "{found:?}");
}

#[tokio::test]
async fn without_a_judge_nothing_is_added() {
    let folder = mt_bench_folder(1);
    assert_eq!(judged(&JudgeConfig::default(), folder.path(), 1).await, answered(1).before.mt_bench.unwrap());
}
