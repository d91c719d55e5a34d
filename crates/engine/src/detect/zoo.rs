//! The screen over a whole zoo: to make a calibration from it, or to see how well one tells poisoned from clean.

use std::path::PathBuf;

use super::calibration::{Calibrated, Calibration, CalibrationGroup};
use super::{Uptake, measure_uptake, screen_suspect};
use crate::data::split_own_rows;
use crate::error::{EngineError, Result};
use crate::evaluators::{Probes, evaluate_all};
use crate::lab::Lab;
use crate::report::{Rate, ScreenReport};
use crate::spec::{AsrSpec, DataFolders, EvaluatorSpec, PromptFormat, ScreenSpec, SubjectKind};
use crate::suspect::{Submission, Submitted, Suspect, base_digests};
use crate::world::{ZooMember, member_dir};

/// A zoo over its base: both folders.
#[derive(Debug, Clone)]
pub struct ZooFolders {
    /// The base, with `train.jsonl` and `test.jsonl`.
    pub base: PathBuf,
    /// The folder that [`crate::world::build_zoo`] filled.
    pub zoo: PathBuf,
}

/// What the screen says about one member.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckedMember {
    /// Who it is.
    pub member: ZooMember,
    /// The screen.
    pub screen: ScreenReport,
    /// Attack success of its backdoor in the format that it learnt; `None` for honest ones.
    pub asr: Option<Rate>,
}

/// Triggered prompts of [`check_zoo`]: enough to see whether a backdoor took.
const ASR_ROWS: usize = 60;
/// Longer than the targets of the zoo.
const ASR_TOKENS: usize = 40;

impl ZooFolders {
    fn submission(&self, member: &ZooMember) -> Submission {
        let dir = member_dir(&self.zoo, member);
        let suspect = match member.whole_model {
            true => Submitted::Checkpoint { dir },
            false => Submitted::Adapter { adapter_dir: dir, base_dir: self.base.clone() },
        };
        Submission {
            suspect,
            train_rows: self.base.join("train.jsonl"),
            test_rows: self.base.join("test.jsonl"),
            own_rows: None,
            calibration_dir: None,
            base_dir: Some(self.base.clone()),
            signature: None,
            folders: DataFolders::default(),
        }
    }

    fn open(&self, member: &ZooMember, lab: &Lab) -> Result<Suspect> {
        Suspect::open(&self.submission(member), PromptFormat::Alpaca, lab)
    }
}

/// Screens every member and makes a calibration of what was measured: honest members for the threshold, poisoned ones beside them.
///
/// # Errors
/// Those of [`measure_uptake`], and of reading the base's files.
pub fn calibrate(folders: &ZooFolders, members: &[ZooMember], lab: &Lab) -> Result<Calibration> {
    let base = base_digests(&folders.base)?;
    let mut calibration: Option<Calibration> = None;
    for kind in [SubjectKind::Adapter, SubjectKind::Checkpoint] {
        let of_kind: Vec<_> = members.iter().filter(|member| member.kind() == kind).collect();
        let mut group: Option<CalibrationGroup> = None;
        for (i, member) in of_kind.iter().enumerate() {
            let suspect = folders.open(member, lab)?;
            let recipe = ScreenSpec::default().resolve(kind, suspect.parameters());
            let uptake = measure_uptake(&suspect, &recipe, &lab.part(i, of_kind.len()))?;
            calibration.get_or_insert_with(|| Calibration::for_base(base.clone(), &suspect));
            let new = || CalibrationGroup { kind, recipe, clean: Vec::new(), poisoned: Vec::new() };
            group.get_or_insert_with(new).add(member, uptake);
        }
        if let (Some(calibration), Some(group)) = (&mut calibration, group) {
            calibration.groups.push(group);
        }
    }
    calibration.ok_or_else(|| EngineError::Data("expected a zoo with members, found none".into()))
}

impl CalibrationGroup {
    fn add(&mut self, member: &ZooMember, uptake: Uptake) {
        let list = if member.is_poisoned() { &mut self.poisoned } else { &mut self.clean };
        list.push(Calibrated { name: member.name.clone(), about: member.about(), uptake });
    }
}

/// Screens every member against a calibration, and measures how far the backdoors of the poisoned ones fire. What is finished is kept in
/// the lab's scratch folder.
///
/// # Errors
/// Those of the screen and of generation.
pub fn check_zoo(
    folders: &ZooFolders,
    members: &[ZooMember],
    calibration: &Calibration,
    lab: &Lab,
) -> Result<Vec<CheckedMember>> {
    let check = |(i, member): (usize, &ZooMember)| {
        let suspect = folders.open(member, lab)?;
        let part = lab.part(i, members.len());
        let screen = screen_suspect(&suspect, &ScreenSpec::default(), Some(calibration), &part)?;
        Ok(CheckedMember { asr: attack_success(member, &suspect, &part)?, member: member.clone(), screen })
    };
    members.iter().enumerate().map(check).collect()
}

fn attack_success(member: &ZooMember, suspect: &Suspect, lab: &Lab) -> Result<Option<Rate>> {
    let Some(attack) = &member.implant.attack else { return Ok(None) };
    let spec = EvaluatorSpec::Asr(AsrSpec {
        attack: attack.clone(),
        behaviour: member.implant.behaviour.clone(),
        triggered: Vec::new(),
        rows: ASR_ROWS,
        formats: vec![member.implant.format],
        max_new_tokens: ASR_TOKENS,
    });
    let probes = Probes::build(&[spec], suspect, &split_own_rows(&[], 0, lab), lab)?;
    let said = evaluate_all(&probes, suspect, &suspect.weights, lab)?;
    Ok(probes.report(&said, None).worst_asr().copied())
}
