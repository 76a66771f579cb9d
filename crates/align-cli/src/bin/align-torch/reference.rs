//! The reference policy of the offline methods: a model beside the policy, or what it gave before the first step.

use std::path::Path;

use align_cli::{Error, Result, args::ReferenceArgs};
use align_core::tch::Kind;
use align_core::{CausalLm, align_types::config::ReferenceSync};
use align_lm::{FrozenStorage, LoadOptions, Model, ModelConfig, Trainable};
use align_losses::{MovingReference, Reference};

use crate::{
    failure,
    model::{self, Folder},
    precompute,
    rows::Rows,
    train::Setup,
    tuning::Tuning,
};

/// The reference of a run.
pub struct Made {
    /// Where its log-probabilities come from.
    pub reference: Reference,
    /// The model itself where it was asked for and the log-probabilities are precomputed.
    pub model: Option<Model>,
    /// Whether the policy equals it before the first step.
    pub begins_equal: bool,
}

/// Returns the folder of the reference.
pub fn folder<'a>(args: &'a ReferenceArgs, base: &'a Path) -> &'a Path {
    args.ref_model.as_deref().unwrap_or(base)
}

/// Says in one line what the reference of a run is.
pub fn describe(args: &ReferenceArgs, tuning: &Tuning<'_>, base: &Path) -> String {
    let alone = "the model without the adapter, which takes no memory of its own";
    let what = match (args.ref_model.as_deref(), tuning) {
        (Some(folder), Tuning::New(_) | Tuning::From(_)) if folder == base => alone.to_owned(),
        (Some(folder), _) => folder.display().to_string(),
        (None, Tuning::Full) => "the model as it is before the first step".to_owned(),
        (None, Tuning::New(_)) => alone.to_owned(),
        (None, Tuning::From(_)) => {
            "the model with the adapter as it is before the first step, which takes the memory of an adapter"
                .to_owned()
        }
    };
    let how = match args.sync() {
        Some(ReferenceSync { ref_model_mixup_alpha: alpha, ref_model_sync_steps: steps }) => {
            format!(
                "; it follows the policy: every {steps} steps it becomes {alpha} of it and the rest of itself"
            )
        }
        None if args.precompute_ref_log_probs => {
            "; its log-probabilities are found or computed before the first step".to_owned()
        }
        None => String::new(),
    };
    what + &how
}

/// Checks that a reference of its own speaks of the same tokens.
///
/// # Errors
/// A folder that cannot be read, another vocabulary.
pub fn check(given: Option<&Path>, folder: &Folder) -> Result<()> {
    let Some(reference) = given else { return Ok(()) };
    let config = ModelConfig::read(reference).map_err(failure::of)?;
    model::same_vocabulary(&folder.config, &config, reference)
}

/// Returns the context of a reference of its own.
///
/// # Errors
/// A folder that cannot be read.
pub fn context(args: &ReferenceArgs) -> Result<Option<usize>> {
    let read = |folder: &std::path::PathBuf| ModelConfig::read(folder).map_err(failure::of);
    Ok(args.ref_model.as_ref().map(read).transpose()?.map(|config| config.context_length()))
}

/// Checks that every row fits into the context of a reference of its own.
///
/// # Errors
/// The first row that does not.
pub fn check_rows(args: &ReferenceArgs, rows: &Rows) -> Result<()> {
    let Some(reference) = &args.ref_model else { return Ok(()) };
    let context = ModelConfig::read(reference).map_err(failure::of)?.context_length();
    model::rows_fit(&rows.train, context, reference)?;
    model::rows_fit(&rows.eval, context, reference)
}

/// Loads the reference, or finds its log-probabilities or computes them into the rows; `keeps_model` asks for the model
/// all the same.
///
/// # Errors
/// A reference that cannot be loaded or run, or cannot follow the policy though it should.
pub fn make(args: &ReferenceArgs, setup: &Setup<'_>, rows: &mut Rows, keeps_model: bool) -> Result<Made> {
    // In 16 bits only equal passes over equal rows give equal numbers.
    let dropout = setup.policy.lora().is_some_and(|lora| lora.dropout > 0.0);
    let equal_passes = !args.precompute_ref_log_probs && !dropout;
    let begins_equal = args.ref_model.is_none()
        && setup.tuning.begins_at_rest(setup.policy)
        && (equal_passes || setup.reference.compute == Kind::Float);
    let given = args.ref_model.as_deref();
    let made = |reference, model| Ok(Made { reference, model, begins_equal });
    if let Some(sync) = args.sync() {
        return made(Reference::Moving(moving(setup, given, sync, "--sync-ref-model")?), None);
    }
    if !args.precompute_ref_log_probs {
        return made(Reference::Model(Box::new(load(setup, given)?)), None);
    }
    let kept = keeps_model.then(|| load(setup, given)).transpose()?;
    let load = || match &kept {
        Some(model) => model.replica().map_err(failure::of),
        None => load(setup, given),
    };
    precompute::run(setup, &folders(setup, given), load, rows)?;
    made(Reference::Precomputed, kept)
}

/// Loads the reference: `--ref-model`, or the model as it was before the first step.
///
/// # Errors
/// A folder that cannot be loaded.
pub fn load(setup: &Setup<'_>, given: Option<&Path>) -> Result<Model> {
    match given {
        // Below an adapter the base is there already.
        Some(folder) if folder == setup.base && !matches!(setup.tuning, Tuning::Full) => {
            setup.policy.base().map_err(failure::of)
        }
        Some(folder) => model::load(folder, &setup.reference),
        None => setup.tuning.beginning(setup.policy, setup.base, setup.continued, &setup.reference),
    }
}

/// Lists the folders whose numbers are the reference's.
fn folders<'a>(setup: &Setup<'a>, given: Option<&'a Path>) -> Vec<&'a Path> {
    match (given, setup.tuning) {
        (Some(folder), _) => vec![folder],
        (None, Tuning::From(adapter)) => vec![setup.base, adapter],
        (None, Tuning::Full | Tuning::New(_)) => vec![setup.base],
    }
}

/// Loads a reference that follows the policy as `flag` says. A resumed run puts the weights of its checkpoint into it.
///
/// # Errors
/// A reference that cannot be loaded, or has another shape than the policy.
pub fn moving(
    setup: &Setup<'_>,
    given: Option<&Path>,
    sync: ReferenceSync,
    flag: &str,
) -> Result<MovingReference> {
    // In float32 whatever is computed with: 16 bits would lose a small share of the policy.
    let model = model::load(given.unwrap_or(setup.base), &following(&setup.reference))?;
    MovingReference::new(Box::new(model), sync, &setup.policy.parameters()).map_err(|error| {
        let folder = given.unwrap_or(setup.base).display();
        Error::data(
            format!("{flag}: the reference {folder} cannot follow the policy: {error}"),
            ["a reference that follows has the policy's architecture and sizes".to_owned()],
        )
    })
}

/// Says how a reference that follows the policy is loaded.
pub fn following(reference: &LoadOptions) -> LoadOptions {
    LoadOptions { trainable: Trainable::All, frozen: FrozenStorage::Float, recompute: false, ..*reference }
}
