//! Progress of a run in this process: a bar on a terminal, plain lines elsewhere. Written to standard error.

use std::{io::IsTerminal, sync::Arc};

use antigen_engine::lab::{Lines, ProgressSink};
use antigen_engine::stage::Stage;
use indicatif::{ProgressBar, ProgressStyle};

/// A bar when standard error is a terminal, lines otherwise.
pub fn terminal_progress() -> Arc<dyn ProgressSink> {
    if std::io::stderr().is_terminal() { Arc::new(Bars::new()) } else { Arc::new(Lines::default()) }
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
        self.bar.set_message(stage.words());
        self.bar.set_length(0);
        self.bar.set_position(0);
    }

    fn advance(&self, done: u64, total: u64) {
        self.bar.set_length(total);
        self.bar.set_position(done);
    }
}
