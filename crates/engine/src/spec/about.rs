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
                "the published channels of a whole model (3 %): no better than random ones on our suspects",
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
            failures: &["instructions that only the artifact knew are mostly lost"],
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
