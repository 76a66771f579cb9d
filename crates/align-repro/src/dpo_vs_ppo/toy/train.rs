use std::cell::Cell;

use align_core::{
    PackedBatch, no_grad,
    tch::{Device, Kind, Tensor},
};

use super::{
    Instance, ReferenceKind, SIZE, ToyArm, ToyResult, ToySettings,
    measure::{Example, Recorder, at_equal_kl, ordered},
    nets::{Descent, Nets, Role},
};
use crate::{
    Result,
    dpo_vs_ppo::{
        Tamper,
        exact::{Sides, dpo_terms, ppo_objective},
    },
    progress::UnitProgress,
};

/// Steps between looks at the stop flag.
const LOOK_EVERY: usize = 50;

/// The data of all seeds as tensors.
pub(super) struct Data {
    pub instances: Vec<Instance>,
    /// 1 where no pair shows the cell, `[S, 8, 8]`.
    pub uncovered: Tensor,
    /// True utility, `[S, 8, 8]`.
    pub gold: Tensor,
    /// The distribution SFT learns: uniform over the covered cells of a prompt, `[S, 8, 8]`.
    target: Tensor,
    /// Indices of the chosen and rejected cells into the flat `[S · 8 · 8]`, `[S · 8 · pairs]`.
    chosen: Tensor,
    rejected: Tensor,
    pairs_per_seed: f64,
}

impl Data {
    fn draw(seeds: u64, arm: &ToyArm, settings: &ToySettings, tamper: Tamper) -> Result<Self> {
        let draw = |seed| Instance::draw(seed, arm.pairs, settings.gold_below, tamper);
        let instances: Vec<Instance> = (0..seeds).map(draw).collect();
        let n = SIZE as i64;
        let cells = |of: &dyn Fn(&Instance, usize, usize) -> f32| -> Result<Tensor> {
            let mut flat = Vec::new();
            for instance in &instances {
                flat.extend((0..SIZE * SIZE).map(|cell| of(instance, cell / SIZE, cell % SIZE)));
            }
            Ok(Tensor::f_from_slice(&flat)?.f_reshape([-1, n, n])?)
        };
        let is_covered = |i: &Instance, row: usize, column: usize| {
            i.covered.get(row).and_then(|r| r.get(column)).copied().unwrap_or(false)
        };
        let uncovered = cells(&|i, r, c| f32::from(u8::from(!is_covered(i, r, c))))?;
        let gold = cells(&|i, r, c| i.gold.get(r).and_then(|x| x.get(c)).copied().unwrap_or(0.0) as f32)?;
        let covered = uncovered.f_neg()?.f_add_scalar(1.0)?;
        let target = covered.f_div(&covered.f_sum_dim_intlist(-1i64, true, Kind::Float)?)?;
        let index = |side: &dyn Fn(&super::instance::Preference) -> usize| {
            let mut flat = Vec::new();
            for (seed, instance) in instances.iter().enumerate() {
                let cell = |p: &super::instance::Preference| (seed * SIZE + p.prompt) * SIZE + side(p);
                flat.extend(instance.preferences.iter().map(|p| cell(p) as i64));
            }
            PackedBatch::index_tensor(&flat, Device::Cpu)
        };
        let (chosen, rejected) = (index(&|p| p.chosen)?, index(&|p| p.rejected)?);
        let pairs_per_seed = (SIZE * arm.pairs) as f64;
        Ok(Self { instances, uncovered, gold, target, chosen, rejected, pairs_per_seed })
    }

    /// Takes the chosen and the rejected cells out of `[S, 8, 8]`, two times `[S · 8 · pairs]`.
    fn sides(&self, cells: &Tensor) -> Result<(Tensor, Tensor)> {
        let flat = cells.f_reshape([-1])?;
        Ok((flat.f_index_select(0, &self.chosen)?, flat.f_index_select(0, &self.rejected)?))
    }
}

/// Runs one row for all seeds in one batch.
///
/// # Errors
/// An operation on tensors fails, a figure is not finite, or the user stops the run.
pub fn run(
    arm: &ToyArm,
    settings: &ToySettings,
    seeds: u64,
    tamper: Tamper,
    progress: &UnitProgress<'_>,
) -> Result<ToyResult> {
    let data = Data::draw(seeds, arm, settings, tamper)?;
    let steps = Steps::new(arm, settings, progress);
    let start = Nets::draw(seeds, arm.hidden, settings.input_deviation, Role::Policy)?;
    if arm.reference == ReferenceKind::Sft {
        fit_reference(&start, &data, settings, &steps)?;
    }
    let reference = detached(&start)?;
    let reward = fit_reward(arm, &reference, &data, settings, seeds, &steps)?;
    let improve = |loss: &dyn Fn(&Tensor) -> Result<Tensor>| {
        Walk { start: &start, reference: &reference, data: &data, settings, steps: &steps }.improve(loss)
    };
    let dpo = improve(&|policy| {
        let (chosen, rejected) = data.sides(policy)?;
        let (ref_chosen, ref_rejected) = data.sides(&reference)?;
        let policy = Sides { chosen: &chosen, rejected: &rejected };
        let reference = Sides { chosen: &ref_chosen, rejected: &ref_rejected };
        let terms = dpo_terms(policy, reference, settings.beta, tamper)?;
        Ok(terms.f_sum(Kind::Float)?.f_div_scalar(data.pairs_per_seed)?)
    })?;
    let ppo = improve(&|policy| {
        let objective = ppo_objective(policy, &reference, &reward, settings.beta)?;
        Ok(objective.f_sum(Kind::Float)?.f_div_scalar(-(SIZE as f64))?)
    })?;
    let reference_ood = Recorder::ood(&reference, &data.uncovered)?;
    let matched = at_equal_kl(&dpo.recorder, &ppo.recorder, settings.matched_share);
    let example = Example::of(&data.instances, &reference, &dpo.policy, &ppo.policy, &reward)?;
    let ordered = ordered(&data.instances, &dpo.policy, &reference)?;
    let (dpo, ppo) = (dpo.recorder.finish("DPO")?, ppo.recorder.finish("PPO")?);
    Ok(ToyResult { reference_ood, dpo, ppo, matched, ordered, example })
}

