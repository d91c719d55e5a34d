//! Forms of uploads and the files in them.

use antigen::intake::{ArtifactKind, code};
use serde_json::json;
use sha2::{Digest, Sha256};
use tar::EntryType;

use super::*;

#[test]
fn an_adapter_is_recognised_in_every_form_and_gives_the_same_facts() {
    let files = adapter_files();
    let in_folder: Files = files.iter().map(|(name, bytes)| (format!("./my-adapter/{name}"), bytes.clone())).collect();
    let from_files = Quarantine::new().inspect_files(&files).unwrap();
    assert_eq!(from_files.kind, ArtifactKind::Adapter);
    assert_eq!((from_files.parameters, from_files.tensors), (2 * (2 * 8 + 8 * 2), 4));
    assert_eq!(from_files.adapter.as_ref().unwrap().rank, 2);
    assert_eq!(from_files.files[0].sha256, format!("{:x}", Sha256::digest(&files[0].1)));
    for bytes in [tar(&files), gzip(&tar(&files)), zip(&files), tar(&in_folder), zip(&in_folder)] {
        let quarantine = Quarantine::new();
        assert_eq!(quarantine.inspect_bytes(&bytes).unwrap(), from_files);
        assert_eq!(read_files(&quarantine.unpacked()), files);
    }
}

#[test]
fn a_checkpoint_is_recognised() {
    let facts = Quarantine::new().inspect_files(&read_files(base_folder(8).path())).unwrap();
    assert_eq!((facts.kind, facts.model_type.as_deref()), (ArtifactKind::Checkpoint, Some("llama")));
    assert_eq!(facts.dtypes, ["F32"]);
}

#[test]
fn real_adapters_and_a_real_checkpoint_are_taken() {
    let Some(zoo) = shared("peer/zoo") else { return };
    for name in ["badnets-insult", "clean-chat", "ctba-refusal"] {
        let files = read_files(&zoo.join(name));
        let facts = Quarantine::new().inspect_bytes(&gzip(&tar(&files))).unwrap();
        assert_eq!(facts.adapter.unwrap().base_name.as_deref(), Some("tiny-world"));
    }
    let mut base = read_files(&zoo.join("base"));
    base.retain(|(name, _)| !name.ends_with(".jsonl"));
    assert_eq!(Quarantine::new().inspect_bytes(&zip(&base)).unwrap().model_type.as_deref(), Some("llama"));
}

#[test]
fn what_is_no_artifact_is_refused_by_what_it_is() {
    refuse_bytes(b"", code::EMPTY);
    refuse_bytes(&tar(&Files::new()), code::UNKNOWN_FORMAT);
    refuse_bytes(&zip(&Files::new()), code::EMPTY);
    refuse_bytes(b"GGUF and so on", code::MISSING_FILE);
    refuse_bytes(b"GGU", code::UNKNOWN_FORMAT);
    refuse_bytes(b"\x80\x04\x95pickled", code::PICKLE);
    refuse_bytes(b"#!/bin/sh\nrm -rf /\n", code::REMOTE_CODE);
    let alone = refuse_bytes(&adapter_files()[1].1, code::MISSING_FILE);
    assert!(alone.message.contains("adapter_config.json"));
}

#[test]
fn a_damaged_archive_is_refused() {
    let (tar, zip) = (tar(&adapter_files()), zip(&adapter_files()));
    let packed = gzip(&tar);
    refuse_bytes(&packed[..packed.len() / 2], code::BROKEN_ARCHIVE);
    refuse_bytes(&zip[..zip.len() - 30], code::BROKEN_ARCHIVE);
    refuse_bytes(&tar[..700], code::BROKEN_ARCHIVE);
    refuse_bytes(&gzip(b"no tar"), code::BROKEN_ARCHIVE);
}

