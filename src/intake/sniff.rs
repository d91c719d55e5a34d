//! The kind of a file, by its first bytes and its name. Nothing is trusted to be what it is called.

use antigen_models::checkpoint::gguf;

use super::rejection::{Rejection, code};

/// Bytes that [`sniff`] looks at; the magic of a tar archive ends at byte 262.
pub const HEAD_BYTES: usize = 512;

/// The format that the first bytes of a file announce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Plausibly safetensors; the header reader decides.
    Safetensors,
    /// GGUF; the header reader decides.
    Gguf,
    /// The formats before GGUF: GGML, GGMF, GGJT.
    OldGgml,
    /// A zip archive.
    Zip,
    /// A gzip stream.
    Gzip,
    /// A tar archive.
    Tar,
    /// A pickle, bare or in PyTorch's zip.
    Pickle,
    /// A program of the operating system or a script with an interpreter line.
    Program,
    /// An archive or compressed stream of a kind that is not taken.
    OtherArchive,
    /// None of these.
    Other,
}

/// Decides by the first bytes of a file (at most [`HEAD_BYTES`] are needed).
pub fn sniff(head: &[u8]) -> Content {
    let starts = |magic: &[u8]| head.starts_with(magic);
    if starts(b"PK\x03\x04") || starts(b"PK\x05\x06") {
        // PyTorch's own files are zips whose first member is `<name>/data.pkl`.
        let is_torch = head.windows(8).any(|window| window == b"data.pkl");
        return if is_torch { Content::Pickle } else { Content::Zip };
    }
    if starts(b"\x1f\x8b") {
        return Content::Gzip;
    }
    if head.get(257..262) == Some(b"ustar") {
        return Content::Tar;
    }
    if is_safetensors(head) {
        return Content::Safetensors;
    }
    if starts(gguf::MAGIC) {
        return Content::Gguf;
    }
    if starts(b"lmgg") || starts(b"fmgg") || starts(b"tjgg") {
        return Content::OldGgml;
    }
    // Protocol 2 to 5; PyTorch's oldest files start with a pickled magic number in the same way.
    if head.len() >= 2 && head[0] == 0x80 && (2..=5).contains(&head[1]) {
        return Content::Pickle;
    }
    if starts(b"\x7fELF")
        || starts(b"MZ")
        || starts(b"#!")
        || starts(b"\xca\xfe\xba\xbe")
        || starts(b"\xcf\xfa\xed\xfe")
    {
        return Content::Program;
    }
    let others: [&[u8]; 5] = [b"7z\xbc\xaf\x27\x1c", b"\xfd7zXZ\x00", b"BZh", b"\x28\xb5\x2f\xfd", b"Rar!\x1a\x07"];
    if others.into_iter().any(starts) { Content::OtherArchive } else { Content::Other }
}

/// A length that leaves the upper three bytes empty (below one terabyte), then the opening of a JSON object.
fn is_safetensors(head: &[u8]) -> bool {
    head.len() >= 9 && head[8] == b'{' && head[5..8] == [0, 0, 0]
}

/// The reason for which files of the years before GGUF are refused.
pub const OLD_GGML: &str = "expected safetensors or GGUF, found GGML, the format before GGUF: upload the unquantised checkpoint that it was made \
     from, in safetensors";

/// The part that a file plays in an artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `adapter_config.json`, `config.json`, `generation_config.json` ...: small JSON.
    Config,
    /// safetensors or GGUF.
    Weights,
    /// Tokenizer files and shard indexes: JSON, may be large.
    LargeJson,
    /// Licence, model card, merges, chat template: text.
    Text,
    /// SentencePiece model: carried along, never opened.
    Opaque,
}

/// Decides the role of a file by its name, and refuses names that have none, saying why by its content.
///
/// # Errors
/// [`code::PICKLE`], [`code::REMOTE_CODE`], [`code::NESTED_ARCHIVE`], [`code::UNKNOWN_FILE`],
/// [`code::BAD_TEXT`].
pub fn decide_role(name: &str, head: &[u8]) -> Result<Role, Rejection> {
    let content = sniff(head);
    let lower = name.to_ascii_lowercase();
    let ends = |endings: &[&str]| endings.iter().any(|ending| lower.ends_with(ending));
    if content == Content::Gguf && !ends(&[".gguf"]) {
        let message = "expected what the name promises, found a GGUF file: call it `model.gguf`";
        return Err(Rejection::new(code::UNKNOWN_FILE, message).at(name));
    }
    if content == Content::OldGgml {
        return Err(Rejection::new(code::QUANTISED, OLD_GGML).at(name));
    }
    if content == Content::Pickle || ends(&[".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy"]) {
        let message = "expected safetensors, found a pickle or a file that is loaded as one: loading it would run it. \
                       Convert it to safetensors, or leave it out";
        return Err(Rejection::new(code::PICKLE, message).at(name));
    }
    if content == Content::Program
        || ends(&[".py", ".pyc", ".sh", ".so", ".dll", ".exe", ".js", ".ipynb", ".cu", ".dylib"])
    {
        let message = "expected weights and configuration only, found program text: nothing of an upload is ever run";
        return Err(Rejection::new(code::REMOTE_CODE, message).at(name));
    }
    if matches!(content, Content::Zip | Content::Gzip | Content::Tar | Content::OtherArchive) {
        let message = "expected plain files, found an archive or compressed file inside the upload: unpack it first";
        return Err(Rejection::new(code::NESTED_ARCHIVE, message).at(name));
    }
    let role = find_role(&lower).ok_or_else(|| {
        let message = "expected the files of an adapter or a checkpoint (safetensors, their configuration, tokenizer, \
                       README, licence), found a file that is none of them";
        Rejection::new(code::UNKNOWN_FILE, message).at(name)
    })?;
    let is_text = !matches!(role, Role::Weights | Role::Opaque);
    if is_text && head.contains(&0) {
        return Err(Rejection::new(code::BAD_TEXT, "expected text, found binary data").at(name));
    }
    Ok(role)
}

