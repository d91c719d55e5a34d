//! Controls, shared by methods: which of them apply, what each starts from, and how it is healed.

use super::ControlModel;
use crate::error::Result;
use crate::heal::{HealPlan, Wounded, heal};
use crate::lab::{Lab, Stage};
use crate::spec::{ControlSpec, SubjectKind};
use crate::suspect::Suspect;
use crate::weights::Weights;

/// What a control starts from.
pub(super) enum Start {
    /// A model before it is healed, and what the control is, in words.
    Model(String, Box<Wounded>),
    /// It does not apply; the reason.
    LeftOut(&'static str),
}

impl Start {
    /// A model before it is healed, with what the control is.
    pub fn model(description: impl Into<String>, model: Wounded) -> Self {
        Self::Model(description.into(), Box::new(model))
    }

    /// The suspect as it came, healed like the method's candidates.
    pub fn plain(suspect: &Suspect) -> Self {
        let model = Wounded::uncut(suspect.weights.clone());
        Self::model("no suppression; the same rows, rate and steps as healing", model)
    }
}

/// Makes the controls that were asked for, and says why others are missing. Controls that are healed alike are healed together, without the
/// method's adversary, if it has one; `generic` is the plan without own rows.
pub(super) fn make_controls(
    asked: &[ControlSpec],
    start: impl Fn(ControlSpec) -> Result<Start>,
    suspect: &Suspect,
    (plan, generic): (&HealPlan, impl FnOnce() -> Result<HealPlan>),
    lab: &Lab,
) -> Result<(Vec<ControlModel>, Vec<String>)> {
    lab.enter(Stage::Controls)?;
    let (mut models, mut left_out) = (Vec::new(), Vec::new());
    for &control in asked {
        let start = match control {
            ControlSpec::AdapterDropped if suspect.subject().kind == SubjectKind::Checkpoint => {
                Start::LeftOut("a whole model has no adapter to drop")
            }
            ControlSpec::AdapterDropped => Start::model("the base without the adapter", Wounded::uncut(Weights::Base)),
            ControlSpec::WithoutOwnRows if plan.healing.own_rows == 0 => continue,
            _ => start(control)?,
        };
        match start {
            Start::Model(description, model) => models.push(Unhealed { control, description, model: *model }),
            Start::LeftOut(why) => left_out.push(format!("{}: {why}", control.name())),
        }
    }
    let healed_alike = [ControlSpec::RandomChannels, ControlSpec::RandomSubspace, ControlSpec::PlainFineTuning];
    heal_those(&mut models, &healed_alike, suspect, &plan.plain(), lab)?;
    if models.iter().any(|unhealed| unhealed.control == ControlSpec::WithoutOwnRows) {
        heal_those(&mut models, &[ControlSpec::WithoutOwnRows], suspect, &generic()?, lab)?;
    }
    let made = |u: Unhealed| ControlModel { control: u.control, description: u.description, weights: u.model.weights };
    Ok((models.into_iter().map(made).collect(), left_out))
}

/// A control before it is healed.
struct Unhealed {
    control: ControlSpec,
    description: String,
    model: Wounded,
}

fn heal_those(
    models: &mut [Unhealed],
    which: &[ControlSpec],
    suspect: &Suspect,
    plan: &HealPlan,
    lab: &Lab,
) -> Result<()> {
    let picked: Vec<&mut Wounded> =
        models.iter_mut().filter(|u| which.contains(&u.control)).map(|unhealed| &mut unhealed.model).collect();
    let starts: Vec<_> = picked.iter().map(|model| (**model).clone()).collect();
    for (model, healed) in picked.into_iter().zip(heal(suspect, &starts, plan, lab)?) {
        model.weights = healed;
    }
    Ok(())
}