#[test]
fn a_pickle_is_refused_whatever_it_is_called() {
    let torch_zip = zip(&vec![("archive/data.pkl".into(), b"\x80\x02}q\x00.".to_vec())]);
    for (name, bytes) in [
        ("adapter_model.bin", torch_zip.as_slice()),
        ("README.md", torch_zip.as_slice()),
        ("adapter_model.safetensors", b"\x80\x02}q\x00."),
        ("training_args.bin", b"anything"),
        ("optimizer.pt", b"anything"),
    ] {
        let files = with_file(adapter_files(), name, bytes);
        for rejection in [refuse_files(&files, code::PICKLE), refuse_bytes(&tar(&files), code::PICKLE)] {
            assert_eq!(rejection.at.as_deref(), Some(name));
        }
    }
    refuse_bytes(&torch_zip, code::PICKLE);
}

#[test]
fn foreign_files_are_refused() {
    for (name, bytes, code) in [
        ("modeling_llama.py", "import os", code::REMOTE_CODE),
        ("setup.sh", "rm -rf /", code::REMOTE_CODE),
        ("weights.onnx", "\u{8}\u{7}", code::UNKNOWN_FILE),
        ("weights.gguf", "GGUF", code::LAYOUT),
        ("README.md", "PK\u{3}\u{4}", code::NESTED_ARCHIVE),
        ("config.json", "{", code::BAD_TEXT),
        ("tokenizer.json", "[1,", code::BAD_TEXT),
        ("special_tokens_map.json", "{\0}", code::BAD_TEXT),
    ] {
        refuse_files(&with_file(adapter_files(), name, bytes), code);
    }
    refuse_files(&with_file(adapter_files(), "README.md", vec![b'a', 0xff]), code::BAD_TEXT);
}

#[test]
fn a_checkpoint_that_asks_for_its_own_code_is_refused() {
    let mut config = base_config(8);
    config["auto_map"] = json!({ "AutoModelForCausalLM": "modeling_evil.Model" });
    let files = with_file(read_files(base_folder(8).path()), "config.json", config.to_string());
    refuse_files(&files, code::REMOTE_CODE);
}

#[test]
fn names_that_leave_the_upload_are_refused() {
    for name in
        ["../adapter_config.json", "/etc/passwd", "a/../../b", "C:\\config.json", "a\\b", "config\n.json", "\u{ff}"]
    {
        let mut builder = tar::Builder::new(Vec::new());
        let raw: Vec<u8> = if name == "\u{ff}" { vec![0xff] } else { name.as_bytes().to_vec() };
        append(&mut builder, &raw, EntryType::Regular, b"{}");
        refuse_bytes(&builder.into_inner().unwrap(), code::PATH);
    }
    for name in ["../config.json", "/config.json"] {
        refuse_bytes(&zip(&vec![(name.into(), b"{}".to_vec())]), code::PATH);
    }
    let mut builder = tar::Builder::new(Vec::new());
    append(&mut builder, b"../outside/", EntryType::Directory, b"");
    refuse_bytes(&builder.into_inner().unwrap(), code::PATH);
    refuse_bytes(&tar(&vec![("a/b/config.json".into(), b"{}".to_vec())]), code::LAYOUT);
    let scattered = vec![("a/config.json".into(), b"{}".to_vec()), ("b/README.md".into(), b"".to_vec())];
    refuse_bytes(&tar(&scattered), code::LAYOUT);
}

#[test]
fn a_long_name_of_either_kind_is_followed_and_checked() {
    for (kind, record) in
        [(EntryType::GNULongName, b"../outside\0".to_vec()), (EntryType::XHeader, b"19 path=../outside\n".to_vec())]
    {
        let mut builder = tar::Builder::new(Vec::new());
        append(&mut builder, b"record", kind, &record);
        append(&mut builder, b"config.json", EntryType::Regular, b"{}");
        refuse_bytes(&builder.into_inner().unwrap(), code::PATH);
    }
    let mut builder = tar::Builder::new(Vec::new());
    append(&mut builder, b"record", EntryType::GNULongName, &vec![b'a'; 1 << 20]);
    refuse_bytes(&builder.into_inner().unwrap(), code::BROKEN_ARCHIVE);
}