fn find_role(lower: &str) -> Option<Role> {
    match lower {
        "adapter_config.json" | "config.json" | "generation_config.json" | "tokenizer_config.json" => {
            Some(Role::Config)
        }
        // Settings of GPTQ, AWQ and ModelOpt beside `config.json`: taken so that the weights can be refused
        // by name.
        "quantize_config.json" | "quant_config.json" | "hf_quant_config.json" => Some(Role::Config),
        "special_tokens_map.json" | "added_tokens.json" | "chat_template.json" => Some(Role::Config),
        "trainer_state.json" | "all_results.json" | "train_results.json" | "eval_results.json" => Some(Role::LargeJson),
        "tokenizer.json" | "vocab.json" | "model.safetensors.index.json" => Some(Role::LargeJson),
        "adapter_model.safetensors" | "model.safetensors" => Some(Role::Weights),
        "tokenizer.model" | "spiece.model" => Some(Role::Opaque),
        "merges.txt" | "vocab.txt" => Some(Role::Text),
        "chat_template.jinja" | ".gitattributes" | "license" | "notice" | "readme" => Some(Role::Text),
        _ if is_shard(lower) || lower.ends_with(".gguf") => Some(Role::Weights),
        _ if lower.ends_with(".md") || lower.starts_with("license.") => Some(Role::Text),
        _ => None,
    }
}

/// `model-00001-of-00003.safetensors`.
fn is_shard(name: &str) -> bool {
    let middle = name.strip_prefix("model-").and_then(|rest| rest.strip_suffix(".safetensors"));
    let numbers = middle.and_then(|middle| middle.split_once("-of-"));
    numbers.is_some_and(|(number, count)| {
        [number, count].iter().all(|digits| digits.len() == 5 && digits.bytes().all(|byte| byte.is_ascii_digit()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_decides_not_the_name() {
        assert_eq!(sniff(b"PK\x03\x04................archive/data.pkl"), Content::Pickle);
        assert_eq!(sniff(b"PK\x03\x04................adapter_config.json"), Content::Zip);
        assert_eq!(sniff(b"\x80\x02}q\x00."), Content::Pickle);
        assert_eq!(sniff(&[0x80, 0x02, 0, 0, 0, 0, 0, 0, b'{']), Content::Safetensors);
        assert_eq!(sniff(b"\x1f\x8b\x08"), Content::Gzip);
        assert_eq!(sniff(b"#!/bin/sh"), Content::Program);
        assert_eq!(sniff(b""), Content::Other);
    }

    #[test]
    fn a_refused_file_is_refused_for_the_reason_that_helps() {
        let refuse = |name: &str, head: &[u8]| decide_role(name, head).unwrap_err().code;
        assert_eq!(refuse("adapter_model.safetensors", b"\x80\x04}"), code::PICKLE);
        assert_eq!(refuse("training_args.bin", b"whatever"), code::PICKLE);
        assert_eq!(refuse("modeling_llama.py", b"import os"), code::REMOTE_CODE);
        assert_eq!(refuse("more.zip", b"PK\x03\x04"), code::NESTED_ARCHIVE);
        assert_eq!(refuse("pytorch_model.bin", b"GGUF\x03\0\0\0"), code::UNKNOWN_FILE);
        assert_eq!(refuse("ggml-model-q4_0.bin", b"tjgg\x03\0\0\0"), code::QUANTISED);
        assert_eq!(refuse("config.json", b"{\0}"), code::BAD_TEXT);
    }

    #[test]
    fn the_files_of_real_adapters_and_checkpoints_have_a_role() {
        for (name, role) in [
            ("adapter_config.json", Role::Config),
            ("adapter_model.safetensors", Role::Weights),
            ("model-00002-of-00030.safetensors", Role::Weights),
            ("model.safetensors.index.json", Role::LargeJson),
            ("README.md", Role::Text),
            ("tiny-Q4_0.gguf", Role::Weights),
            ("quantize_config.json", Role::Config),
            ("LICENSE.txt", Role::Text),
            ("tokenizer.model", Role::Opaque),
        ] {
            assert_eq!(decide_role(name, b"").unwrap(), role, "{name}");
        }
        assert!(decide_role("model-2-of-30.safetensors", b"").is_err());
    }
}
