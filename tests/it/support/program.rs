//! The real program as its own process: `antigen serve` with its worker.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

/// A running `antigen serve`, killed when it is dropped.
pub struct Program {
    child: Child,
    pub origin: String,
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Program {
    /// Serves from `data_dir` with these settings (TOML) on a free port. `setup` is shell that runs before,
    /// such as a limit.
    pub fn serve(data_dir: &Path, settings: &str, setup: &str) -> Self {
        let file = data_dir.join("antigen.toml");
        std::fs::write(&file, settings).unwrap();
        let script = format!("{setup}; exec \"$0\" serve --bind 127.0.0.1:0 --data-dir \"$1\" --config \"$2\"");
        let mut child = Command::new("sh")
            .args(["-c", &script, env!("CARGO_BIN_EXE_antigen")])
            .args([data_dir, &file])
            .env("ANTIGEN_LOG", "off")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let origin = line.trim().strip_prefix("listening on ").unwrap_or_else(|| panic!("{line}")).to_owned();
        Program { child, origin }
    }
}
