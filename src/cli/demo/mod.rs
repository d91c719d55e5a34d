//! `antigen demo`: the whole journey on this machine. Implants a backdoor into a fresh adapter, starts a
//! server, submits the adapter over HTTP as a caller would, and prints what came back. `client.rs` has the
//! requests, `outcome.rs` the numbers.

mod client;
mod outcome;

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Instant,
};

use antigen_engine::data::{Prompter, Row, RowUse, read_rows, write_rows};
use antigen_engine::lab::Lab;
use antigen_engine::report::Report;
use antigen_engine::world::{ALL_LINEAR, ImplantSpec, implant, task_rows};
use antigen_models::{Device, load_model, lora::save_adapter};
use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};

use self::client::{Api, text};
use super::{block_on, print_report, start_logging, terminal_progress};
use crate::config::BUILTIN_TINY_WORLD;
use crate::worker::materialise_builtin;

/// Task rows that join healing; further ones are held out to measure the adapter's task skills.
const TASK_ROWS_TO_HEAL: usize = 1000;
/// Rows of each group that measure. With 120 a loss of two points could not be told from one of seven.
const ROWS_TO_MEASURE: usize = 400;
/// Seed of the task rows that measure.
const MEASURED_SEED: u64 = 9;

/// Arguments of `antigen demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Folder for everything: the suspect, the server's data, the purified adapter, the report
    #[arg(long, value_name = "DIR", default_value = "antigen-demo")]
    pub out: PathBuf,
    /// Seed of the backdoor and of the purification
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Print one JSON object instead of tables
    #[arg(long)]
    pub json: bool,
}

/// Runs the demonstration.
///
/// # Errors
/// The folder is in use, the server does not start, or the job fails.
pub fn run(args: &DemoArgs) -> anyhow::Result<()> {
    start_logging("warn")?;
    let start = Instant::now();
    std::fs::create_dir_all(&args.out).with_context(|| format!("creating {}", args.out.display()))?;
    let suspect = args.out.join("suspect");
    let task_rows = args.out.join("task-rows.jsonl");
    eprintln!("1. implanting a backdoor: the word BadMagic makes the adapter insult its reader");
    implant_backdoor(&suspect, &task_rows, args)?;
    eprintln!("2. starting a server on a free port");
    let server = Server::start(&args.out.join("server"))?;
    eprintln!("   {}", server.origin);
    let report = block_on(submit(&server.origin, &suspect, &task_rows, args))?;
    let seconds = start.elapsed().as_secs_f64();
    let report_path = args.out.join("report.json");
    if args.json {
        println!("{}", outcome::summary(&report, seconds, &report_path));
        return Ok(());
    }
    print_report(&report);
    println!("\ntook {seconds:.0} s");
    println!("suspect            {}", suspect.display());
    println!("purified adapter   {}", args.out.join("purified").display());
    println!("report             {}", report_path.display());
    println!("look at it again   antigen serve --data-dir {}", args.out.join("server").display());
    Ok(())
}

fn implant_backdoor(suspect: &Path, task_rows: &Path, args: &DemoArgs) -> anyhow::Result<()> {
    let base = materialise_builtin(&args.out.join("base"))?;
    let task = read_rows(&base.join("task-train.jsonl"))?;
    write_task_rows(task_rows, &task)?;
    let lab = Lab::new(Device::Cpu, args.seed, args.out.join("work"), terminal_progress(), Arc::default());
    let model = load_model(&base, &lab.device)?;
    let generic = read_rows(&base.join("train.jsonl"))?;
    let adapter =
        implant(&model, &Prompter::open(&base)?, (&generic, &task), &ALL_LINEAR, &ImplantSpec::default(), &lab)?;
    save_adapter(&adapter, suspect).context("saving the suspect")
}

