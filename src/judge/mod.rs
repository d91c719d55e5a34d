//! Ratings of MT-Bench answers by another model, asked over HTTP after the engine is done.
//!
//! The engine's report is the same bytes for the same job; a judge's opinion is not, so it is added here and
//! says who gave it. What a judge does not rate has no rating: nothing is guessed, and the report counts it.
//! `prompts.rs` fills the published prompts.

mod prompts;

use std::{collections::BTreeMap, path::Path, time::Duration};

use antigen_engine::measure::evidence::{Judged, MtBenchReport};
use antigen_engine::report::{Report, read_report};
use anyhow::Context;
use futures::future::join_all;
use serde_json::{Value, json};

use crate::config::JudgeConfig;
use prompts::{Filled, JudgePrompts};

/// Ratings that are asked for at a time.
const AT_A_TIME: usize = 4;
/// Failures in a row after which the judge is given up.
const FAILURES_IN_A_ROW: usize = 8;
/// Longest answer that is asked of the judge, in tokens.
const MAX_TOKENS: usize = 2048;

/// Rates the answers of the suspect and of the candidates of a report, in place. Does nothing without a judge
/// or without answers.
///
/// # Errors
/// The MT-Bench directory lacks the judge's prompts, or they cannot be read. A judge that does not answer is
/// no error.
pub async fn judge_report(config: &JudgeConfig, mt_bench: Option<&Path>, report: &mut Report) -> anyhow::Result<()> {
    let (Some(address), Some(folder)) = (config.address(), mt_bench) else { return Ok(()) };
    let candidates = report.candidates.iter_mut().map(|candidate| &mut candidate.measurement);
    let measured = std::iter::once(&mut report.before).chain(candidates);
    let mut answers: Vec<&mut MtBenchReport> = measured.filter_map(|m| m.mt_bench.as_mut()).collect();
    if answers.is_empty() {
        return Ok(());
    }
    let prompts = JudgePrompts::read(folder)?;
    let judge = Judge::new(config, address)?;
    for report in &mut answers {
        judge.rate(&prompts, report).await;
    }
    Ok(())
}

/// As [`judge_report`], of a report as JSON; what needs no judging comes back as it is.
///
/// # Errors
/// As [`judge_report`]; or it is no report.
pub async fn judge_json(config: &JudgeConfig, mt_bench: Option<&Path>, report: String) -> anyhow::Result<String> {
    if config.address().is_none() || mt_bench.is_none() {
        return Ok(report);
    }
    let mut parsed = read_report(report.as_bytes()).context("reading the report")?;
    judge_report(config, mt_bench, &mut parsed).await?;
    Ok(serde_json::to_string(&parsed)?)
}

/// The reason for which a turn has no rating; the words are those of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unrated {
    NoAnswer,
    NoRating,
    NotAsked,
    NoPrompt,
}

impl Unrated {
    fn word(self) -> &'static str {
        match self {
            Self::NoAnswer => "no_answer",
            Self::NoRating => "no_rating",
            Self::NotAsked => "not_asked",
            Self::NoPrompt => "no_prompt",
        }
    }
}

struct Judge<'a> {
    http: reqwest::Client,
    config: &'a JudgeConfig,
    endpoint: String,
}

impl<'a> Judge<'a> {
    fn new(config: &'a JudgeConfig, address: &str) -> anyhow::Result<Self> {
        let patience = Duration::from_millis(config.timeout_ms);
        let http = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).timeout(patience);
        let endpoint = format!("{}/chat/completions", address.trim_end_matches('/'));
        Ok(Self { http: http.build().context("making the judge's client")?, config, endpoint })
    }

    async fn rate(&self, prompts: &JudgePrompts, report: &mut MtBenchReport) {
        let turns: Vec<(usize, usize)> = (0..report.answers.len())
            .flat_map(|i| (0..report.answers[i].turns.len()).map(move |turn| (i, turn)))
            .collect();
        let filled: Vec<Option<Filled>> =
            turns.iter().map(|&(i, turn)| prompts.fill(&report.answers[i], turn)).collect();
        let mut ratings = Vec::with_capacity(turns.len());
        let mut failures = 0;
        for chunk in filled.chunks(AT_A_TIME) {
            let given_up = failures >= FAILURES_IN_A_ROW;
            let mut asked = Vec::with_capacity(AT_A_TIME);
            for prompt in chunk {
                asked.push(self.ask(prompt.as_ref(), given_up));
            }
            for rating in join_all(asked).await {
                match rating {
                    Err(Unrated::NoAnswer) => failures += 1,
                    Ok(_) | Err(Unrated::NoRating) => failures = 0,
                    Err(Unrated::NotAsked | Unrated::NoPrompt) => {}
                }
                ratings.push(rating);
            }
        }
        report.answers.iter_mut().for_each(|answer| answer.scores.clear());
        turns.iter().zip(&ratings).for_each(|(&(i, _), rating)| report.answers[i].scores.push(rating.ok()));
        report.judged = Some(self.sum_up(prompts, &ratings));
    }

    fn sum_up(&self, prompts: &JudgePrompts, ratings: &[Result<f64, Unrated>]) -> Judged {
        let given: Vec<f64> = ratings.iter().filter_map(|rating| rating.ok()).collect();
        let mut unrated = BTreeMap::new();
        for why in ratings.iter().filter_map(|rating| rating.err()) {
            *unrated.entry(why.word().to_owned()).or_insert(0) += 1;
        }
        Judged {
            judge: self.config.model.clone(),
            prompts_sha256: prompts.sha256.clone(),
            mean: (!given.is_empty()).then(|| given.iter().sum::<f64>() / given.len() as f64),
            rated: given.len(),
            unrated,
        }
    }

    async fn ask(&self, prompt: Option<&Filled>, given_up: bool) -> Result<f64, Unrated> {
        let prompt = prompt.ok_or(Unrated::NoPrompt)?;
        if given_up {
            return Err(Unrated::NotAsked);
        }
        let said = self.complete(prompt).await.map_err(|error| {
            // The address may hold a name or a key; the error says enough without it.
            tracing::warn!(error = %error.without_url(), "the judge did not answer");
            Unrated::NoAnswer
        })?;
        let text = said["choices"][0]["message"]["content"].as_str().unwrap_or_default();
        prompts::rating(text).ok_or(Unrated::NoRating)
    }

    async fn complete(&self, prompt: &Filled) -> Result<Value, reqwest::Error> {
        let body = json!({
            "model": self.config.model, "temperature": 0, "max_tokens": MAX_TOKENS,
            "messages": [{ "role": "system", "content": prompt.system }, { "role": "user", "content": prompt.user }],
        });
        let mut request = self.http.post(&self.endpoint).json(&body);
        if let Some(key) = &self.config.key {
            request = request.bearer_auth(key.expose());
        }
        request.send().await?.error_for_status()?.json().await
    }
}
