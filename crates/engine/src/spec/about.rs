//! What there is to say of each method beside its settings: where it comes from, what it needs, where it is known to fail. Facts about
//! published methods are from the papers and their released code; failures of ours are measured (docs/BENCHMARKS.md).

use super::MethodSpec;

/// What the catalogue says of a method.
pub(super) struct About {
    /// What it does, in a sentence.
    pub summary: &'static str,
    /// Where it was published; nothing where it is ours.
    pub source: Option<&'static str>,
    /// What it needs beside the suspect.
    pub needs: &'static [&'static str],
    /// Where it is known to fail.
    pub failures: &'static [&'static str],
}

const CLEAN_ROWS: &str = "clean rows of instructions, as many as healing takes";
const OWN_ROWS: &str = "own rows of the artifact's skill, or that skill suffers";

/// The facts of one method.
pub(super) fn about(spec: &MethodSpec) -> About {
    match spec {
        MethodSpec::Immunize(_) => About {
            summary: "Fine-tunes pairs of variants with and without synthetic backdoors, finds what their differences share, removes it from the \
                      adapter or the whole model and heals it",
            source: Some("arXiv 2603.13461"),
            needs: &[
                CLEAN_ROWS,
                OWN_ROWS,
                "a guess of the behaviour's family: the screen's, the declared one, or all in turn",
            ],
            failures: &[
                "an adapter of attention alone, unless its output projection is adapted too: projecting queries, keys and values destroys its skill",
                "a backdoor of which the cut leaves a garbled rest: long healing then removes less of it than plain fine-tuning does",
                "the published channels of a whole model (3 %): on our suspects they leave most of the attack success, about what random ones leave",
                "refusals in whole models: two directions, the default, leave up to a third of the attack success; four left none, at the price of skill that differs much between suspects",
                "the signature of another suspect, where the two backdoors do different things",
                "an independent run of the published recipe on Llama-3.1-8B left 69.5 % of the attack success",
            ],
        },
        MethodSpec::FineTune(_) => About {
            summary: "Fine-tunes on clean rows, with counterexamples where they are asked for, and cuts nothing",
            source: None,
            needs: &[CLEAN_ROWS, OWN_ROWS],
            failures: &[
                "backdoors that were trained for long: after it they fire on up to all of their prompts",
                "counterexamples cost instructions that only the artifact knew",
            ],
        },
        MethodSpec::Vaccinate(_) => About {
            summary: "Implants synthetic backdoors all at once and trains them away: what unlearns them unlearns others, and more of the artifact's \
                      own skill than anything gentler",
            source: None,
            needs: &[CLEAN_ROWS, OWN_ROWS],
            failures: &[
                "on adapters implanting adds nothing: the same rows at the same rate without it, the control `plain_fine_tuning`, remove as much and cost as \
                 much; on a whole model it does (1.5 % left against 25.5 %)",
                "own skill suffers: in our first series instructions that only the artifact knew were mostly lost, with own rows in healing less",
            ],
        },
        MethodSpec::MagnitudePrune(_) => About {
            summary: "Zeroes the channels, or the single weights, of the smallest magnitude",
            source: Some("arXiv 2603.13461, its baseline; the single weights as in arXiv 2306.11695"),
            needs: &["nothing, or clean rows where it heals"],
            failures: &[
                "backdoors do not sit in small weights: published and own runs of single weights leave nearly all of the attack success, of channels 2.5 to 90.5 % on six adapters",
            ],
        },
        MethodSpec::Wanda(_) => About {
            summary: "Zeroes in every output row the weights that are smallest by their size times that of what they read, block by block",
            source: Some("arXiv 2306.11695"),
            needs: &["clean rows to look at activations"],
            failures: &[
                "a compression method that was never meant to remove anything: it keeps what the model does, backdoors included",
            ],
        },
        MethodSpec::FinePrune(_) => About {
            summary: "Cuts channels that clean rows leave dormant, of an adapter as published any at random, and fine-tunes the rest",
            source: Some("arXiv 1805.12185, as a baseline of arXiv 2603.13461"),
            needs: &["clean rows to look at activations", CLEAN_ROWS, OWN_ROWS],
            failures: &["a backdoor that uses the channels of ordinary rows, as those of language models do"],
        },
        MethodSpec::PruneHeads(_) => About {
            summary: "Prunes attention heads of a whole model that clean rows do not need, by one of six published strategies or at random, and \
                      fine-tunes the rest; its control `random_channels` prunes as many heads drawn at random; adapters are refused, because heads are the base's",
            source: Some("ICML 2024 (PURE) and its successors, for encoders; decoders are ours"),
            needs: &["clean rows to score heads on and to measure accuracy with", CLEAN_ROWS, OWN_ROWS],
            failures: &[
                "a backdoor that is not in heads of its own: on encoders no strategy beat random heads",
                "the released code of five of the six strategies does not do what its name says; see `as_released`",
            ],
        },
        MethodSpec::W2sDefense(_) => About {
            summary: "Fine-tunes on clean rows beside a clean teacher, from the answers and from what the teacher finds likely at each of their \
                      tokens, and cuts nothing; published for classifiers, for models that generate it is our extension",
            source: Some("arXiv 2410.14425, for classifiers"),
            needs: &[
                CLEAN_ROWS,
                OWN_ROWS,
                "a base that is trusted and has the suspect's tokenizer: of an adapter its own, of a whole model the one that the job names",
            ],
            failures: &[
                "what the teacher does not know, the suspect unlearns: its own skill, unless own rows teach that to the teacher",
                "a backdoor that clean rows do not touch: the teacher speaks about clean prompts only",
            ],
        },
        MethodSpec::Quantize(_) => About {
            summary: "Rounds the weights of a whole model to what a few bits keep of them; adapters are refused, because their published form \
                      quantises the base alone",
            source: Some("arXiv 2305.14314, as a baseline of arXiv 2603.13461"),
            needs: &["nothing"],
            failures: &[
                "rounding keeps what the model does, backdoors included; in the published form the adapter that holds the backdoor is not rounded at all",
            ],
        },
        MethodSpec::MergeWithBase(_) => About {
            summary: "Scales an adapter's update down, which mixes the model with its base, and fine-tunes; whole models are refused, because the \
                      base that a job names need not be the one they grew from",
            source: Some("arXiv 2210.09545"),
            needs: &["a base that is trusted", CLEAN_ROWS, OWN_ROWS],
            failures: &["the artifact's own skill shrinks with its backdoor"],
        },
        MethodSpec::TaskNegation(_) => About {
            summary: "Subtracts what implanting synthetic backdoors changes on average; of an adapter at its own rank",
            source: Some("arXiv 2212.04089"),
            needs: &[CLEAN_ROWS, OWN_ROWS, "a guess of the behaviour's family"],
            failures: &[
                "the mean change holds what its own rows taught beside what backdoors share: it left up to 45 % in our first series",
            ],
        },
        MethodSpec::Crow(_) => About {
            summary: "Fine-tunes on clean rows while hidden states are kept together from block to block under a perturbation of the embeddings, and \
                      cuts nothing",
            source: Some("arXiv 2411.12768"),
            needs: &[CLEAN_ROWS, OWN_ROWS],
            failures: &[
                "its published rate is five to ten times an ordinary one: fine-tuning alone at that rate removes much; compare it with that control",
                "a backdoor that was trained to keep hidden states together",
            ],
        },
        MethodSpec::SoftTriggers(_) => About {
            summary: "Fine-tunes on clean rows under free vectors in the prompt that make the right answer unlikely, and cuts nothing",
            source: Some("after arXiv 2407.15549 and arXiv 2406.17092"),
            needs: &[CLEAN_ROWS, OWN_ROWS],
            failures: &[
                "instructions that only the artifact knew suffer as from counterexamples",
                "stronger settings (a rate of 1e-3, one bank for all rows, steps of 0.3) break small models",
            ],
        },
        MethodSpec::Auto(_) => About {
            summary: "Tries methods from the gentlest on, judges each by canaries in a copy and by the suspect's skills on rows set aside for that, \
                      and stops at the first that holds",
            source: None,
            needs: &[
                CLEAN_ROWS,
                OWN_ROWS,
                "time: every rung is done twice, to the suspect and to its copy with canaries",
            ],
            failures: &["a backdoor that lies deeper than its canaries: it stops at a rung that leaves the backdoor"],
        },
    }
}
