use serde::{Deserialize, Deserializer, Serialize};

use super::{Aggregation, check};
use crate::{Error, Result};

/// The losses of the DPO family by their names in TRL 1.16.
///
/// With h = log π − log π_ref of one answer, D = h_chosen − h_rejected and ε the label smoothing; the formulas
/// stand at the functions of `align-losses`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DpoLossType {
    /// Direct preference optimisation, 2305.18290 eq. 7; with ε the conservative form.
    #[default]
    Sigmoid,
    /// Hinge on the normalised margin (RSO, 2309.06657); reference-free: the SLiC-HF margin (2305.10425).
    Hinge,
    /// Identity preference optimisation, 2310.12036 eq. 17, over averages per token; `beta` is its τ.
    Ipo,
    /// Exact optimisation of pairs, 2402.00856 eq. 16; needs ε > 0.
    ExoPair,
    /// Noise-contrastive alignment of pairs, 2402.05369.
    NcaPair,
    /// DPO that is unbiased when labels are flipped at rate ε, 2403.00409.
    Robust,
    /// Binary classifier optimisation of pairs without reward shift, 2404.04656.
    BcoPair,
    /// Self-play preference optimisation with hard labels, 2405.00675.
    SppoHard,
    /// Alignment by optimal transport over pairs, 2406.05882; couples the rows of the batch.
    Aot,
    /// Alignment by optimal transport over unpaired answers, 2406.05882; couples the rows of the batch.
    AotUnpaired,
    /// Anchored preference optimisation for chosen answers better than the model's, 2408.06266 eq. 7.
    ApoZero,
    /// Anchored preference optimisation for chosen answers worse than the model's, 2408.06266 eq. 8.
    ApoDown,
    /// The discovered loss of DiscoPOP, 2406.08414 eq. 5.
    Discopop,
    /// Negative log-likelihood of the chosen answers, the extra term of RPO (2405.16436) and IRPO (2404.19733).
    Sft,
    /// DPO over averages per token (Tulu 3, 2411.15124).
    SigmoidNorm,
    /// Simple preference optimisation, 2405.14734 eq. 6; reference-free. With `simpo_alpha` AlphaPO, 2501.03884.
    Simpo,
    /// Contrastive preference optimisation, 2401.08417 eq. 3; reference-free, with a likelihood term.
    Cpo,
    /// Odds-ratio preference optimisation, 2403.07691 eq. 6; reference-free, with a likelihood term.
    Orpo,
}

impl DpoLossType {
    /// Every loss of the family, in the order of the documentation.
    pub const ALL: [Self; 18] = [
        Self::Sigmoid,
        Self::Hinge,
        Self::Ipo,
        Self::ExoPair,
        Self::NcaPair,
        Self::Robust,
        Self::BcoPair,
        Self::SppoHard,
        Self::Aot,
        Self::AotUnpaired,
        Self::ApoZero,
        Self::ApoDown,
        Self::Discopop,
        Self::Sft,
        Self::SigmoidNorm,
        Self::Simpo,
        Self::Cpo,
        Self::Orpo,
    ];

