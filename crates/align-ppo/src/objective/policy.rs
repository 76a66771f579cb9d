use align_core::{
    CausalLm, LossComponent, LossOutput, Objective, PackedBatch, Parameter, TokenLogProbs,
    align_types::PromptGroup,
    gather_log_probs, no_grad,
    tch::{Kind, Tensor},
};

use super::references::{References, by_group};
use super::rows::{Rows, active_lens, known, pick, ptx_tokens};
use crate::{Error, MeasureLayout, PolicyInputs, PolicyLoss, PpoConfig, Result, entropies, policy_loss};

/// The loss of the policy in on-policy training, over the trajectories of its samples.
///
/// An answer without advantages adds no term and is not counted. A completion without a trajectory is a
/// language-modelling row: with `ptx_coef` its tokens have a loss of their own, `loss/ptx_avg` = mean of −log π at
/// temperature 1 (2203.02155 eq. 2); without, it is refused.
///
/// [`Objective::measure`] gives log-probabilities of policy and references and the entropies ([`MeasureLayout`]).
#[derive(Debug)]
pub struct PolicyObjective {
    core: PolicyCore,
}

impl PolicyObjective {
    /// Makes the objective. `temperature` is that of sampling, `token_limit` the most tokens of an answer.
    ///
    /// # Errors
    /// A configuration outside its range; a temperature that is not above 0; a missing reference.
    pub fn new(
        config: &PpoConfig,
        temperature: f64,
        token_limit: usize,
        references: References,
    ) -> Result<Self> {
        Ok(Self { core: PolicyCore::new(config, temperature, token_limit, references)? })
    }

    /// Returns what [`Objective::measure`] gives, for [`read_measures`](crate::read_measures).
    pub fn layout(&self) -> MeasureLayout {
        self.core.references.layout()
    }
}

impl Objective for PolicyObjective {
    fn denominators(&self, groups: &[PromptGroup]) -> Result<Vec<f64>> {
        self.core.denominators(groups)
    }

    fn loss(&self, model: &dyn CausalLm, batch: &PackedBatch, groups: &[PromptGroup]) -> Result<LossOutput> {
        self.core.loss(&model.logits(batch)?, batch, groups)
    }

    fn measure(
        &self,
        model: &dyn CausalLm,
        batch: &PackedBatch,
        groups: &[PromptGroup],
    ) -> Result<Vec<Vec<f64>>> {
        let _guard = no_grad();
        by_group(groups, &self.core.measure(&model.logits(batch)?, batch)?)
    }

    fn after_iteration(&mut self, policy: &[Parameter]) -> Result<()> {
        self.core.references.after_iteration(policy)
    }

    fn weights(&self) -> Vec<Parameter> {
        self.core.references.weights()
    }

    fn replicate(&self) -> Result<Box<dyn Objective>> {
        Ok(Box::new(Self { core: self.core.replicate()? }))
    }
}

/// What the policy's loss is, given logits: alone, or beside a critic on the same transformer.
#[derive(Debug)]
pub(super) struct PolicyCore {
    loss: PolicyLoss,
    ptx_coef: f64,
    temperature: f64,
    pub references: References,
}

impl PolicyCore {
    pub fn new(
        config: &PpoConfig,
        temperature: f64,
        token_limit: usize,
        references: References,
    ) -> Result<Self> {
        check(config, temperature, &references)?;
        if config.kl_coef > 0.0 && references.model().is_none() {
            return Err(Error::input(
                "reference",
                "kl-coef holds the policy to one; give it or set kl-coef to 0",
            ));
        }
        let loss = PolicyLoss::of(config, token_limit);
        Ok(Self { loss, ptx_coef: config.ptx_coef, temperature, references })
    }

    pub fn replicate(&self) -> Result<Self> {
        Ok(Self { references: self.references.replicate()?, ..*self })
    }

    pub fn denominators(&self, groups: &[PromptGroup]) -> Result<Vec<f64>> {
        let lens = active_lens(groups)?;
        let mut denominators =
            vec![self.loss.averaging.denominator(lens.into_iter()); self.loss.components()];
        match ptx_tokens(groups) as f64 {
            tokens if self.ptx_coef > 0.0 => denominators.push(tokens),
            0.0 => {}
            _ => {
                let why =
                    "a completion was not sampled, and ptx-coef, the weight of language modelling, is 0";
                return Err(Error::input("batch", why));
            }
        }
        Ok(denominators)
    }

    pub fn loss(&self, logits: &Tensor, batch: &PackedBatch, groups: &[PromptGroup]) -> Result<LossOutput> {
        let rows = Rows::of(batch, groups)?;
        let device = logits.device();
        // Over all rows, as the old log-probabilities were: the ratio of unchanged weights is exactly 1.
        let log_probs = rows.pick(&log_probs(logits, batch, self.temperature)?)?;
        let old = known(groups, "log-probabilities", device, |t| &t.old)?;
        let advantages = known(groups, "advantages", device, |t| &t.advantages)?;
        let reference = match self.loss.kl {
            Some(_) => Some(known(groups, "reference log-probabilities", device, |t| &t.reference)?),
            None => None,
        };
        let entropy = match self.loss.entropy_coef > 0.0 {
            true => Some(entropies(&rows.pick(logits)?, self.temperature)?),
            false => None,
        };
        let inputs = PolicyInputs {
            log_probs: &log_probs,
            old: &old,
            advantages: &advantages,
            reference: reference.as_ref(),
            entropy: entropy.as_ref(),
            lens: &rows.lens,
        };
        let mut output = policy_loss(&inputs, &self.loss)?;
        if self.ptx_coef > 0.0 {
            output.components.push(self.ptx(logits, batch, &rows)?);
            // Beside another component this one is shown under its name.
            output.metrics.retain(|metric| metric.name != "loss/policy_avg");
        }
        Ok(output)
    }

    pub fn measure(&self, logits: &Tensor, batch: &PackedBatch) -> Result<Vec<Vec<Vec<f32>>>> {
        let log_probs = log_probs(logits, batch, self.temperature)?;
        let log_probs = TokenLogProbs::new(log_probs, batch.completion_lens().to_vec())?;
        self.references.measure(batch, log_probs, logits, self.temperature)
    }

    fn ptx(&self, logits: &Tensor, batch: &PackedBatch, rows: &Rows) -> Result<LossComponent> {
        let targets = PackedBatch::index_tensor(batch.targets(), logits.device())?;
        let log_probs = gather_log_probs(&pick(logits, &rows.ptx)?, &pick(&targets, &rows.ptx)?, 1.0)?;
        Ok(LossComponent {
            name: PpoConfig::PTX_LOSS,
            weight: self.ptx_coef,
            terms: log_probs.f_to_kind(Kind::Double)?.f_neg()?,
            denominator: rows.ptx.len() as f64,
        })
    }
}

/// Computes log π of every target of a batch at a temperature.
pub(super) fn log_probs(logits: &Tensor, batch: &PackedBatch, temperature: f64) -> Result<Tensor> {
    let targets = PackedBatch::index_tensor(batch.targets(), logits.device())?;
    gather_log_probs(logits, &targets, temperature)
}

/// Checks what every loss of a policy is made of; `temperature` is that of sampling.
pub(super) fn check(config: &PpoConfig, temperature: f64, references: &References) -> Result<()> {
    config.validate()?;
    references.check(config)?;
    if temperature > 0.0 && temperature.is_finite() {
        return Ok(());
    }
    Err(Error::input(
        "temperature",
        format!("{temperature} is not a number above 0; samples are drawn with one"),
    ))
}
