//! The screen over a whole zoo, to make a calibration from it.

use super::calibration::{Calibrated, Calibration, CalibrationGroup};
use super::{Uptake, measure_uptake};
use crate::error::{EngineError, Result};
use crate::lab::Lab;
use crate::spec::{ScreenSpec, SubjectKind};
use crate::suspect::base_digests;
use crate::world::{ZooFolders, ZooMember};

/// Screens every member and makes a calibration from the measurements: honest members for the threshold,
/// poisoned ones beside them.
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
