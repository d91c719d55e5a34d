//! Headers with one defect each, and round trips of whole checkpoints.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;
use serde_json::json;

use super::header::{Dtype, HeaderError, HeaderLimits, read_header};
use super::*;

/// Name, element type, shape and bytes of a tensor of any kind.
pub(super) type Raw = (String, String, Vec<usize>, Vec<u8>);

/// A safetensors file of tensors of any kind, which the writer of this crate would not write.
pub(super) fn write_raw(tensors: &[Raw]) -> Vec<u8> {
    let mut end = 0;
    let members = tensors.iter().map(|(name, dtype, shape, bytes)| {
        let begin = end;
        end += bytes.len();
        (name.clone(), json!({ "dtype": dtype, "shape": shape, "data_offsets": [begin, end] }))
    });
    let header = serde_json::Value::Object(members.collect()).to_string();
    let data = tensors.iter().flat_map(|(.., bytes)| bytes.iter().copied());
    (header.len() as u64).to_le_bytes().into_iter().chain(header.bytes()).chain(data).collect()
}

/// A file of this header and so many data bytes.
fn file(header: &str, data_bytes: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(bytes.len() + data_bytes, 0);
    bytes
}

fn read(bytes: &[u8]) -> Result<Vec<TensorEntry>, HeaderError> {
    read_header(bytes, bytes.len() as u64, &HeaderLimits::default())
}

#[test]
fn a_sound_header_gives_names_shapes_types_and_positions_in_the_file() {
    let header = r#"{"__metadata__":{"format":"pt"},"b":{"dtype":"F16","shape":[2,3],"data_offsets":[4,16]},"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}"#;
    let entries = read(&file(header, 16)).unwrap();
    let start = 8 + header.len() as u64;
    assert_eq!(entries[0].name, "a");
    assert_eq!((entries[0].elements(), entries[0].range.clone()), (1, start..start + 4));
    assert_eq!((entries[1].dtype, entries[1].shape.as_slice()), (Dtype::F16, [2, 3].as_slice()));
    assert_eq!(entries[1].range, start + 4..start + 16);
}

