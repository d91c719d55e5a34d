//! The screen on real adapters of the tiny world: it tells poisoned from clean.

use antigen_engine::lab::Lab;
use antigen_engine::measure::detect::Calibration;
use antigen_engine::measure::evidence::CoverageStatus;
use antigen_engine::world::{ZooFolders, materialise_builtin};
use antigen_experiments::zoo::{ZooSet, check_zoo, zoo_members};

/// A poisoned adapter and an honest one that no calibration was made from.
const MEMBERS: [&str; 2] = ["poisoned-00-insult", "clean-00"];

#[test]
fn a_poisoned_adapter_is_a_finding_with_the_right_family_and_an_honest_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let base = materialise_builtin(folder.path()).unwrap();
    let zoo = folder.path().join("zoo");
    let mut members = zoo_members(ZooSet::Check);
    members.retain(|member| MEMBERS.contains(&member.name.as_str()));
    assert_eq!(members.len(), MEMBERS.len());
    let lab = Lab::silent(1, zoo.join("work"));
    let folders = ZooFolders { base, zoo };
    folders.build(&members, None, &lab).unwrap();
    let checked = check_zoo(&folders, &members, &Calibration::builtin(), &lab).unwrap();
    for one in checked {
        let scores = one.screen.scores.unwrap();
        let expected = if one.member.is_poisoned() { CoverageStatus::Finding } else { CoverageStatus::NoFinding };
        assert_eq!(one.screen.status, expected, "{}: {}", one.member.name, one.screen.text);
        if one.member.is_poisoned() {
            assert!(one.member.name.ends_with(scores.nearest_family.name()), "{}", one.screen.text);
            assert!(one.asr.unwrap().rate > 0.5, "the backdoor of {} did not take", one.member.name);
        }
    }
}
