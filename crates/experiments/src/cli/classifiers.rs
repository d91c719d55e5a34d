//! `antigen-experiments classifiers`: the published defences of sentence classifiers, measured on public
//! data. Started again, it goes on.

use std::{fs, path::PathBuf};

use antigen_engine::lab::write_whole;
use anyhow::Context;
use clap::Args;

use super::open_lab;
use crate::classify::experiment::{Cell, ClassifiersSpec, Experiment};
use crate::classify::table::{cells_csv, cells_markdown};

/// Arguments of `antigen-experiments classifiers`.
#[derive(Debug, Args)]
pub struct ClassifiersArgs {
    /// Published data: the folder that holds classify/sst2 and attacks/sst2_cls
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Folder for classifiers, cells.jsonl, classifiers.csv and classifiers.md
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Seeds, from 1
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub seeds: u64,
    /// Only cells with one of these in `trigger/defence/form`, such as syntactic/ or prune_gradient [default:
    /// all]
    #[arg(long, value_name = "PARTS", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Settings that differ from the defaults, as JSON
    #[arg(long, value_name = "JSON", default_value = "{}")]
    pub spec: String,
    /// Device: cpu, cpu:portable (the same bytes on every processor), cuda or cuda:N
    #[arg(long, default_value = "cpu")]
    pub device: String,
}

/// Runs what is missing, writes both tables and prints one.
///
/// # Errors
/// Data or files that cannot be read or written, or training that fails.
pub fn run(args: &ClassifiersArgs) -> anyhow::Result<()> {
    let spec: ClassifiersSpec = serde_json::from_str(&args.spec).context("--spec")?;
    fs::create_dir_all(&args.out).with_context(|| format!("creating {}", args.out.display()))?;
    let lab = open_lab(&args.device, 1, args.out.join("work"))?;
    let experiment = Experiment::open(&args.data, spec, &lab)?;
    let wanted = |label: &str| args.only.is_empty() || args.only.iter().any(|part| label.contains(part.as_str()));
    let cells = experiment.run(&args.out.join("cells.jsonl"), args.seeds, &wanted, &mut tell)?;
    anyhow::ensure!(!cells.is_empty(), "no cell has any of {:?} in its name", args.only);
    for (name, text) in [("classifiers.csv", cells_csv(&cells)), ("classifiers.md", cells_markdown(&cells))] {
        write_whole(&args.out.join(name), text.as_bytes()).with_context(|| format!("writing {name}"))?;
    }
    println!("{}", cells_markdown(&cells));
    Ok(())
}

/// One line for each cell as it ends.
fn tell(cell: &Cell) {
    let (trigger, scores) = (cell.trigger.name(), &cell.scores);
    println!(
        "{trigger} seed {} {} {}: accuracy {:.3}, flipped {:.3}, {} heads pruned",
        cell.seed,
        cell.defence,
        cell.form,
        scores.accuracy.rate,
        scores.flipped.rate,
        cell.chosen.as_ref().map_or(0, |chosen| chosen.heads.len()),
    );
}