    /// Returns the name that the loss has in configurations.
    ///
    /// ```
    /// assert_eq!(align_types::config::DpoLossType::ExoPair.name(), "exo_pair");
    /// ```
    pub fn name(self) -> &'static str {
        let name = self.metric();
        name.strip_prefix("loss/").unwrap_or(name)
    }

    /// Returns the name that the loss has in the metrics.
    ///
    /// ```
    /// assert_eq!(align_types::config::DpoLossType::ExoPair.metric(), "loss/exo_pair");
    /// ```
    pub fn metric(self) -> &'static str {
        match self {
            Self::Sigmoid => "loss/sigmoid",
            Self::Hinge => "loss/hinge",
            Self::Ipo => "loss/ipo",
            Self::ExoPair => "loss/exo_pair",
            Self::NcaPair => "loss/nca_pair",
            Self::Robust => "loss/robust",
            Self::BcoPair => "loss/bco_pair",
            Self::SppoHard => "loss/sppo_hard",
            Self::Aot => "loss/aot",
            Self::AotUnpaired => "loss/aot_unpaired",
            Self::ApoZero => "loss/apo_zero",
            Self::ApoDown => "loss/apo_down",
            Self::Discopop => "loss/discopop",
            Self::Sft => "loss/sft",
            Self::SigmoidNorm => "loss/sigmoid_norm",
            Self::Simpo => "loss/simpo",
            Self::Cpo => "loss/cpo",
            Self::Orpo => "loss/orpo",
        }
    }

    /// Says whether the loss compares the policy with a reference (unless `reference_free` is set).
    pub fn uses_reference(self) -> bool {
        !matches!(self, Self::Sft | Self::Simpo | Self::Cpo | Self::Orpo)
    }

    /// Says whether the loss of one pair depends on the other pairs of the optimiser batch.
    pub fn couples_rows(self) -> bool {
        matches!(self, Self::Aot | Self::AotUnpaired)
    }

    /// Says whether the loss needs the number of tokens of the answers.
    pub fn uses_lengths(self) -> bool {
        matches!(self, Self::Ipo | Self::SigmoidNorm | Self::Simpo | Self::Orpo) || self.has_likelihood()
    }

    /// Says whether the loss is or contains the negative log-likelihood of the chosen answers.
    pub fn has_likelihood(self) -> bool {
        matches!(self, Self::Sft | Self::Cpo | Self::Orpo)
    }

    /// Says whether the loss reads the label smoothing.
    fn smooths(self) -> bool {
        matches!(
            self,
            Self::Sigmoid
                | Self::ExoPair
                | Self::Robust
                | Self::Aot
                | Self::AotUnpaired
                | Self::Simpo
                | Self::Cpo
        )
    }

    /// Says whether the loss is a function of D alone, in which log Z(x) of any divergence cancels.
    fn compares_sides(self) -> bool {
        matches!(
            self,
            Self::Sigmoid
                | Self::SigmoidNorm
                | Self::Hinge
                | Self::Ipo
                | Self::ExoPair
                | Self::Robust
                | Self::Discopop
                | Self::Sft
        )
    }

    /// Says whether the loss takes β h of one answer for a reward, which it is only against a reference.
    fn uses_single_rewards(self) -> bool {
        matches!(
            self,
            Self::NcaPair
                | Self::BcoPair
                | Self::SppoHard
                | Self::AotUnpaired
                | Self::ApoZero
                | Self::ApoDown
        )
    }
}

/// How far a policy is from its reference: the f-divergence that the implicit reward belongs to (2309.16240).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FDivergence {
    /// KL(π ‖ π_ref), the one of DPO: the score is h.
    #[default]
    ReverseKl,
    /// KL(π_ref ‖ π): the score is 1 − exp(−h).
    ForwardKl,
    /// Jensen-Shannon: the score is ln 2 + log σ(h).
    JsDivergence,
    /// α-divergence: the score is (exp((α − 1) h) − 1) / (α − 1).
    AlphaDivergence,
}

