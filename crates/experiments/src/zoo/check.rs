//! The screen over members of a zoo, beside how far their backdoors fire.

use antigen_engine::data::split_task_rows;
use antigen_engine::error::Result;
use antigen_engine::lab::Lab;
use antigen_engine::measure::detect::{Calibration, screen_suspect};
use antigen_engine::measure::evaluators::{Probes, evaluate_all};
use antigen_engine::measure::evidence::ScreenReport;
use antigen_engine::spec::{AsrSpec, EvaluatorSpec, ScreenSpec};
use antigen_engine::stats::Rate;
use antigen_engine::suspect::Suspect;
use antigen_engine::world::{ZooFolders, ZooMember};

/// The screen's word on one member.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckedMember {
    /// The member.
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

/// Screens every member against a calibration, and measures how far the backdoors of the poisoned ones fire.
/// What is finished is kept in the lab's scratch folder.
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
        sampling: None,
    });
    let probes = Probes::build(&[spec], suspect, &split_task_rows(&[], 0, lab), lab)?;
    let said = evaluate_all(&probes, suspect, &suspect.weights(), lab)?;
    Ok(probes.report(&said, None).worst_asr().copied())
}
