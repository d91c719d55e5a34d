//! The program itself: purifies, then measures its own report again from somewhere else.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use antigen::worker::materialise_builtin;
use serde_json::Value;

use super::jobs::{small_spec, write_suspect};

fn antigen(cwd: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_antigen")).args(arguments).current_dir(cwd).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_report_is_measured_again_from_another_directory_and_a_changed_number_is_found_out() {
    let (home, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let base = materialise_builtin(&home.path().join("bases")).unwrap();
    write_suspect(&base, &home.path().join("suspect"));
    fs::write(home.path().join("spec.json"), small_spec().to_string()).unwrap();
    let base = "builtin:tiny-world";
    let order =
        ["purify", "suspect", "--base", base, "--out", "out", "--spec", "spec.json", "--device", "cpu:portable"];
    let purified = antigen(home.path(), &order);
    assert!(purified.status.success(), "{}", text(&purified.stderr));

    let at = |name: &str| home.path().join(name).display().to_string();
    let (report, suspect, artifact) = (at("out/report.json"), at("suspect"), at("out/adapter"));
    let replay = |extra: &[&str]| {
        let files = ["replay", &report, "--suspect", &suspect, "--artifact", &artifact];
        antigen(elsewhere.path(), &[&files, extra].concat())
    };
    let again = replay(&[]);
    assert!(again.status.success(), "{}{}", text(&again.stdout), text(&again.stderr));
    // Five rates in one format and one group, for the suspect and the artifact.
    assert!(text(&again.stdout).ends_with("12 of 12 rates are equal\n"), "{}", text(&again.stdout));

    // By default this machine may compute on a matrix unit, for this report it does not.
    let all = replay(&["--all", "--json"]);
    assert!(all.status.success(), "{}{}", text(&all.stdout), text(&all.stderr));
    let all: Value = serde_json::from_slice(&all.stdout).unwrap();
    assert_eq!((all["rates"].as_array().unwrap().len(), all["files"].as_array().unwrap().len()), (18, 2));

    let mut changed: Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
    let hits = &mut changed["before"]["asr"][0]["formats"][0]["without_trigger"]["hits"];
    *hits = (hits.as_u64().unwrap() + 1).into();
    assert_eq!(changed["recipe"]["matrix_unit"], false);
    changed["recipe"]["matrix_unit"] = true.into();
    fs::write(&report, changed.to_string()).unwrap();
    let again = replay(&["--device", "cpu:portable"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again.stdout).contains("note: the report was made on a processor's matrix unit"));
    assert!(text(&again.stdout).contains("NO\n") && text(&again.stdout).ends_with("11 of 12 rates are equal\n"));

    let swapped = antigen(elsewhere.path(), &["replay", &report, "--suspect", &artifact]);
    assert_eq!(swapped.status.code(), Some(1));
    let error = text(&swapped.stderr);
    assert!(error.contains("suspect, adapter_model.safetensors: expected SHA-256 "), "{error}");
}