/// The DPO family: one loss, or several with weights.
///
/// Names and defaults are TRL's (`DPOConfig`, and `CPOConfig` for SimPO and CPO).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DpoConfig {
    /// Strength of the pull to the reference; > 0 and at most a million. 0.1 as in 2305.18290 appendix B; the
    /// weight of the odds ratio in ORPO.
    pub beta: f64,
    /// Which losses of the family; one name or a list of different ones.
    #[serde(deserialize_with = "one_or_many")]
    pub loss_type: Vec<DpoLossType>,
    /// Weight of each loss, in their order; empty: 1 each.
    pub loss_weights: Vec<f64>,
    /// Probability ε that a label is wrong; in [0, 0.5).
    pub label_smoothing: f64,
    /// Leaves the reference out: its log-probabilities count as 0.
    pub reference_free: bool,
    /// The divergence of the implicit reward.
    pub f_divergence_type: FDivergence,
    /// α of the α-divergence; 1 is its limit, the reverse KL.
    pub f_alpha_divergence_coef: f64,
    /// Temperature τ of the blend in DiscoPOP; in (0, 1].
    pub discopop_tau: f64,
    /// Weight of the tokens of the longer answer beyond the length of the shorter one, in [0, 1] (LD-DPO,
    /// 2409.06411); `None`: plain sums.
    pub ld_alpha: Option<f64>,
    /// Weights pairs by how likely the policy would have written them (WPO, 2406.11827 eq. 2).
    pub use_weighting: bool,
    /// Margin γ of SimPO; >= 0.
    pub simpo_gamma: f64,
    /// Shape α of the reward of SimPO (AlphaPO, 2501.03884): β (1 − p^−α) / α with p the geometric mean of the
    /// probabilities of an answer's tokens; in [−10, 10], at 0 the plain β log p. TRL calls it `alpha`.
    pub simpo_alpha: f64,
    /// Weight of the likelihood term of CPO; >= 0.
    pub cpo_alpha: f64,
    /// Over what the likelihood of the chosen answers is averaged in `sft`, `cpo` and `orpo`.
    pub sft_aggregation: Aggregation,
}

impl Default for DpoConfig {
    fn default() -> Self {
        Self {
            beta: 0.1,
            loss_type: vec![DpoLossType::Sigmoid],
            loss_weights: Vec::new(),
            label_smoothing: 0.0,
            reference_free: false,
            f_divergence_type: FDivergence::ReverseKl,
            f_alpha_divergence_coef: 0.5,
            discopop_tau: 0.05,
            ld_alpha: None,
            use_weighting: false,
            simpo_gamma: 0.5,
            simpo_alpha: 0.0,
            cpo_alpha: 1.0,
            sft_aggregation: Aggregation::TokenMean,
        }
    }
}

/// Largest `beta`: far above any use, and far below where products with it leave 32-bit floats.
pub(super) const MOST_BETA: f64 = 1e6;

/// Largest `simpo_alpha`: above any use, and p^−α of answers that a language model may see stays a number.
const MOST_SIMPO_ALPHA: f64 = 10.0;

/// Checks the strength of the pull to a reference.
pub(super) fn check_beta(beta: f64) -> Result<()> {
    let inside = beta > 0.0 && beta <= MOST_BETA;
    check("beta", beta, inside, "a finite number above 0 and at most 1000000")
}

impl DpoConfig {
    /// Makes the configuration of one loss with the defaults.
    pub fn of(loss: DpoLossType) -> Self {
        Self { loss_type: vec![loss], ..Self::default() }
    }