#[test]
fn each_defect_has_its_own_error() {
    let tensor = |name: &str, begin: usize, end: usize| {
        format!(r#""{name}":{{"dtype":"U8","shape":[{}],"data_offsets":[{begin},{end}]}}"#, end - begin)
    };
    let of = |members: &[String]| format!("{{{}}}", members.join(","));
    let expect = |name: &str, bytes: &[u8], test: fn(&HeaderError) -> bool| {
        let error = read(bytes).expect_err(name);
        assert!(test(&error), "{name}: {error}");
    };
    let one = of(&[tensor("a", 0, 4)]);
    let mut huge = file(&one, 4);
    huge[..8].copy_from_slice(&(1u64 << 30).to_le_bytes());
    let mut not_utf8 = file(&one, 4);
    not_utf8[10] = 0xff;
    expect("a header of 1 GB", &huge, |e| matches!(e, HeaderError::TooLarge { .. }));
    expect("seven bytes", &[0; 7], |e| matches!(e, HeaderError::Truncated { .. }));
    expect("a header past the end", &file(&one, 4)[..20], |e| matches!(e, HeaderError::Truncated { .. }));
    expect("data past the end", &file(&one, 3), |e| matches!(e, HeaderError::Truncated { .. }));
    expect("bytes left over", &file(&one, 5), |e| matches!(e, HeaderError::Hole { .. }));
    expect("a name that is not UTF-8", &not_utf8, |e| matches!(e, HeaderError::NotUtf8Name { at: 10 }));
    expect("no object", &file("[]", 0), |e| matches!(e, HeaderError::NotJson(_)));
    expect("half an object", &file(r#"{"a":"#, 0), |e| matches!(e, HeaderError::NotJson(_)));
    expect("no tensors", &file("{}", 0), |e| matches!(e, HeaderError::NoTensors));
    let twice = of(&[tensor("a", 0, 4), tensor("a", 4, 8)]);
    expect("one name twice", &file(&twice, 8), |e| matches!(e, HeaderError::DuplicateName(_)));
    let overlap = of(&[tensor("a", 0, 4), tensor("b", 3, 7)]);
    expect("shared bytes", &file(&overlap, 7), |e| matches!(e, HeaderError::Overlap { .. }));
    let same = of(&[tensor("a", 0, 4), tensor("b", 0, 4)]);
    expect("the same bytes", &file(&same, 4), |e| matches!(e, HeaderError::Overlap { .. }));
    let hole = of(&[tensor("a", 0, 4), tensor("b", 5, 7)]);
    expect("a hole", &file(&hole, 7), |e| matches!(e, HeaderError::Hole { at: 4, bytes: 1 }));
    expect("no name", &file(&of(&[tensor("", 0, 4)]), 4), |e| matches!(e, HeaderError::BadName { .. }));
    expect("a long name", &file(&of(&[tensor(&"n".repeat(600), 0, 4)]), 4), |e| {
        matches!(e, HeaderError::BadName { .. })
    });
    let raw = |text: &str| file(&format!(r#"{{"a":{{{text}}}}}"#), 4);
    let dtype = raw(r#""dtype":"F31","shape":[1],"data_offsets":[0,4]"#);
    expect("an unknown type", &dtype, |e| matches!(e, HeaderError::BadDtype { .. }));
    let size = raw(r#""dtype":"F32","shape":[2],"data_offsets":[0,4]"#);
    expect("a shape of another size", &size, |e| matches!(e, HeaderError::SizeMismatch { .. }));
    let backwards = raw(r#""dtype":"F32","shape":[1],"data_offsets":[4,0]"#);
    expect("offsets backwards", &backwards, |e| matches!(e, HeaderError::SizeMismatch { .. }));
    let product = raw(r#""dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]"#);
    expect("a product beyond 64 bits", &product, |e| matches!(e, HeaderError::BadShape { .. }));
    let field = raw(r#""dtype":"F32","shape":[1],"data_offsets":[0,4],"run":"me""#);
    expect("a foreign field", &field, |e| matches!(e, HeaderError::NotJson(_)));
    let many = HeaderLimits { max_tensors: 1, ..HeaderLimits::default() };
    let bytes = file(&of(&[tensor("a", 0, 4), tensor("b", 4, 8)]), 8);
    let error = read_header(bytes.as_slice(), bytes.len() as u64, &many).unwrap_err();
    assert!(matches!(error, HeaderError::TooManyTensors { limit: 1 }));
}

#[test]
fn float16_and_bfloat16_are_loaded_as_float32() {
    let dir = tempfile::tempdir().unwrap();
    let values = Tensor::new(&[[1.0f32, -2.5], [0.25, 65504.0]], &Device::Cpu).unwrap();
    for (dtype, kept) in [(DType::F32, 65504.0f32), (DType::F16, 65504.0), (DType::BF16, 65536.0)] {
        let path = dir.path().join("one.safetensors");
        write_tensor_file(&path, &[("w".into(), values.to_dtype(dtype).unwrap())], None).unwrap();
        let file = TensorFile::open(&path).unwrap();
        assert_eq!(file.find("w").unwrap().dtype.bytes(), dtype.size_in_bytes() as u64);
        let loaded = file.load("w", &Device::Cpu).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(loaded, [[1.0, -2.5], [0.25, kept]]);
    }
}

#[test]
fn a_value_that_the_stored_type_cannot_hold_is_an_error_and_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let tensors = [("w".to_owned(), Tensor::new(&[1.0f32, 1e30], &Device::Cpu).unwrap())];
    let error = write_tensor_file(&dir.path().join("w.safetensors"), &tensors, Some(Dtype::F16)).unwrap_err();
    assert!(matches!(&error, ModelError::NotFinite(name) if name == "w"), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_file_is_its_header_in_one_spelling_and_its_tensors_widest_first() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("w.safetensors");
    let tensor =
        |values: &[f32], dtype| Tensor::from_slice(values, values.len(), &Device::Cpu).unwrap().to_dtype(dtype);
    let tensors = [
        ("b".to_owned(), tensor(&[1.0], DType::BF16).unwrap()),
        ("z \"é\"".to_owned(), tensor(&[1.0, -2.0], DType::F16).unwrap().reshape((2, 1)).unwrap()),
        ("m".to_owned(), tensor(&[], DType::F32).unwrap()),
        ("a".to_owned(), tensor(&[0.5], DType::F32).unwrap().reshape(()).unwrap()),
    ];
    write_tensor_file(&path, &tensors, None).unwrap();
    let header = concat!(
        r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"#,
        r#""m":{"dtype":"F32","shape":[0],"data_offsets":[4,4]},"#,
        r#""z \"é\"":{"dtype":"F16","shape":[2,1],"data_offsets":[4,8]},"#,
        r#""b":{"dtype":"BF16","shape":[1],"data_offsets":[8,10]}}"#,
    );
    let padded = header.len().next_multiple_of(8);
    let mut expected = (padded as u64).to_le_bytes().to_vec();
    expected.extend_from_slice(header.as_bytes());
    expected.resize(8 + padded, b' ');
    expected.extend_from_slice(&[0, 0, 0, 0x3f, 0, 0x3c, 0, 0xc0, 0x80, 0x3f]);
    assert_eq!(std::fs::read(&path).unwrap().escape_ascii().to_string(), expected.escape_ascii().to_string());
}

#[test]
fn two_tensors_of_one_name_are_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let tensors: Vec<_> = ["a", "b", "a"].map(|name| (name.to_owned(), three_tensors().remove(0).1)).into();
    let error = write_tensor_file(&dir.path().join("w.safetensors"), &tensors, None).unwrap_err();
    assert!(matches!(&error, ModelError::Tensor { tensor, .. } if tensor == "a"), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// Three tensors of 16, 24 and 8 bytes.
fn three_tensors() -> Vec<(String, Tensor)> {
    let tensor = |n: usize| Tensor::arange(0f32, n as f32, &Device::Cpu).unwrap();
    vec![("c".into(), tensor(4)), ("a".into(), tensor(6)), ("b".into(), tensor(2))]
}

#[test]
fn a_large_checkpoint_is_sharded_and_opens_as_one() {
    let dir = tempfile::tempdir().unwrap();
    let config = json!({ "model_type": "llama" });
    save_checkpoint(dir.path(), &config, three_tensors().into_iter(), 40).unwrap();
    let mut files: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    files.sort();
    let shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    assert_eq!(files, ["config.json", shards[0], shards[1], INDEX_FILE]);
    let checkpoint = open_checkpoint(dir.path()).unwrap();
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(checkpoint.config_json, config);
    assert_eq!(checkpoint.load("b", &Device::Cpu).unwrap().to_vec1::<f32>().unwrap(), [0.0, 1.0]);
    assert!(matches!(checkpoint.load("d", &Device::Cpu), Err(ModelError::Tensor { .. })));
}

#[test]
fn an_index_that_lies_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    save_checkpoint(dir.path(), &json!({}), three_tensors().into_iter(), 40).unwrap();
    let refuse = |map: serde_json::Value, word: &str| {
        std::fs::write(dir.path().join(INDEX_FILE), json!({ "weight_map": map }).to_string()).unwrap();
        let error = open_checkpoint(dir.path()).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    };
    let [first, second] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    refuse(json!({ "a": first, "c": first, "b": first }), "`b`");
    refuse(json!({ "a": second, "c": first, "b": second }), "`a`");
    refuse(json!({ "a": first, "c": first, "b": second, "d": second }), "`d`");
    refuse(json!({ "a": "../secret.safetensors" }), "../secret");
    refuse(json!({ "a": "/etc/passwd" }), "passwd");
}

#[test]
fn shards_and_index_that_do_not_belong_together_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    save_checkpoint(dir.path(), &json!({}), three_tensors().into_iter(), 40).unwrap();
    let [first, second] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let path = |name: &str| dir.path().join(name);
    let refuse = |words: [&str; 2]| {
        let error = open_checkpoint(dir.path()).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    };
    std::fs::copy(path(first), path("model-00003-of-00003.safetensors")).unwrap();
    refuse(["model-00003-of-00003", "the index to name every file"]);
    std::fs::rename(path("model-00003-of-00003.safetensors"), path(SINGLE_FILE)).unwrap();
    refuse([SINGLE_FILE, "the index to name every file"]);
    std::fs::remove_file(path(INDEX_FILE)).unwrap();
    refuse([first, "one file of weights"]);
    std::fs::remove_file(path(SINGLE_FILE)).unwrap();
    refuse([INDEX_FILE, first]);
    save_checkpoint(dir.path(), &json!({}), three_tensors().into_iter(), 40).unwrap();
    std::fs::remove_file(path(second)).unwrap();
    refuse([second, "no such file"]);
}

#[test]
fn a_configuration_that_two_readers_could_read_differently_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    save_checkpoint(dir.path(), &json!({}), three_tensors().into_iter(), u64::MAX).unwrap();
    for (text, word) in [
        (r#"{"vocab_size":1,"vocab_size":2}"#, "`vocab_size` twice"),
        (r#"{"rope_scaling":{"factor":1,"factor":2}}"#, "`factor` twice"),
        ("[]", "a list"),
        ("7", "a single value"),
        ("", "EOF"),
    ] {
        std::fs::write(dir.path().join("config.json"), text).unwrap();
        let error = open_checkpoint(dir.path()).unwrap_err().to_string();
        assert!(error.contains(word) && error.contains("config.json"), "{error}");
    }
}

#[test]
fn tensors_of_integers_or_float64_are_told_by_name_when_they_are_wanted() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), "{}").unwrap();
    for (dtype, bytes) in [("I64", 16), ("F64", 16), ("I8", 2), ("BOOL", 2)] {
        let raw = [("w".to_owned(), dtype.to_owned(), vec![2], vec![0; bytes])];
        std::fs::write(dir.path().join(SINGLE_FILE), write_raw(&raw)).unwrap();
        let checkpoint = open_checkpoint(dir.path()).unwrap();
        for error in [checkpoint.expect("w", &[2]).unwrap_err(), checkpoint.load("w", &Device::Cpu).unwrap_err()] {
            let text = error.to_string();
            assert!(text.contains("`w`") && text.contains("F32, F16 or BF16") && text.contains(dtype), "{text}");
        }
    }
}

#[test]
fn a_tensor_file_shorter_than_its_header_says_is_refused_on_opening() {
    let dir = tempfile::tempdir().unwrap();
    save_checkpoint(dir.path(), &json!({}), three_tensors().into_iter(), u64::MAX).unwrap();
    let path = dir.path().join(SINGLE_FILE);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    assert!(open_checkpoint(dir.path()).unwrap_err().to_string().contains("cut short"));
}

proptest! {
    // Each case syncs several files to disk.
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), length in 0u64..400) {
        let _ = read(&bytes);
        let mut framed = length.to_le_bytes().to_vec();
        framed.push(b'{');
        framed.extend(bytes);
        let _ = read(&framed);
    }

    #[test]
    fn what_is_written_is_read_back_whatever_the_order(
        tensors in proptest::collection::btree_map("[a-z\"é.]{1,12}", proptest::collection::vec(-1e30f32..1e30, 0..20), 1..8),
        max_shard_bytes in 1u64..200,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let tensor = |values: &Vec<f32>| Tensor::from_slice(values, values.len(), &Device::Cpu).unwrap();
        let list: Vec<_> = tensors.iter().map(|(name, values)| (name.clone(), tensor(values))).collect();
        save_checkpoint(dir.path(), &json!({}), list.clone().into_iter(), max_shard_bytes).unwrap();
        let checkpoint = open_checkpoint(dir.path()).unwrap();
        let read: BTreeMap<_, _> = checkpoint.names()
            .map(|name| (name.to_owned(), checkpoint.load(name, &Device::Cpu).unwrap().to_vec1::<f32>().unwrap()))
            .collect();
        prop_assert_eq!(read, tensors);

        let [one, two] = ["one", "two"].map(|name| dir.path().join(name));
        write_tensor_file(&one, &list, None).unwrap();
        write_tensor_file(&two, &list.into_iter().rev().collect::<Vec<_>>(), None).unwrap();
        prop_assert_eq!(std::fs::read(one).unwrap(), std::fs::read(two).unwrap());
    }
}
