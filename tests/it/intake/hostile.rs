//! Whatever comes, the answer is facts or a rejection, and a rejection leaves nothing.

use proptest::prelude::*;

use super::quantised::{fp8, gguf, tokenizer};
use super::*;

fn survive(bytes: &[u8]) {
    let quarantine = Quarantine::new();
    match quarantine.inspect_bytes(bytes) {
        Ok(facts) => {
            let _ = check_against_base(&facts, &quarantine.unpacked(), base_folder(8).path());
        }
        Err(rejection) => {
            assert!(rejection.code.starts_with("intake.") && !rejection.is_ours(), "{rejection}");
            assert!(!quarantine.unpacked().exists(), "{rejection}");
        }
    }
}

/// Overwrites, cuts and doubles pieces.
fn mutate(mut bytes: Vec<u8>, changes: &[(prop::sample::Index, u8, u8)]) -> Vec<u8> {
    for (place, kind, value) in changes {
        if bytes.is_empty() {
            break;
        }
        let at = place.index(bytes.len());
        match kind % 4 {
            0 | 1 => bytes[at] = *value,
            2 => bytes.truncate(at),
            _ => bytes.extend_from_within(at.saturating_sub(usize::from(*value))..at),
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_bytes_behind_any_magic_are_answered(
        magic in prop::sample::select(vec![&b""[..], b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b\x08", b"\x80\x02", b"\x10\0\0\0\0\0\0\0{", b"GGUF\x03\0\0\0"]),
        bytes in prop::collection::vec(any::<u8>(), 0..1500),
    ) {
        survive(&[magic, &bytes].concat());
    }

    #[test]
    fn damaged_uploads_are_answered(
        form in 0usize..4,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<u8>()), 1..6),
    ) {
        let files = adapter_files();
        match form {
            0 => survive(&mutate(tar(&files), &changes)),
            1 => survive(&mutate(gzip(&tar(&files)), &changes)),
            2 => survive(&mutate(zip(&files), &changes)),
            // Damage inside a sound archive reaches the header and configuration readers.
            _ => {
                let files = files.into_iter().map(|(name, bytes)| (name, mutate(bytes, &changes))).collect();
                survive(&tar(&files));
            }
        }
    }

    #[test]
    fn damaged_whole_models_are_answered(
        is_gguf in any::<bool>(),
        spread in prop::sample::select(vec![400usize, 2000, usize::MAX]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<u8>()), 1..6),
    ) {
        let files = match is_gguf {
            true => vec![("a.gguf".into(), gguf("llama", 0.5)), ("tokenizer.json".into(), tokenizer(16).into_bytes())],
            false => fp8(0x38, 0.5),
        };
        // Damage near the beginning reaches the header.
        let damage = |bytes: Vec<u8>| {
            let (head, tail) = bytes.split_at(bytes.len().min(spread));
            [mutate(head.to_vec(), &changes).as_slice(), tail].concat()
        };
        survive(&tar(&files.into_iter().map(|(name, bytes)| (name, damage(bytes))).collect()));
    }
}