    /// Returns the losses with their weights.
    pub fn losses(&self) -> impl Iterator<Item = (DpoLossType, f64)> + '_ {
        let weight = |index: usize| self.loss_weights.get(index).copied().unwrap_or(1.0);
        self.loss_type.iter().enumerate().map(move |(index, loss)| (*loss, weight(index)))
    }

    /// Lists the names of the summands of the loss in the metrics, in their order; none where there is only one.
    ///
    /// ```
    /// use align_types::config::{DpoConfig, DpoLossType};
    ///
    /// assert!(DpoConfig::default().summands().is_empty());
    /// assert_eq!(DpoConfig::of(DpoLossType::Orpo).summands(), ["loss/orpo", "loss/orpo_nll"]);
    /// ```
    pub fn summands(&self) -> Vec<String> {
        let names = |loss: &DpoLossType| {
            let name = loss.metric();
            let second = match loss {
                DpoLossType::Orpo => true,
                DpoLossType::Cpo => self.cpo_alpha > 0.0,
                _ => false,
            };
            std::iter::once(name.to_owned()).chain(second.then(|| format!("{name}_nll")))
        };
        let all: Vec<_> = self.loss_type.iter().flat_map(names).collect();
        if all.len() > 1 { all } else { Vec::new() }
    }

    /// Says whether any of the losses compares the policy with a reference.
    pub fn uses_reference(&self) -> bool {
        !self.reference_free && self.loss_type.iter().any(|loss| loss.uses_reference())
    }

    /// Says whether the loss of one pair depends on the other pairs of the optimiser batch.
    pub fn couples_rows(&self) -> bool {
        self.loss_type.iter().any(|loss| loss.couples_rows())
    }

    /// Says whether the number of tokens of the answers is needed.
    pub fn uses_lengths(&self) -> bool {
        self.loss_type.iter().any(|loss| loss.uses_lengths())
    }

    /// Checks the ranges, and that the options go together.
    ///
    /// # Errors
    /// [`Error::Config`] names the first value outside its range, [`Error::Exclusive`] two options that cannot be
    /// given together and why.
    pub fn validate(&self) -> Result<()> {
        check_beta(self.beta)?;
        let smoothing = self.label_smoothing;
        check("label-smoothing", smoothing, (0.0..0.5).contains(&smoothing), "a number in [0, 0.5)")?;
        self.check_losses()?;
        let tau = self.discopop_tau;
        check("discopop-tau", tau, tau > 0.0 && tau <= 1.0, "a number in (0, 1]")?;
        if let Some(alpha) = self.ld_alpha {
            check("ld-alpha", alpha, (0.0..=1.0).contains(&alpha), "a number in [0, 1]")?;
        }
        check("f-alpha-divergence-coef", self.f_alpha_divergence_coef, true, "a finite number")?;
        check("simpo-gamma", self.simpo_gamma, self.simpo_gamma >= 0.0, "a finite number of at least 0")?;
        let alpha = self.simpo_alpha;
        check("simpo-alpha", alpha, alpha.abs() <= MOST_SIMPO_ALPHA, "a number in [-10, 10]")?;
        check("cpo-alpha", self.cpo_alpha, self.cpo_alpha >= 0.0, "a finite number of at least 0")?;
        self.check_combinations()
    }

    fn check_losses(&self) -> Result<()> {
        let list = || format!("{:?}", self.loss_type);
        let wrong = |key, value, expected| Err(Error::Config { key, value, expected });
        let twice = self
            .loss_type
            .iter()
            .enumerate()
            .any(|(i, loss)| self.loss_type.iter().skip(i + 1).any(|l| l == loss));
        if self.loss_type.is_empty() || twice {
            return wrong("loss-type", list(), "at least one loss, each of them once");
        }
        if !self.loss_weights.is_empty() && self.loss_weights.len() != self.loss_type.len() {
            return wrong(
                "loss-weights",
                format!("{:?}", self.loss_weights),
                "one weight for each loss-type",
            );
        }
        for weight in &self.loss_weights {
            check("loss-weights", *weight, *weight >= 0.0, "finite numbers of at least 0")?;
        }
        if !self.loss_weights.is_empty() && self.loss_weights.iter().all(|weight| *weight == 0.0) {
            return wrong("loss-weights", format!("{:?}", self.loss_weights), "at least one weight above 0");
        }
        Ok(())
    }

    /// Refuses a setting that none of the losses reads: whoever gives it expects another loss.
    fn check_unread(&self) -> Result<()> {
        let default = Self::default();
        let has = |loss: DpoLossType| self.loss_type.contains(&loss);
        let likelihood = self.loss_type.iter().any(|loss| loss.has_likelihood());
        let settings = [
            ("simpo-gamma", self.simpo_gamma != default.simpo_gamma, has(DpoLossType::Simpo)),
            ("simpo-alpha", self.simpo_alpha != default.simpo_alpha, has(DpoLossType::Simpo)),
            ("cpo-alpha", self.cpo_alpha != default.cpo_alpha, has(DpoLossType::Cpo)),
            ("discopop-tau", self.discopop_tau != default.discopop_tau, has(DpoLossType::Discopop)),
            (
                "f-alpha-divergence-coef",
                self.f_alpha_divergence_coef != default.f_alpha_divergence_coef,
                self.f_divergence_type == FDivergence::AlphaDivergence,
            ),
            ("sft-aggregation", self.sft_aggregation != default.sft_aggregation, likelihood),
        ];
        match settings.into_iter().find(|(_, given, read)| *given && !read) {
            None => Ok(()),
            Some((first, ..)) => {
                Err(Error::Exclusive { first, second: "loss-type", why: "none of the losses reads it" })
            }
        }
    }

    fn check_combinations(&self) -> Result<()> {
        let any = |property: fn(DpoLossType) -> bool| self.loss_type.iter().any(|loss| property(*loss));
        let exclusive = |first, second, why| Err(Error::Exclusive { first, second, why });
        if self.label_smoothing == 0.0 && self.loss_type.contains(&DpoLossType::ExoPair) {
            let expected =
                "above 0 with loss-type exo_pair, whose target is undefined at 0; 2402.00856 has 0.001";
            return Err(Error::Config { key: "label-smoothing", value: "0".into(), expected });
        }
        self.check_unread()?;
        if self.label_smoothing > 0.0 && !any(DpoLossType::smooths) {
            return exclusive("label-smoothing", "loss-type", "none of the losses reads it");
        }
        if self.reference_free && any(DpoLossType::uses_single_rewards) {
            let why = "a loss that takes beta h of one answer for a reward needs the reference in h";
            return exclusive("reference-free", "loss-type", why);
        }
        if self.f_divergence_type != FDivergence::ReverseKl {
            if !self.loss_type.iter().all(|loss| loss.compares_sides()) {
                let why = "log Z(x) cancels only in losses of the difference: sigmoid, sigmoid_norm, hinge, ipo, \
                           exo_pair, robust, discopop, sft";
                return exclusive("f-divergence-type", "loss-type", why);
            }
            if self.reference_free {
                return exclusive("f-divergence-type", "reference-free", "a divergence needs a reference");
            }
        }
        if self.ld_alpha.is_some()
            && any(|loss| matches!(loss, DpoLossType::Simpo | DpoLossType::Cpo | DpoLossType::Orpo))
        {
            return exclusive(
                "ld-alpha",
                "loss-type",
                "simpo, cpo and orpo have no length-desensitised form",
            );
        }
        if self.use_weighting && any(DpoLossType::couples_rows) {
            return exclusive(
                "use-weighting",
                "loss-type",
                "aot sorts the batch, so a term has no pair to weight",
            );
        }
        if self.use_weighting && any(DpoLossType::has_likelihood) {
            let why = "the likelihood is averaged over all tokens, so a term has no pair to weight";
            return exclusive("use-weighting", "loss-type", why);
        }
        Ok(())
    }
}

