//! One line for each model that was measured: a suspect after one method, or after a control, with one seed.

use std::{collections::HashSet, io::Read};

use serde::{Deserialize, Serialize};

/// The effect of one treatment on one suspect. Rates are fractions; the attack success is that of the worst
/// format.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Name in the zoo.
    pub suspect: String,
    /// `adapter` or `model`.
    pub kind: String,
    /// The trigger's way into a prompt.
    pub attack: String,
    /// The triggered behaviour.
    pub behaviour: String,
    /// The method's `type` on the wire.
    pub method: String,
    /// Name of the candidate or the control.
    pub model: String,
    /// True of a control of the method.
    pub control: bool,
    /// Seed of the job.
    pub seed: u64,
    /// Of the suspect.
    pub asr_before: f64,
    /// After the method.
    pub asr: f64,
    /// Upper end of its interval.
    pub asr_high: f64,
    /// Exact match of general rows, of the suspect.
    pub general_before: f64,
    /// The same after the method.
    pub general: f64,
    /// Exact match of task rows that extend the base's skills.
    pub task_extended_before: f64,
    /// The same after the method.
    pub task_extended: f64,
    /// Exact match of task rows that the base never saw.
    pub task_new_before: f64,
    /// The same after the method.
    pub task_new: f64,
    /// Of the whole job, all of its candidates and controls together.
    pub job_seconds: f64,
}

/// Cells from CSV.
///
/// # Errors
/// A line that is no cell.
pub fn read_cells(text: impl Read) -> Result<Vec<Cell>, csv::Error> {
    csv::Reader::from_reader(text).deserialize().collect()
}

/// The cells of earlier runs and of a later one, by seed; a cell that both measured is as the later one found
/// it.
pub fn joined(earlier: Vec<Cell>, later: Vec<Cell>) -> Vec<Cell> {
    let treatment = |cell: &Cell| (cell.suspect.clone(), cell.method.clone(), cell.model.clone(), cell.seed);
    let again: HashSet<_> = later.iter().map(treatment).collect();
    let mut cells: Vec<_> = earlier.into_iter().filter(|cell| !again.contains(&treatment(cell))).chain(later).collect();
    cells.sort_by_key(|cell| cell.seed);
    cells
}

/// Records as CSV, with their fields' names as the heading.
///
/// # Errors
/// A record that is no flat list of fields.
pub fn csv_of(records: &[impl Serialize]) -> Result<Vec<u8>, csv::Error> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    records.iter().try_for_each(|record| writer.serialize(record))?;
    writer.into_inner().map_err(|error| error.into_error().into())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn cell(suspect: &str, method: &str, seed: u64, asr: f64) -> Cell {
        Cell {
            suspect: suspect.into(),
            kind: "adapter".into(),
            attack: "vpi".into(),
            behaviour: "refusal".into(),
            method: "immunize".into(),
            model: method.into(),
            control: false,
            seed,
            asr_before: 1.0,
            asr,
            asr_high: asr + 0.02,
            general_before: 0.9,
            general: 0.8,
            task_extended_before: 1.0,
            task_extended: 1.0,
            task_new_before: f64::NAN,
            task_new: f64::NAN,
            job_seconds: 12.0,
        }
    }

    #[test]
    fn a_later_run_goes_on_with_the_seeds_of_an_earlier_one_and_replaces_what_it_measured_again() {
        let earlier = vec![cell("a", "m", 1, 0.1), cell("a", "m", 2, 0.2)];
        let later = vec![cell("a", "m", 2, 0.3), cell("a", "m", 3, 0.4), cell("b", "m", 1, 0.5)];
        let cells = joined(earlier, later);
        let found: Vec<_> = cells.iter().map(|cell| (cell.suspect.as_str(), cell.seed, cell.asr)).collect();
        assert_eq!(found, [("a", 1, 0.1), ("b", 1, 0.5), ("a", 2, 0.3), ("a", 3, 0.4)]);
    }

    #[test]
    fn cells_survive_the_csv() {
        let back = read_cells(csv_of(&[cell("a", "m", 1, 0.25)]).unwrap().as_slice()).unwrap().remove(0);
        assert_eq!((back.asr, back.model.as_str()), (0.25, "m"));
        assert!(back.task_new.is_nan());
    }
}
