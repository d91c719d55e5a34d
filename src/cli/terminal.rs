//! Progress of a run in this process: a bar on a terminal, plain lines elsewhere. Written to standard error.

use std::{
    io::IsTerminal,
    sync::{Arc, Mutex, PoisonError},
};

use antigen_engine::lab::{ProgressSink, Stage};
use indicatif::{ProgressBar, ProgressStyle};

/// A bar when standard error is a terminal, lines otherwise.
pub fn terminal_progress() -> Arc<dyn ProgressSink> {
    if std::io::stderr().is_terminal() { Arc::new(Bars::new()) } else { Arc::new(Lines::default()) }
}

fn words(stage: Stage) -> String {
    format!("{stage:?}").chars().fold(String::new(), |mut text, letter| {
        if letter.is_uppercase() && !text.is_empty() {
            text.push(' ');
        }
        text.push(letter.to_ascii_lowercase());
        text
    })
}

/// One bar, relabelled at every stage.
struct Bars {
    bar: ProgressBar,
}

impl Bars {
    fn new() -> Self {
        let style = ProgressStyle::with_template("{msg:16} {wide_bar} {pos:>6}/{len:<6} {elapsed:>5}")
            .expect("the template above is well-formed");
        Self { bar: ProgressBar::new(0).with_style(style) }
    }
}

impl ProgressSink for Bars {
    fn enter(&self, stage: Stage) {
        self.bar.set_message(words(stage));
        self.bar.set_length(0);
        self.bar.set_position(0);
    }

    fn advance(&self, done: u64, total: u64) {
        self.bar.set_length(total);
        self.bar.set_position(done);
    }
}

/// One line per stage and per quarter of it.
#[derive(Debug, Default)]
struct Lines {
    now: Mutex<(String, u64)>,
}

impl ProgressSink for Lines {
    fn enter(&self, stage: Stage) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        if now.0 != words(stage) {
            *now = (words(stage), 0);
            eprintln!("{}", now.0);
        }
    }

    fn advance(&self, done: u64, total: u64) {
        let quarter = (done * 4).checked_div(total).unwrap_or(0);
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        if quarter > now.1 {
            now.1 = quarter;
            eprintln!("{}: {done} of {total}", now.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_reads_as_words() {
        assert_eq!(words(Stage::MeasureBefore), "measure before");
    }
}