/// Reads one name or a list of names.
fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<DpoLossType>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected the name of a loss or a list of them")]
    enum Names {
        One(DpoLossType),
        Many(Vec<DpoLossType>),
    }
    Ok(match Names::deserialize(deserializer)? {
        Names::One(loss) => vec![loss],
        Names::Many(losses) => losses,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(config: DpoConfig) -> String {
        config.validate().unwrap_err().to_string()
    }

    #[test]
    fn every_loss_is_valid_alone() {
        for loss in DpoLossType::ALL {
            let label_smoothing = if loss == DpoLossType::ExoPair { 1e-3 } else { 0.0 };
            DpoConfig { label_smoothing, ..DpoConfig::of(loss) }.validate().unwrap();
        }
    }

    #[test]
    fn names_are_those_of_trl_alone_and_in_lists() {
        let one: DpoConfig = serde_json::from_str(r#"{"loss_type": "aot_unpaired"}"#).unwrap();
        assert_eq!(one.loss_type, [DpoLossType::AotUnpaired]);
        let two: DpoConfig =
            serde_json::from_str(r#"{"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.2]}"#).unwrap();
        assert_eq!(two.losses().collect::<Vec<_>>(), [(DpoLossType::Sigmoid, 1.0), (DpoLossType::Sft, 0.2)]);
        let unknown = serde_json::from_str::<DpoConfig>(r#"{"loss_type": "kto"}"#).unwrap_err().to_string();
        assert!(unknown.contains("the name of a loss"), "{unknown}");
    }

    #[test]
    fn combinations_without_meaning_are_refused_with_the_reason() {
        use DpoLossType as L;
        let of = DpoConfig::of;
        let list = |loss_type: &[L]| DpoConfig { loss_type: loss_type.to_vec(), ..Default::default() };
        let weights = |w: &[f64]| DpoConfig { loss_weights: w.to_vec(), ..Default::default() };
        for (config, expected) in [
            (of(L::ExoPair), "label-smoothing = 0: above 0 with loss-type exo_pair"),
            (DpoConfig { label_smoothing: 0.1, ..of(L::Ipo) }, "none of the losses reads it"),
            (DpoConfig { reference_free: true, ..of(L::ApoZero) }, "needs the reference in h"),
            (
                DpoConfig { f_divergence_type: FDivergence::ForwardKl, ..of(L::NcaPair) },
                "log Z(x) cancels only",
            ),
            (
                DpoConfig {
                    f_divergence_type: FDivergence::JsDivergence,
                    reference_free: true,
                    ..Default::default()
                },
                "a divergence needs a reference",
            ),
            (DpoConfig { ld_alpha: Some(0.5), ..of(L::Simpo) }, "no length-desensitised form"),
            (DpoConfig { ld_alpha: Some(1.5), ..Default::default() }, "a number in [0, 1]"),
            (DpoConfig { use_weighting: true, ..of(L::Aot) }, "sorts the batch"),
            (DpoConfig { use_weighting: true, ..list(&[L::Sigmoid, L::Sft]) }, "averaged over all tokens"),
            (list(&[]), "at least one loss"),
            (list(&[L::Sigmoid, L::Sft, L::Sigmoid]), "each of them once"),
            (weights(&[1.0, 2.0]), "one weight for each"),
            (weights(&[-1.0]), "at least 0"),
            (weights(&[0.0]), "at least one weight above 0"),
            (DpoConfig { simpo_gamma: 1.0, ..Default::default() }, "none of the losses reads it"),
            (DpoConfig { f_alpha_divergence_coef: 0.9, ..Default::default() }, "f-alpha-divergence-coef"),
            (DpoConfig { discopop_tau: 0.0, ..Default::default() }, "(0, 1]"),
            (DpoConfig { simpo_gamma: f64::NAN, ..Default::default() }, "simpo-gamma"),
            (DpoConfig { simpo_alpha: 0.25, ..Default::default() }, "none of the losses reads it"),
            (DpoConfig { simpo_alpha: -11.0, ..of(L::Simpo) }, "a number in [-10, 10]"),
            (DpoConfig { simpo_alpha: f64::NAN, ..of(L::Simpo) }, "simpo-alpha"),
        ] {
            let error = refusal(config);
            assert!(error.contains(expected), "{error} does not say {expected}");
        }
    }

    #[test]
    fn mixtures_use_what_any_of_their_losses_uses() {
        let mixture =
            DpoConfig { loss_type: vec![DpoLossType::Simpo, DpoLossType::Aot], ..Default::default() };
        assert!(mixture.uses_reference() && mixture.couples_rows() && mixture.uses_lengths());
        let free = DpoConfig::of(DpoLossType::Orpo);
        assert!(!free.uses_reference() && !free.couples_rows());
    }
}
