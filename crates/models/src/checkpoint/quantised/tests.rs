//! One small checkpoint for each way to quantise, as its tool writes it, and lies about it.

use candle_core::Device;
use half::f16;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::checkpoint::tests::{Raw, write_raw};
use crate::checkpoint::{Checkpoint, SINGLE_FILE, open_checkpoint};
use crate::error::{ModelError, Result};

const LAYER: &str = "model.layers.0.mlp.up_proj";

/// A checkpoint of these tensors below [`LAYER`] and one plain tensor.
fn open(quantisation: Value, tensors: &[(&str, &str, &[usize], Vec<u8>)]) -> Result<Checkpoint> {
    let dir = tempfile::tempdir().unwrap();
    let mut config = json!({ "model_type": "llama" });
    config["quantization_config"] = quantisation;
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let mut raw: Vec<Raw> = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| {
            (format!("{LAYER}{name}"), (*dtype).to_owned(), shape.to_vec(), bytes.clone())
        })
        .collect();
    raw.push(("model.norm.weight".into(), "F16".into(), vec![2], vec![0; 4]));
    std::fs::write(dir.path().join(SINGLE_FILE), write_raw(&raw)).unwrap();
    let checkpoint = open_checkpoint(dir.path())?;
    // The folder goes away with this function; numbers are wanted before.
    for (name, dtype, ..) in tensors {
        if *dtype == "F8_E4M3" {
            LOADED.with(|loaded| {
                let tensor = checkpoint.load(&format!("{LAYER}{name}"), &Device::Cpu).unwrap();
                *loaded.borrow_mut() = tensor.flatten_all().unwrap().to_vec1().unwrap();
            });
        }
    }
    Ok(checkpoint)
}

thread_local! {
    static LOADED: std::cell::RefCell<Vec<f32>> = const { std::cell::RefCell::new(Vec::new()) };
}

fn loaded() -> Vec<f32> {
    LOADED.with(|loaded| loaded.borrow().clone())
}

