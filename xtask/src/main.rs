//! The tasks of those who work on Antigen, under one name each: `cargo xtask TASK [ARGUMENTS]`.

use std::io;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

const USAGE: &str = "\
usage: cargo xtask TASK [ARGUMENTS]
  test          every test; ARGUMENTS go to `cargo test`
  lint          format, clippy, documentation, licences and sources of dependencies
  regenerate    the files that are written from the code; tests compare them
  demo          the whole journey on this machine; ARGUMENTS go to `antigen demo`
  bench         speed and memory of training; ARGUMENTS go to `antigen-experiments bench`
  ci            all that a change must pass: .ci/run";

/// Files that are written from the code, each with the command that prints it.
const GENERATED: [(&str, &[&str]); 4] = [
    ("docs/results/methods.json", &["run", "--quiet", "-p", "antigen-experiments", "--", "methods", "--json"]),
    ("docs/METHODS.md", &["run", "--quiet", "-p", "antigen-experiments", "--", "methods"]),
    ("openapi/openapi.json", &["run", "--quiet", "-p", "antigen", "--", "openapi"]),
    ("openapi/report-2.schema.json", &["run", "--quiet", "-p", "antigen", "--", "openapi", "--report-schema"]),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((task, rest)) = arguments.split_first() else { return fail(USAGE) };
    let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
    let done = match task.as_str() {
        "test" => cargo(&[&["test", "--workspace", "--locked"], &rest[..]].concat()),
        "lint" => lint(),
        "regenerate" => GENERATED.iter().try_for_each(|(file, command)| regenerate(file, command)),
        "demo" => cargo(&[&["run", "--quiet", "-p", "antigen", "--", "demo"], &rest[..]].concat()),
        "bench" => cargo(&[&["run", "--quiet", "-p", "antigen-experiments", "--", "bench"], &rest[..]].concat()),
        "ci" => run(Command::new(root().join(".ci/run"))),
        _ => return fail(USAGE),
    };
    done.map_or_else(|error| fail(&error.to_string()), |()| ExitCode::SUCCESS)
}

fn lint() -> io::Result<()> {
    cargo(&["fmt", "--all", "--check"])?;
    cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])?;
    let mut doc = cargo_command(&["doc", "--workspace", "--no-deps", "--locked", "--document-private-items"]);
    doc.env("RUSTDOCFLAGS", "-D warnings");
    run(doc)?;
    let installed = cargo_command(&["deny", "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    if !installed.success() {
        eprintln!("cargo-deny is not installed (.ci/run installs it): licences and sources are not checked");
        return Ok(());
    }
    cargo(&["deny", "check", "bans", "licenses", "sources"])
}

/// Writes what a command prints into a file, once it has ended well.
fn regenerate(file: &str, command: &[&str]) -> io::Result<()> {
    let output = cargo_command(command).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(io::Error::other(format!("{file} stays as it is: its command failed")));
    }
    println!("{file}");
    std::fs::write(root().join(file), output.stdout)
}

fn cargo(arguments: &[&str]) -> io::Result<()> {
    run(cargo_command(arguments))
}

fn cargo_command(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    command
}

fn run(mut command: Command) -> io::Result<()> {
    let status = command.status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("{command:?} ended with {status}"))) }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace")
}

fn fail(message: &str) -> ExitCode {
    eprintln!("{message}");
    ExitCode::FAILURE
}
