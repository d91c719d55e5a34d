//! GGUF files of the `llama` architecture (Llama, TinyLlama, CodeLlama, Mistral), turned back into what they
//! were made from.
//!
//! The converter renames tensors, and reorders the rows of queries and keys: a checkpoint holds the two
//! halves of each head one after the other, GGUF alternates them (the layout of Meta's own files). Both
//! follow `convert_hf_to_gguf.py`.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::super::values::ValueReader;
use super::{GgufHeader, GgufTensor, Metadatum};
use crate::error::{ModelError, Result};

/// Settings of the architecture that are read here, or that say nothing about the arithmetic.
const KNOWN_SETTINGS: [&str; 19] = [
    "vocab_size",
    "context_length",
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
    "expert_count",
    "expert_used_count",
    "tensor_data_layout",
];

/// A file's configuration and tensors under the names of a checkpoint.
pub(super) struct Converted<'a> {
    pub config: Value,
    /// Name in a checkpoint, tensor, and the number of heads whose rows alternate.
    pub tensors: Vec<(String, &'a GgufTensor, Option<usize>)>,
}

/// Reads the configuration and names every tensor.
pub(super) fn convert<'a>(path: &Path, header: &'a GgufHeader) -> Result<Converted<'a>> {
    let settings = Settings { path, header };
    settings.check_kind()?;
    let heads = settings.size("attention.head_count")?;
    let key_value_heads = settings.optional_size("attention.head_count_kv")?.unwrap_or(heads);
    let mut tensors = Vec::with_capacity(header.tensors.len());
    for tensor in header.tensors.iter().filter(|tensor| tensor.name != "rope_freqs.weight") {
        let Some(name) = rename(&tensor.name) else {
            return Err(ModelError::Tensor {
                tensor: tensor.name.clone(),
                expected: "a tensor of the llama architecture".into(),
                found: "another name".into(),
            });
        };
        let heads = match name.rsplit_once(".self_attn.") {
            Some((_, "q_proj.weight")) => Some(heads),
            Some((_, "k_proj.weight")) => Some(key_value_heads),
            _ => None,
        };
        if heads.is_some_and(|heads| !tensor.shape[0].is_multiple_of(2 * heads)) {
            return Err(ModelError::Tensor {
                tensor: tensor.name.clone(),
                expected: format!("a multiple of {} rows, two for each head", 2 * heads.unwrap_or(0)),
                found: format!("shape {:?}", tensor.shape),
            });
        }
        tensors.push((name, tensor, heads));
    }
    let config = settings.config(heads, key_value_heads, &tensors)?;
    Ok(Converted { config, tensors })
}

/// The name of a tensor in a checkpoint.
fn rename(name: &str) -> Option<String> {
    match name {
        "token_embd.weight" => return Some("model.embed_tokens.weight".into()),
        "output_norm.weight" => return Some("model.norm.weight".into()),
        "output.weight" => return Some("lm_head.weight".into()),
        _ => {}
    }
    let (number, part) = name.strip_prefix("blk.")?.split_once('.')?;
    let layer: u32 = number.parse().ok()?;
    let part = match part.strip_suffix(".weight")? {
        "attn_norm" => "input_layernorm",
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_output" => "self_attn.o_proj",
        "ffn_norm" => "post_attention_layernorm",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        _ => return None,
    };
    // `blk.01` would be a second spelling of `blk.1`.
    (layer.to_string() == number).then(|| format!("model.layers.{layer}.{part}.weight"))
}

/// The metadata, asked by the names of the architecture.
struct Settings<'a> {
    path: &'a Path,
    header: &'a GgufHeader,
}