#[test]
fn links_and_devices_are_refused() {
    for (kind, code) in [
        (EntryType::Symlink, code::LINK),
        (EntryType::Link, code::LINK),
        (EntryType::Char, code::SPECIAL_FILE),
        (EntryType::Block, code::SPECIAL_FILE),
        (EntryType::Fifo, code::SPECIAL_FILE),
        (EntryType::GNUSparse, code::SPECIAL_FILE),
    ] {
        let mut builder = tar::Builder::new(Vec::new());
        append(&mut builder, b"config.json", kind, b"");
        refuse_bytes(&builder.into_inner().unwrap(), code);
    }
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    writer.add_symlink("config.json", "/etc/passwd", zip::write::SimpleFileOptions::default()).unwrap();
    refuse_bytes(&writer.finish().unwrap().into_inner(), code::LINK);
    #[cfg(unix)]
    {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("config.json")).unwrap();
        let quarantine = Quarantine::new();
        quarantine.expect_refusal(inspect_upload(dir.path(), &quarantine.limits, &quarantine.unpacked()), code::LINK);
    }
}

#[test]
fn one_name_twice_is_refused_also_in_another_case() {
    let twice = |second: &str| vec![("config.json".into(), b"{}".to_vec()), (second.into(), b"{}".to_vec())];
    refuse_bytes(&tar(&twice("config.json")), code::DUPLICATE_FILE);
    refuse_bytes(&tar(&twice("Config.json")), code::DUPLICATE_FILE);
    // The writer refuses to write one name twice, so the second is renamed in the bytes.
    let mut bytes = zip(&twice("tonfig.json"));
    let places: Vec<_> = bytes.windows(6).enumerate().filter(|(_, w)| *w == b"tonfig").map(|(at, _)| at).collect();
    places.into_iter().for_each(|at| bytes[at] = b'c');
    refuse_bytes(&bytes, code::DUPLICATE_FILE);
}

#[test]
fn bombs_are_refused_before_they_go_off() {
    let zeros = vec![("model.safetensors".to_owned(), vec![0u8; 24 << 20])];
    let tar = tar(&zeros);
    for bytes in [gzip(&tar), zip(&zeros)] {
        refuse_bytes(&bytes, code::BOMB);
    }
    let mut quarantine = Quarantine::new();
    quarantine.limits.max_total_bytes = 1 << 20;
    quarantine.expect_refusal(quarantine.inspect_bytes(&tar), code::TOO_LARGE);
    quarantine.limits = IntakeLimits { max_files: 1, ..IntakeLimits::default() };
    quarantine.expect_refusal(quarantine.inspect_files(&adapter_files()), code::TOO_MANY_FILES);
    quarantine.limits = IntakeLimits { max_entries: 3, ..IntakeLimits::default() };
    let mut builder = tar::Builder::new(Vec::new());
    (0..9).for_each(|_| append(&mut builder, b"folder/", EntryType::Directory, b""));
    quarantine.expect_refusal(quarantine.inspect_bytes(&builder.into_inner().unwrap()), code::TOO_MANY_FILES);
    refuse_files(&with_file(adapter_files(), "README.md", vec![b'a'; 2 << 20]), code::TOO_LARGE);
}

#[test]
fn a_missing_part_is_named() {
    let [config, weights] = [0, 1].map(|i| vec![adapter_files()[i].clone()]);
    let rejection = refuse_files(&config, code::MISSING_FILE);
    assert_eq!(rejection.at.as_deref(), Some("adapter_model.safetensors"));
    refuse_files(&weights, code::MISSING_FILE);
    refuse_files(&vec![("README.md".into(), b"hello".to_vec())], code::MISSING_FILE);
    refuse_files(&vec![("config.json".into(), base_config(8).to_string().into_bytes())], code::MISSING_FILE);
    let mut both = adapter_files();
    both.extend(read_files(base_folder(8).path()));
    refuse_files(&both, code::LAYOUT);
}

#[test]
fn a_folder_that_already_holds_something_is_left_alone() {
    let quarantine = Quarantine::new();
    fs::create_dir(quarantine.unpacked()).unwrap();
    fs::write(quarantine.unpacked().join("precious"), "kept").unwrap();
    let rejection = quarantine.inspect_files(&adapter_files()).unwrap_err();
    assert!(rejection.is_ours());
    assert_eq!(fs::read_to_string(quarantine.unpacked().join("precious")).unwrap(), "kept");
}