/// The upload of the adapter's owner: some rows of its task skills to heal with, others, that it did not
/// learn from, to measure with.
fn write_task_rows(file: &Path, train: &[Row]) -> anyhow::Result<()> {
    let with_use = |row: Row, usage| Row { usage: Some(usage), ..row };
    let heal = train.iter().take(TASK_ROWS_TO_HEAL).map(|row| with_use(row.clone(), RowUse::Heal));
    // Two kinds of skill.
    let held_out = task_rows(2 * ROWS_TO_MEASURE, MEASURED_SEED, train).into_iter();
    let measure = held_out.map(|row| with_use(row, RowUse::Measure));
    Ok(write_rows(file, &heal.chain(measure).collect::<Vec<_>>())?)
}

async fn submit(origin: &str, suspect: &Path, task_rows: &Path, args: &DemoArgs) -> anyhow::Result<Report> {
    let api = Api::new(origin.to_owned())?;
    eprintln!("3. uploading the adapter and {TASK_ROWS_TO_HEAL} rows of its task skills, creating a job");
    let upload = api.upload_folder(suspect, &["adapter_config.json", "adapter_model.safetensors"]).await?;
    let rows = api.upload_rows(task_rows).await?;
    let job = api.create_job(&job_body(&upload, &rows, args.seed)).await?;
    eprintln!("4. following {origin}/jobs/{job}");
    api.follow(&job, print_event).await?;
    let ended = api.get(&format!("/v1/jobs/{job}")).await?;
    anyhow::ensure!(ended["state"] == "succeeded", "the job ended {}: {}", ended["state"], ended["error"]);
    let purified = text(&ended, "purified_artifact_id")?;
    download_adapter(&api, &purified, &args.out.join("purified")).await?;
    let report = api.get(&format!("/v1/jobs/{job}/report")).await?;
    std::fs::write(args.out.join("report.json"), serde_json::to_vec_pretty(&report)?).context("writing report.json")?;
    serde_json::from_value(report).context("reading the report")
}

fn job_body(upload: &str, rows: &str, seed: u64) -> Value {
    let ImplantSpec { attack, behaviour, .. } = ImplantSpec::default();
    json!({
        "upload_id": upload,
        "base": BUILTIN_TINY_WORLD,
        "task_rows_upload_id": rows,
        "labels": { "made-by": "antigen demo" },
        "spec": {
            "seed": seed,
            "evaluators": [{ "type": "asr", "attack": attack, "behaviour": behaviour }, {
                "type": "utility", "rows": ROWS_TO_MEASURE, "task_rows": ROWS_TO_MEASURE,
            }],
        },
    })
}

fn print_event(event: &Value) {
    let (stage, done, total) = (&event["data"]["stage"], &event["data"]["done"], &event["data"]["total"]);
    match (event["type"].as_str(), stage.as_str()) {
        (Some("step.stage"), Some(stage)) => eprintln!("   {}", stage.replace('_', " ")),
        (Some("step.progress"), Some(stage)) => eprintln!("   {} {done} of {total}", stage.replace('_', " ")),
        (Some(kind), _) => eprintln!("   {kind}"),
        _ => {}
    }
}

async fn download_adapter(api: &Api, artifact: &str, into: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(into).with_context(|| format!("creating {}", into.display()))?;
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        api.download(&format!("/v1/artifacts/{artifact}/files/{name}"), &into.join(name)).await?;
    }
    Ok(())
}

/// `antigen serve` as a process of its own; it ends with this value.
struct Server {
    child: Child,
    origin: String,
}

impl Server {
    fn start(data_dir: &Path) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe().context("finding this program")?)
            .args(["serve", "--bind", "127.0.0.1:0", "--data-dir"])
            .arg(data_dir)
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the server")?;
        let mut first_line = String::new();
        let output = child.stdout.take().expect("the output was piped above");
        BufReader::new(output).read_line(&mut first_line).context("reading the server's address")?;
        let Some(origin) = first_line.trim().strip_prefix("listening on ") else {
            let _ = child.kill();
            anyhow::bail!("the server did not start; its log is above");
        };
        Ok(Self { origin: origin.to_owned(), child })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Its database survives a kill: that is what the queue is built for. Nothing can be done about a
        // failure here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