/// Counts the steps of a row, tells how far it is and looks at the stop flag.
struct Steps<'a> {
    progress: &'a UnitProgress<'a>,
    done: Cell<usize>,
    total: usize,
}

impl<'a> Steps<'a> {
    fn new(arm: &ToyArm, settings: &ToySettings, progress: &'a UnitProgress<'a>) -> Self {
        let sft = if arm.reference == ReferenceKind::Sft { settings.sft_steps } else { 0 };
        let total = sft + settings.reward_steps + 2 * settings.policy_steps;
        Self { progress, done: Cell::new(0), total }
    }

    fn tick(&self) -> Result<()> {
        let done = self.done.get() + 1;
        self.done.set(done);
        if !done.is_multiple_of(LOOK_EVERY) {
            return Ok(());
        }
        self.progress.share(done as f64 / self.total.max(1) as f64);
        self.progress.check()
    }
}

fn detached(nets: &Nets) -> Result<Tensor> {
    let _guard = no_grad();
    nets.log_policy()
}

/// Cross-entropy to the uniform distribution over covered cells, mean over prompts.
fn fit_reference(nets: &Nets, data: &Data, settings: &ToySettings, steps: &Steps<'_>) -> Result<()> {
    let mut descent = Descent::new(nets, settings.learning_rate);
    for _ in 0..settings.sft_steps {
        let loss = nets.log_policy()?.f_mul(&data.target)?.f_sum(Kind::Float)?;
        descent.step(&loss.f_div_scalar(-(SIZE as f64))?)?;
        steps.tick()?;
    }
    Ok(())
}

/// Pairwise logistic loss, then normalised under the reference: mean 0 for every prompt, pooled variance 1.
fn fit_reward(
    arm: &ToyArm,
    reference: &Tensor,
    data: &Data,
    settings: &ToySettings,
    seeds: u64,
    steps: &Steps<'_>,
) -> Result<Tensor> {
    let nets = Nets::draw(seeds, arm.hidden, settings.input_deviation, Role::Reward)?;
    let mut descent = Descent::new(&nets, settings.learning_rate);
    for _ in 0..settings.reward_steps {
        let (chosen, rejected) = data.sides(&nets.forward()?)?;
        let loss = chosen.f_sub(&rejected)?.f_log_sigmoid()?.f_sum(Kind::Float)?;
        descent.step(&loss.f_div_scalar(-data.pairs_per_seed)?)?;
        steps.tick()?;
    }
    let _guard = no_grad();
    let weights = reference.f_exp()?;
    let raw = nets.forward()?;
    let mean = raw.f_mul(&weights)?.f_sum_dim_intlist(-1i64, true, Kind::Float)?;
    let centred = raw.f_sub(&mean)?;
    let squares = centred.f_square()?.f_mul(&weights)?;
    let variance = squares.f_sum_dim_intlist([1i64, 2].as_slice(), true, Kind::Float)?;
    let deviation = variance.f_div_scalar(SIZE as f64)?.f_add_scalar(1e-12)?.f_sqrt()?;
    Ok(centred.f_div(&deviation)?)
}

/// A trained policy and the path it took.
struct Improved {
    policy: Tensor,
    recorder: Recorder,
}

/// What both methods start from.
struct Walk<'a> {
    start: &'a Nets,
    reference: &'a Tensor,
    data: &'a Data,
    settings: &'a ToySettings,
    steps: &'a Steps<'a>,
}

impl Walk<'_> {
    /// Trains a copy of the reference on a loss of its log-probabilities and records where it goes.
    fn improve(&self, loss: &dyn Fn(&Tensor) -> Result<Tensor>) -> Result<Improved> {
        let nets = self.start.copy()?;
        let mut descent = Descent::new(&nets, self.settings.learning_rate);
        let mut recorder = Recorder::default();
        for _ in 0..self.settings.policy_steps {
            let policy = nets.log_policy()?;
            recorder.record(&policy.f_detach()?, self.reference, self.data)?;
            descent.step(&loss(&policy)?)?;
            self.steps.tick()?;
        }
        let policy = detached(&nets)?;
        recorder.record(&policy, self.reference, self.data)?;
        Ok(Improved { policy, recorder })
    }
}
