//! The quantisation of a checkpoint, by its configuration and by its tensors. Either may be silent, or lie.
//!
//! fp8 goes on to `fp8.rs`, GGUF never comes here. Everything else is refused by name: its numbers depend on
//! kernels and settings of the tool that made it, and the float checkpoint it was made from is the better
//! thing to purify anyway.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use super::header::{Dtype, TensorEntry};
use crate::error::{ModelError, Result};

/// The advice about a quantised checkpoint that is not read.
pub const UPLOAD_INSTEAD: &str = "upload the unquantised checkpoint that it was made from, in safetensors";

/// A way to store weights in few bits. Told apart as far as it matters for saying what was found.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Scheme {
    Gptq,
    Awq,
    BitsAndBytes,
    /// E4M3 with scales: the one that is widened.
    Fp8,
    /// By its own name.
    Other(String),
}

impl fmt::Display for Scheme {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Gptq => "GPTQ",
            Self::Awq => "AWQ",
            Self::BitsAndBytes => "bitsandbytes",
            Self::Fp8 => "fp8",
            Self::Other(name) => name,
        })
    }
}

/// The settings of an fp8 checkpoint, `null` when only its tensors speak of it; none for a plain one.
///
/// `entries` holds every tensor with the name of its file.
///
/// # Errors
/// [`ModelError::Quantised`] by name for every other quantisation, and when configuration and tensors
/// contradict each other.
pub(super) fn find_fp8(config: &Value, entries: &BTreeMap<&str, (&TensorEntry, String)>) -> Result<Option<Value>> {
    let claim = read_claim(config);
    let sign = find_sign(entries);
    match (claim, sign) {
        (None, None) => Ok(None),
        (None, Some((Scheme::Fp8, _))) => Ok(Some(Value::Null)),
        (None, Some((scheme, place))) => Err(refuse(scheme, format!("{place}; config.json says nothing of it"))),
        (Some((Scheme::Fp8, _, settings)), Some((Scheme::Fp8, _))) => Ok(Some(settings.clone())),
        (Some((scheme, said, _)), None) => {
            let instead =
                "remove `quantization_config` if these are the float weights, or upload the files that belong to it";
            let found = format!("{said}, which contradicts the tensors: none of them is quantised");
            Err(ModelError::Quantised { scheme: scheme.to_string(), found, instead: instead.into() })
        }
        (Some((scheme, said, _)), Some((shown, place))) => {
            // A tool of its own name may well store what another one stores.
            let agree = scheme == shown || matches!(scheme, Scheme::Other(_)) || matches!(shown, Scheme::Other(_));
            let link = if agree { "and" } else { "which contradicts the tensors, with" };
            Err(refuse(if agree { scheme } else { shown }, format!("{said}, {link} {place}")))
        }
    }
}

fn refuse(scheme: Scheme, found: String) -> ModelError {
    ModelError::Quantised { scheme: scheme.to_string(), found, instead: UPLOAD_INSTEAD.into() }
}

/// The claim of `config.json`: the scheme, the words, the settings.
fn read_claim(config: &Value) -> Option<(Scheme, String, &Value)> {
    // `compression_config` is compressed-tensors before it joined the others, `quantization` is MLX.
    let keys = ["quantization_config", "compression_config", "quantization"];
    let (key, settings) = keys.iter().map(|key| (key, &config[*key])).find(|(_, value)| !value.is_null())?;
    let method = ["quant_method", "quant_type"].iter().find_map(|field| settings[*field].as_str());
    let has = |field: &str| settings[field].as_bool() == Some(true);
    let scheme = match method.map(str::to_ascii_lowercase).as_deref() {
        Some("gptq") => Scheme::Gptq,
        Some("awq") => Scheme::Awq,
        Some("fp8" | "fbgemm_fp8") => Scheme::Fp8,
        Some("bitsandbytes") => Scheme::BitsAndBytes,
        Some("compressed-tensors") if settings["format"] == "float-quantized" => Scheme::Fp8,
        Some("compressed-tensors") => Scheme::Other(match settings["format"].as_str() {
            Some(format) => format!("compressed-tensors {}", shorten(format)),
            None => "compressed-tensors".into(),
        }),
        Some("modelopt") if settings["quant_algo"] == "FP8" => Scheme::Fp8,
        Some("hqq") => Scheme::Other("HQQ".into()),
        Some("eetq") => Scheme::Other("EETQ".into()),
        Some("mxfp4") => Scheme::Other("MXFP4".into()),
        Some(other) => Scheme::Other(shorten(other)),
        None if has("load_in_4bit") || has("load_in_8bit") => Scheme::BitsAndBytes,
        None if *key == "quantization" => Scheme::Other("MLX".into()),
        None => Scheme::Other("unnamed".into()),
    };
    let said = match method {
        Some(method) => format!("`{key}` with method `{}` in config.json", shorten(method)),
        None => format!("`{key}` in config.json"),
    };
    Some((scheme, said, settings))
}