fn zeros(bytes: usize) -> Vec<u8> {
    vec![0; bytes]
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn expect_refusal(outcome: Result<Checkpoint>, name: &str, words: &[&str]) {
    match outcome.expect_err(name) {
        ModelError::Quantised { scheme, found, instead } => {
            assert_eq!(scheme, name, "{found}");
            assert!(words.iter().all(|word| found.contains(word)), "{name}: {found}, {instead}");
        }
        other => panic!("{name}: {other}"),
    }
}

/// Eight inputs and sixteen outputs in groups of eight inputs, four bits each.
fn gptq() -> [(&'static str, &'static str, &'static [usize], Vec<u8>); 4] {
    [
        (".qweight", "I32", &[1, 16], zeros(64)),
        (".qzeros", "I32", &[1, 2], zeros(8)),
        (".scales", "F16", &[1, 16], zeros(32)),
        (".g_idx", "I32", &[8], zeros(32)),
    ]
}

fn awq() -> [(&'static str, &'static str, &'static [usize], Vec<u8>); 3] {
    [
        (".qweight", "I32", &[8, 2], zeros(64)),
        (".qzeros", "I32", &[1, 2], zeros(8)),
        (".scales", "F16", &[1, 16], zeros(32)),
    ]
}

#[test]
fn every_scheme_is_refused_by_its_name_when_only_the_tensors_tell() {
    let refuse = |name: &str, tensors: &[(&str, &str, &[usize], Vec<u8>)]| {
        let place = format!("{LAYER}{}", tensors[0].0);
        expect_refusal(open(Value::Null, tensors), name, &[&place, SINGLE_FILE, "says nothing"]);
    };
    refuse("GPTQ", &gptq());
    refuse("GPTQ", &gptq()[..3]);
    refuse("AWQ", &awq());
    let weight = || (".weight", "U8", [64, 1].as_slice(), zeros(64));
    refuse(
        "bitsandbytes",
        &[(".weight.absmax", "F32", &[2], zeros(8)), (".weight.quant_map", "F32", &[16], zeros(64)), weight()],
    );
    refuse("bitsandbytes", &[(".SCB", "F32", &[8], zeros(32)), (".weight", "I8", &[8, 8], zeros(64))]);
    refuse("HQQ", &[(".W_q", "U8", &[8, 8], zeros(64)), (".scale", "F16", &[8, 1], zeros(16))]);
    refuse("EETQ", &[(".weight_scales", "F16", &[8], zeros(16)), (".weight", "I8", &[8, 8], zeros(64))]);
    refuse("torchao", &[("._weight_qdata", "I8", &[8, 8], zeros(64)), ("._weight_scale", "F32", &[8], zeros(32))]);
    refuse(
        "compressed-tensors pack-quantized",
        &[(".weight_packed", "I32", &[8, 1], zeros(32)), (".weight_scale", "F16", &[8, 1], zeros(16))],
    );
    refuse("scaled I8", &[(".weight", "I8", &[8, 8], zeros(64)), (".weight_scale", "F32", &[8, 1], zeros(32))]);
    refuse("MXFP4", &[("_proj_blocks", "U8", &[8, 16], zeros(128)), ("_proj_scales", "U8", &[8, 1], zeros(8))]);
    refuse(
        "NVFP4",
        &[
            (".weight_scale_2", "F32", &[], zeros(4)),
            (".weight", "U8", &[8, 8], zeros(64)),
            (".weight_scale", "F8_E4M3", &[8, 1], zeros(8)),
        ],
    );
    refuse(
        "MLX",
        &[
            (".weight", "U32", &[8, 1], zeros(32)),
            (".scales", "F16", &[8, 1], zeros(16)),
            (".biases", "F16", &[8, 1], zeros(16)),
        ],
    );
    refuse("fp8 E5M2", &[(".weight", "F8_E5M2", &[8, 8], zeros(64)), (".weight_scale", "F32", &[], zeros(4))]);
}

#[test]
fn what_the_configuration_says_is_told_beside_what_the_tensors_show() {
    let method = |name: &str| json!({ "quant_method": name, "bits": 4 });
    expect_refusal(open(method("gptq"), &gptq()), "GPTQ", &["`gptq` in config.json", ", and tensor", ".qweight"]);
    expect_refusal(open(method("awq"), &awq()), "AWQ", &["`awq`", ", and tensor"]);
    expect_refusal(open(method("awq"), &gptq()), "GPTQ", &["`awq`", "contradicts the tensors"]);
    expect_refusal(open(method("auto-round"), &gptq()), "auto-round", &["`auto-round`", ", and tensor"]);
    let both = json!({ "load_in_4bit": true });
    expect_refusal(
        open(both, &[(".weight.absmax", "F32", &[2], zeros(8))]),
        "bitsandbytes",
        &["`quantization_config`"],
    );
    for (said, name) in [("gptq", "GPTQ"), ("fp8", "fp8"), ("hqq", "HQQ"), ("something new", "something new")] {
        let plain = [(".weight", "F32", [1, 2].as_slice(), zeros(8))];
        expect_refusal(open(method(said), &plain), name, &["none of them is quantised", said]);
    }
    let packed = json!({ "quant_method": "compressed-tensors", "format": "pack-quantized" });
    let tensors = [(".weight_packed", "I32", [8, 1].as_slice(), zeros(32))];
    expect_refusal(open(packed, &tensors), "compressed-tensors pack-quantized", &["`compressed-tensors`"]);
    let fp8 = [(".weight", "F8_E4M3", [1, 2].as_slice(), zeros(2)), (".weight_scale", "F32", &[], zeros(4))];
    expect_refusal(open(method("gptq"), &fp8), "fp8", &["contradicts the tensors"]);
}

#[test]
fn fp8_is_multiplied_by_its_scale_for_the_tensor_the_row_or_the_block() {
    // 1.0 is 0x38, 2.0 is 0x40, -0.5 is 0xb0, the largest number 448 is 0x7e, the smallest 2^-9 is 0x01.
    let bytes = vec![0x38, 0x40, 0xb0, 0x7e, 0x01, 0x38];
    let weight = |shape: &'static [usize]| (".weight", "F8_E4M3", shape, bytes.clone());
    let method = json!({ "quant_method": "fp8", "activation_scheme": "static" });
    let input = || (".input_scale", "F32", [].as_slice(), floats(&[0.1]));
    let scale = (".weight_scale", "F32", [].as_slice(), floats(&[2.0]));
    let checkpoint = open(method.clone(), &[weight(&[2, 3]), scale, input()]).unwrap();
    assert_eq!(loaded(), [2.0, 4.0, -1.0, 896.0, 2.0 / 512.0, 2.0]);
    assert_eq!(checkpoint.storage(), "fp8 e4m3");
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), [format!("{LAYER}.weight"), "model.norm.weight".into()]);
    assert_eq!(checkpoint.config_json, json!({ "model_type": "llama" }));
    assert_eq!(checkpoint.count_scalars(), 8);

    let rows = (".weight_scale", "F16", [2, 1].as_slice(), [2.0, 4.0].map(|x| f16::from_f32(x).to_le_bytes()).concat());
    let format = json!({ "quant_method": "compressed-tensors", "format": "float-quantized" });
    open(format, &[weight(&[2, 3]), rows]).unwrap();
    assert_eq!(loaded(), [2.0, 4.0, -1.0, 1792.0, 4.0 / 512.0, 4.0]);

    let blocks = (".weight_scale_inv", "F32", [2, 1].as_slice(), floats(&[2.0, 8.0]));
    let sized = json!({ "quant_method": "fp8", "weight_block_size": [2, 2] });
    open(sized, &[weight(&[3, 2]), blocks]).unwrap();
    assert_eq!(loaded(), [2.0, 4.0, -1.0, 896.0, 8.0 / 512.0, 8.0]);

    let blocks = (".weight_scale_inv", "F32", [1, 2].as_slice(), floats(&[2.0, 8.0]));
    let sized = json!({ "quant_method": "fp8", "weight_block_size": [128, 2] });
    open(sized, &[weight(&[2, 3]), blocks]).unwrap();
    assert_eq!(loaded(), [2.0, 4.0, -4.0, 896.0, 2.0 / 512.0, 8.0]);
}

#[test]
fn fp8_without_scales_or_with_scales_that_fit_nothing_is_refused() {
    let method = json!({ "quant_method": "fp8", "weight_block_size": [2, 2] });
    let weight = || (".weight", "F8_E4M3", [4, 4].as_slice(), zeros(16));
    let refuse = |scales: &[(&str, &str, &[usize], Vec<u8>)], word: &str| {
        let tensors: Vec<_> = std::iter::once(weight()).chain(scales.iter().cloned()).collect();
        let error = open(method.clone(), &tensors).unwrap_err();
        assert!(matches!(error, ModelError::Tensor { .. }) && error.to_string().contains(word), "{error}");
    };
    refuse(&[], "neither");
    let scale = |name: &'static str| (name, "F32", [].as_slice(), zeros(4));
    refuse(&[scale(".weight_scale"), scale(".weight_scale_inv")], "both");
    refuse(&[(".weight_scale", "F32", &[3], zeros(12))], "shape [3]");
    refuse(&[(".weight_scale", "F32", &[2, 3], zeros(24))], "each block of 2 x 2");
    refuse(&[(".weight_scale", "F32", &[0], vec![])], "shape [0]");
    refuse(&[(".weight_scale", "I32", &[], zeros(4))], "I32");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn whatever_shapes_and_block_sizes_say_fp8_is_opened_or_refused(
        weight in proptest::collection::vec(0usize..6, 0..4),
        scales in proptest::collection::vec(0usize..6, 0..4),
        block in proptest::sample::select(vec![
            json!([2, 2]), json!([0, 1]), json!([u64::MAX, 1]), json!([1, u64::MAX]), json!([-1, 3]), json!("2x2"), json!([2]),
        ]),
        byte in any::<u8>(),
    ) {
        let (elements, count) = (weight.iter().product(), scales.iter().product::<usize>());
        let tensors = [
            (".weight", "F8_E4M3", weight.as_slice(), vec![byte; elements]),
            (".weight_scale", "F32", scales.as_slice(), floats(&vec![2.0; count])),
        ];
        // Opening loads the tensor, too.
        if open(json!({ "quant_method": "fp8", "weight_block_size": block }), &tensors).is_ok() {
            prop_assert_eq!(loaded().len(), elements);
        }
    }

    #[test]
    fn whatever_the_names_say_a_checkpoint_is_opened_or_refused(
        parts in proptest::collection::vec(
            (proptest::sample::select(vec![
                ".weight", ".qweight", ".scales", ".g_idx", ".weight_scale", ".weight_scales", ".W_q", ".SCB", "_proj_blocks", "_qdata",
            ]), proptest::sample::select(vec!["I32", "U32", "U8", "I8", "F32", "F8_E5M2"]), 0usize..3),
            1..5,
        ),
        method in proptest::sample::select(vec![
            json!(null), json!("gptq"), json!(7), json!({}), json!("\u{202e}".repeat(2000)),
        ]),
    ) {
        let mut tensors: Vec<(&str, &str, &[usize], Vec<u8>)> = Vec::new();
        for (name, dtype, rank) in parts {
            let bytes = if matches!(dtype, "I32" | "U32" | "F32") { 4 } else { 1 };
            if tensors.iter().all(|(other, ..)| *other != name) {
                tensors.push((name, dtype, &[1, 1][..rank], zeros(bytes)));
            }
        }
        if let Err(ModelError::Quantised { scheme, .. }) = open(json!({ "quant_method": method }), &tensors) {
            prop_assert!(scheme.chars().count() <= 60);
        }
    }
}