impl Settings<'_> {
    fn find(&self, key: &str) -> Option<&Metadatum> {
        self.header.metadata.get(key)
    }

    fn wrong(&self, expected: &str, found: impl std::fmt::Debug) -> ModelError {
        ModelError::Format { path: self.path.into(), expected: expected.into(), found: format!("{found:?}") }
    }

    /// Refuses other architectures, parts of files, and settings that nothing here would follow.
    fn check_kind(&self) -> Result<()> {
        let refuse = |what: String, instead: &str| Err(ModelError::Unsupported { what, instead: instead.into() });
        match self.find("general.architecture") {
            Some(Metadatum::Text(name)) if name == "llama" => {}
            Some(Metadatum::Text(name)) => {
                let instead = "only the architecture `llama` is read from GGUF: upload the checkpoint in safetensors";
                return refuse(format!("the GGUF architecture `{name}`"), instead);
            }
            other => return Err(self.wrong("`general.architecture` to be text", other)),
        }
        match self.find("general.type") {
            None => {}
            Some(Metadatum::Text(kind)) if kind == "model" => {}
            other => return refuse(format!("a GGUF file of type {other:?}"), "upload a whole model"),
        }
        if matches!(self.find("split.count"), Some(Metadatum::Integer(2..))) {
            return refuse("a GGUF file in several parts".into(), "merge them with `llama-gguf-split --merge`");
        }
        if matches!(self.find("llama.expert_count"), Some(value) if *value != Metadatum::Integer(0)) {
            return refuse("a mixture of experts".into(), "upload a dense model");
        }
        match self.find("llama.rope.scaling.type") {
            None => {}
            Some(Metadatum::Text(kind)) if kind == "none" => {}
            other => {
                return refuse(
                    format!("the GGUF setting `llama.rope.scaling.type` of {other:?}"),
                    "upload the checkpoint in safetensors",
                );
            }
        }
        let keys = self.header.metadata.keys();
        let unknown = keys.filter_map(|key| key.strip_prefix("llama.")).find(|key| !KNOWN_SETTINGS.contains(key));
        match unknown {
            None => Ok(()),
            Some(key) => refuse(format!("the GGUF setting `llama.{key}`"), "upload the checkpoint in safetensors"),
        }
    }

    fn optional_size(&self, key: &str) -> Result<Option<usize>> {
        match self.find(&format!("llama.{key}")) {
            None => Ok(None),
            Some(Metadatum::Integer(size @ 1..=0xff_ffff)) => Ok(Some(*size as usize)),
            other => Err(self.wrong(&format!("`llama.{key}` between 1 and 16,777,215"), other)),
        }
    }

    fn size(&self, key: &str) -> Result<usize> {
        let missing = || self.wrong(&format!("`llama.{key}`"), "no such key");
        self.optional_size(key)?.ok_or_else(missing)
    }

    fn optional_number(&self, key: &str) -> Result<Option<f64>> {
        match self.find(&format!("llama.{key}")) {
            None => Ok(None),
            Some(Metadatum::Float(number)) if number.is_finite() => Ok(Some(*number)),
            other => Err(self.wrong(&format!("`llama.{key}` to be a finite number"), other)),
        }
    }

    fn config(
        &self,
        heads: usize,
        key_value_heads: usize,
        tensors: &[(String, &GgufTensor, Option<usize>)],
    ) -> Result<Value> {
        let find = |name: &str| tensors.iter().find(|(other, ..)| other == name).map(|(_, tensor, _)| *tensor);
        let no_embedding = || self.wrong("the tensor `token_embd.weight`", "no such tensor");
        let embedding = find("model.embed_tokens.weight").ok_or_else(no_embedding)?;
        let width = self.size("embedding_length")?;
        let head_width = match self.optional_size("attention.key_length")? {
            Some(head_width) => head_width,
            None => width / heads,
        };
        let of_heads = ["attention.value_length", "rope.dimension_count"];
        for key in of_heads {
            let found = self.optional_size(key)?.unwrap_or(head_width);
            if found != head_width {
                return Err(self.wrong(&format!("`llama.{key}` to be the head width {head_width}"), found));
            }
        }
        let epsilon = self.optional_number("attention.layer_norm_rms_epsilon")?;
        let base = self.optional_number("rope.freq_base")?.unwrap_or(10_000.0);
        let mut config = json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "vocab_size": embedding.shape[0],
            "hidden_size": width,
            "intermediate_size": self.size("feed_forward_length")?,
            "num_hidden_layers": self.size("block_count")?,
            "num_attention_heads": heads,
            "num_key_value_heads": key_value_heads,
            "head_dim": head_width,
            "max_position_embeddings": self.size("context_length")?,
            "rms_norm_eps": epsilon.ok_or_else(|| self.wrong("`llama.attention.layer_norm_rms_epsilon`", "no such key"))?,
            "rope_theta": base,
            "tie_word_embeddings": find("lm_head.weight").is_none(),
        });
        if let Some(scaling) = self.rope_scaling(base, head_width)? {
            config["rope_scaling"] = scaling;
        }
        if let Value::Object(fields) = &mut config {
            self.add_special_tokens(fields);
        }
        Ok(config)
    }

    fn add_special_tokens(&self, fields: &mut Map<String, Value>) {
        for (field, key) in [("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding")] {
            if let Some(Metadatum::Integer(id @ 0..)) = self.find(&format!("tokenizer.ggml.{key}_token_id")) {
                fields.insert(field.into(), json!(id));
            }
        }
    }

    /// Llama 3.1 and later slow down low frequencies. GGUF holds no settings but the result: one divisor for
    /// each rotary pair. It is told by reproducing it from the settings that all these models share; anything
    /// else is refused.
    fn rope_scaling(&self, base: f64, head_width: usize) -> Result<Option<Value>> {
        let Some(table) = self.header.tensors.iter().find(|tensor| tensor.name == "rope_freqs.weight") else {
            return Ok(None);
        };
        let foreign = || ModelError::Unsupported {
            what: "the GGUF tensor `rope_freqs.weight`, which is not that of a Llama 3,".into(),
            instead: "upload the checkpoint in safetensors".into(),
        };
        if table.shape != [head_width / 2] {
            return Err(foreign());
        }
        let divisors = ValueReader::open(self.path, table.range.clone(), table.encoding, None)?.read_all()?;
        let factor = divisors.iter().copied().fold(1f32, f32::max);
        let (low, high, original) = (1.0, 4.0, 8192.0);
        let expected = (0..head_width / 2).map(|pair| {
            let frequency = base.powf(-2.0 * pair as f64 / head_width as f64);
            let turns = original * frequency / std::f64::consts::TAU;
            let blend = ((turns - low) / (high - low)).clamp(0.0, 1.0);
            1.0 / ((1.0 - blend) / f64::from(factor) + blend)
        });
        let close = |(found, expected): (&f32, f64)| (f64::from(*found) / expected - 1.0).abs() < 1e-3;
        if !divisors.iter().zip(expected).all(close) {
            return Err(foreign());
        }
        Ok((factor > 1.0).then(|| {
            json!({
                "rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high,
                "original_max_position_embeddings": original as u64,
            })
        }))
    }
}