fn shorten(name: &str) -> String {
    name.chars().take(40).collect()
}

/// Endings of tensor names that only one tool gives; the most telling first.
const ENDINGS: [(&str, &str); 15] = [
    (".SCB", "bitsandbytes 8-bit"),
    (".absmax", "bitsandbytes 4-bit"),
    (".quant_map", "bitsandbytes 4-bit"),
    (".W_q", "HQQ"),
    (".weight_scales", "EETQ"),
    ("_qdata", "torchao"),
    (".weight_packed", "compressed-tensors pack-quantized"),
    (".bitmask", "compressed-tensors sparse"),
    (".codebooks", "AQLM"),
    (".Qidxs", "QuIP#"),
    (".q_invperm", "EXL2"),
    (".trellis", "EXL3"),
    (".weight._data", "quanto"),
    (".weight_scale_2", "NVFP4"),
    ("_proj_blocks", "MXFP4"),
];

/// The first tensor that shows a quantisation, and which one.
fn find_sign(entries: &BTreeMap<&str, (&TensorEntry, String)>) -> Option<(Scheme, String)> {
    let place =
        |(entry, file): &(&TensorEntry, String)| format!("tensor `{}` ({}) in {file}", entry.name, entry.dtype.name());
    let find = |test: &dyn Fn(&TensorEntry) -> bool| entries.values().find(|(entry, _)| test(entry));
    let sibling = |entry: &TensorEntry, from: &str, to: &str| {
        let stem = entry.name.strip_suffix(from)?;
        entries.get(format!("{stem}{to}").as_str()).map(|(sibling, _)| *sibling)
    };
    if let Some(found) = find(&|entry| entry.name.ends_with(".qweight")) {
        return Some((name_packed_integers(found.0, &|to| sibling(found.0, ".qweight", to)), place(found)));
    }
    for (ending, name) in ENDINGS {
        let Some(found) = find(&|entry| entry.name.ends_with(ending)) else { continue };
        let is_theirs = name.starts_with("bitsandbytes");
        return Some((if is_theirs { Scheme::BitsAndBytes } else { Scheme::Other(name.into()) }, place(found)));
    }
    let is_scaled = |entry: &TensorEntry, ending: &str| sibling(entry, ".weight", ending).is_some();
    if let Some(found) = find(&|entry| entry.dtype == Dtype::U32 && is_scaled(entry, ".scales")) {
        return Some((Scheme::Other("MLX".into()), place(found)));
    }
    let is_integer = |entry: &TensorEntry| matches!(entry.dtype, Dtype::I8 | Dtype::U8 | Dtype::I32);
    if let Some(found) = find(&|entry| is_integer(entry) && is_scaled(entry, ".weight_scale")) {
        return Some((Scheme::Other(format!("scaled {}", found.0.dtype.name())), place(found)));
    }
    if let Some(found) = find(&|entry| entry.dtype == Dtype::F8E5M2) {
        return Some((Scheme::Other("fp8 E5M2".into()), place(found)));
    }
    find(&|entry| entry.dtype == Dtype::F8E4M3).map(|found| (Scheme::Fp8, place(found)))
}

/// GPTQ packs along the inputs (`qweight [in / 8, out]`), AWQ along the outputs (`[in, out / 8]`); scales are
/// `[groups, out]`.
fn name_packed_integers<'a>(packed: &TensorEntry, sibling: &dyn Fn(&str) -> Option<&'a TensorEntry>) -> Scheme {
    if sibling(".g_idx").is_some() {
        return Scheme::Gptq;
    }
    if sibling(".weight_scales").is_some() {
        return Scheme::Other("EETQ".into());
    }
    match (packed.shape.get(1), sibling(".scales").and_then(|scales| scales.shape.get(1))) {
        (Some(columns), Some(out)) if columns == out => Scheme::Gptq,
        (Some(columns), Some(out)) if columns < out => Scheme::Awq,
        _ => Scheme::Other("packed integers (GPTQ or AWQ)".into()),
    }
}

#[cfg(test)]
mod tests;
