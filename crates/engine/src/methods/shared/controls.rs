//! Controls, shared by methods: the start of each, its healing, and the reasons why some do not apply.

use crate::error::Result;
use crate::lab::Lab;
use crate::methods::ControlModel;
use crate::spec::{ControlSpec, SubjectKind};
use crate::stage::Stage;
use crate::suspect::Suspect;
use crate::suspect::weights::Weights;
use crate::train::heal::{EditedModel, HealPlan, heal};

/// The start of a control.
pub enum Start {
    /// A model before it is healed, and the control in words.
    Model(String, Box<EditedModel>),
    /// It does not apply; the reason.
    LeftOut(&'static str),
}

impl Start {
    /// A model before it is healed, with the control in words.
    pub fn model(description: impl Into<String>, model: EditedModel) -> Self {
        Self::Model(description.into(), Box::new(model))
    }

    /// The suspect as it came, healed like the method's candidates.
    pub fn plain(suspect: &Suspect) -> Self {
        let model = EditedModel::from(suspect.weights());
        Self::model("no suppression; the same rows, rate and steps as healing", model)
    }
}

/// The healing of controls.
pub(crate) struct ControlPlans<'a, G> {
    /// The method's own.
    pub plan: &'a HealPlan,
    /// The same without task rows, made where a control asks for it.
    pub generic: G,
}

/// Makes the controls that were asked for, and says why others are missing. Controls that are healed alike
/// are healed together, without the method's adversary, if it has one.
pub(crate) fn make_controls(
    asked: &[ControlSpec],
    start: impl Fn(ControlSpec) -> Result<Start>,
    suspect: &Suspect,
    plans: ControlPlans<'_, impl FnOnce() -> Result<HealPlan>>,
    lab: &Lab,
) -> Result<(Vec<ControlModel>, Vec<String>)> {
    let ControlPlans { plan, generic } = plans;
    lab.enter(Stage::Controls)?;
    let (mut models, mut left_out) = (Vec::new(), Vec::new());
    for &control in asked {
        let start = match control {
            ControlSpec::AdapterDropped if suspect.subject().kind == SubjectKind::Checkpoint => {
                Start::LeftOut("a whole model has no adapter to drop")
            }
            ControlSpec::AdapterDropped => {
                Start::model("the base without the adapter", EditedModel::from(Weights::Base))
            }
            ControlSpec::WithoutTaskRows if plan.healing.task_rows == 0 => continue,
            _ => start(control)?,
        };
        match start {
            Start::Model(description, model) => models.push(Unhealed { control, description, model: *model }),
            Start::LeftOut(why) => left_out.push(format!("{}: {why}", control.name())),
        }
    }
    let healed_alike = [ControlSpec::RandomChannels, ControlSpec::RandomSubspace, ControlSpec::PlainFineTuning];
    heal_those(&mut models, &healed_alike, suspect, &plan.plain(), lab)?;
    if models.iter().any(|unhealed| unhealed.control == ControlSpec::WithoutTaskRows) {
        heal_those(&mut models, &[ControlSpec::WithoutTaskRows], suspect, &generic()?, lab)?;
    }
    let made = |u: Unhealed| ControlModel { control: u.control, description: u.description, weights: u.model.weights };
    Ok((models.into_iter().map(made).collect(), left_out))
}

/// A control before it is healed.
struct Unhealed {
    control: ControlSpec,
    description: String,
    model: EditedModel,
}

fn heal_those(
    models: &mut [Unhealed],
    which: &[ControlSpec],
    suspect: &Suspect,
    plan: &HealPlan,
    lab: &Lab,
) -> Result<()> {
    let picked: Vec<&mut EditedModel> =
        models.iter_mut().filter(|u| which.contains(&u.control)).map(|unhealed| &mut unhealed.model).collect();
    let starts: Vec<_> = picked.iter().map(|model| (**model).clone()).collect();
    for (model, healed) in picked.into_iter().zip(heal(suspect, &starts, plan, lab)?) {
        model.weights = healed;
    }
    Ok(())
}
