use super::{
    super::{check, dpo::check_beta},
    AdvantageKind, CriticKind, KlEstimator, KlPlacement, PpoConfig, RewardBaseline,
};
use crate::{Error, Result};

/// Refuses two keys beside each other.
fn exclusive(refused: bool, first: &'static str, second: &'static str, why: &'static str) -> Result<()> {
    if refused { Err(Error::Exclusive { first, second, why }) } else { Ok(()) }
}

fn check_optional(
    key: &'static str,
    value: Option<f64>,
    ok: impl Fn(f64) -> bool,
    expected: &'static str,
) -> Result<()> {
    value.map_or(Ok(()), |value| check(key, value, ok(value), expected))
}

impl PpoConfig {
    /// Checks the ranges, and that the choices go together.
    ///
    /// ```
    /// use align_types::config::{AdvantageKind, KlPlacement, PpoConfig};
    ///
    /// for kind in AdvantageKind::ALL {
    ///     PpoConfig::for_advantage(kind).validate()?;
    /// }
    /// let noise = PpoConfig { kl_placement: KlPlacement::Loss, ..Default::default() };
    /// assert!(noise.validate().unwrap_err().to_string().contains("expected gradient is 0"));
    /// # Ok::<(), align_types::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Config`] names the first value outside its range, [`Error::Exclusive`] two that do not go together.
    pub fn validate(&self) -> Result<()> {
        self.check_ranges()?;
        self.check_penalties()?;
        self.check_kl()?;
        self.check_clipping()?;
        self.check_critic()?;
        self.check_groups()?;
        self.check_pairs()
    }

    /// Checks that this number of samples per prompt is enough.
    ///
    /// # Errors
    /// [`Error::Config`] for one sample where answers to the same prompt are compared.
    pub fn check_samples(&self, num_completions: usize) -> Result<()> {
        if num_completions >= 2 || !self.advantage.uses_groups() {
            return Ok(());
        }
        let expected = match self.advantage {
            AdvantageKind::OnlineDpo => "at least 2, as online-dpo compares answers to the same prompt",
            AdvantageKind::Rloo => {
                "at least 2, as the baseline of rloo is the mean of the other answers to the prompt"
            }
            _ => {
                "at least 2, as the advantage is relative to the other answers to the prompt (ppo, a2c and \
                  reinforce take one)"
            }
        };
        Err(Error::Config { key: "num-completions", value: num_completions.to_string(), expected })
    }

    fn check_ranges(&self) -> Result<()> {
        for (key, value) in
            [("kl-coef", self.kl_coef), ("vf-coef", self.vf_coef), ("entropy-coef", self.entropy_coef)]
        {
            check(key, value, value >= 0.0, "a finite number of at least 0")?;
        }
        check("ptx-coef", self.ptx_coef, self.ptx_coef >= 0.0, "a finite number of at least 0")?;
        for (key, value) in [("gamma", self.gamma), ("lam", self.lam)] {
            check(key, value, (0.0..=1.0).contains(&value), "a number in [0, 1]")?;
        }
        for (key, value) in
            [("num-ppo-epochs", self.num_ppo_epochs), ("num-mini-batches", self.num_mini_batches)]
        {
            check(key, value as f64, value > 0, "at least 1")?;
        }
        let above = "a finite number above 0";
        check("kl-horizon", self.kl_horizon, self.kl_horizon > 0.0, above)?;
        check_optional("kl-target", self.kl_target, |v| v > 0.0, above)?;
        check_optional("target-kl", self.target_kl, |v| v > 0.0, above)?;
        check_optional("max-ratio", self.max_ratio, |v| v > 1.0, "a finite number above 1")?;
        let share = "a number above 0 and at most 1, the weight of the policy";
        check_optional("ref-ema", self.ref_ema, |v| v > 0.0 && v <= 1.0, share)?;
        check_beta(self.beta)
    }

    fn check_penalties(&self) -> Result<()> {
        let not_negative = "a finite number of at least 0, which is subtracted";
        check_optional("missing-eos-penalty", self.missing_eos_penalty, |v| v >= 0.0, not_negative)?;
        check_optional("reward-clip", self.reward_clip, |v| v > 0.0, "a finite number above 0")?;
        match self.overlong_penalty {
            Some(penalty) if penalty.cache == 0 || penalty.cache > penalty.max => Err(Error::Config {
                key: "overlong-penalty",
                value: format!("{},{}", penalty.max, penalty.cache),
                expected: "the length of the full penalty and the tokens over which it grows, from 1 to that length",
            }),
            _ => Ok(()),
        }
    }

    fn check_kl(&self) -> Result<()> {
        let (estimator, placement) = (self.kl_estimator, self.kl_placement);
        exclusive(
            estimator == KlEstimator::K1 && placement == KlPlacement::Loss,
            "kl-estimator = k1",
            "kl-placement = loss",
            "its expected gradient is 0, so that the reference would have no effect; use k2 or k3",
        )?;
        exclusive(
            estimator == KlEstimator::K2 && placement == KlPlacement::Reward,
            "kl-estimator = k2",
            "kl-placement = reward",
            "as a reward it is a biased estimate of the divergence; use k1 or k3",
        )?;
        let adaptive = self.kl_target.is_some();
        exclusive(
            adaptive && placement == KlPlacement::Loss,
            "kl-target",
            "kl-placement = loss",
            "the controller steers the weight of the KL in the reward",
        )?;
        exclusive(
            adaptive && self.kl_coef == 0.0,
            "kl-target",
            "kl-coef = 0",
            "the controller multiplies the weight, and 0 stays 0",
        )
    }

    fn check_clipping(&self) -> Result<()> {
        let range = self.cliprange;
        check("cliprange", range, range > 0.0 && range < 1.0, "a number above 0 and below 1")?;
        check_optional("cliprange-high", self.cliprange_high, |v| v > 0.0, "a finite number above 0")?;
        let value = self.cliprange_value;
        check("cliprange-value", value, value > 0.0, "a finite number above 0")?;
        let unclipped = matches!(self.advantage, AdvantageKind::A2c | AdvantageKind::Reinforce);
        let why = "nothing is clipped, so that there may be one update per batch of samples; use ppo or rloo";
        exclusive(unclipped && self.num_ppo_epochs > 1, "num-ppo-epochs above 1", "a2c and reinforce", why)?;
        exclusive(
            unclipped && self.num_mini_batches > 1,
            "num-mini-batches above 1",
            "a2c and reinforce",
            why,
        )?;
        let high = self.cliprange_high.is_some() && !self.advantage.clips();
        exclusive(high, "cliprange-high", "a2c, reinforce and online-dpo", "nothing is clipped there")
    }

    fn check_critic(&self) -> Result<()> {
        let rate = self.critic_learning_rate;
        let expected = "a finite number above 0 and at most 1000";
        check("critic-learning-rate", rate, rate > 0.0 && rate <= 1e3, expected)?;
        let shared = self.critic == CriticKind::Shared;
        exclusive(
            shared && self.critic_warmup > 0,
            "critic-warmup",
            "critic = shared",
            "the value loss alone would move the policy's transformer",
        )?;
        if self.advantage.uses_critic() {
            return Ok(());
        }
        let why = "only ppo and a2c have a critic";
        let other = "an advantage without a critic";
        exclusive(shared, "critic = shared", other, why)?;
        exclusive(self.critic_warmup > 0, "critic-warmup", other, why)?;
        exclusive(self.normalize_values, "normalize-values", other, why)?;
        let one = "every token of an answer has the same advantage there";
        exclusive(self.whiten_rewards, "whiten-rewards", other, one)?;
        exclusive(self.gamma != 1.0, "gamma", other, one)
    }

    fn check_groups(&self) -> Result<()> {
        if !self.advantage.uses_groups() {
            let why = "there is no group to be without signal: it needs rloo, grpo, dr-grpo or dapo";
            return exclusive(self.dynamic_sampling, "dynamic-sampling", self.advantage.name(), why);
        }
        exclusive(
            self.reward_baseline == RewardBaseline::Reference,
            "reward-baseline = reference",
            "an advantage relative to the group",
            "what all answers to a prompt have in common cancels",
        )?;
        exclusive(
            self.whiten_advantages && self.advantage != AdvantageKind::Rloo,
            "whiten-advantages",
            self.advantage.name(),
            "its advantages are normalised by the group, or on purpose not at all",
        )
    }

    fn check_pairs(&self) -> Result<()> {
        if self.advantage != AdvantageKind::OnlineDpo {
            return Ok(());
        }
        for (given, key) in [
            (self.kl_coef > 0.0, "kl-coef"),
            (self.entropy_coef > 0.0, "entropy-coef"),
            (self.ptx_coef > 0.0, "ptx-coef"),
            (self.dynamic_sampling, "dynamic-sampling"),
            (self.target_kl.is_some(), "target-kl"),
            (self.max_ratio.is_some(), "max-ratio"),
            (self.aggregation.is_some(), "aggregation"),
        ] {
            let why =
                "its loss is that of DPO on pairs: beta holds it to the reference, and ties are left out";
            exclusive(given, key, "online-dpo", why)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{OverlongPenalty, PolicyAggregation, Truncated};
    use super::*;

    fn refused(config: &PpoConfig, words: &[&str]) {
        let error = config.validate().unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    }

    #[test]
    fn the_defaults_of_every_choice_are_valid_and_survive_a_file() {
        for kind in AdvantageKind::ALL {
            let config = PpoConfig::for_advantage(kind);
            config.validate().unwrap();
            assert_eq!(config.advantage, kind);
            let text = serde_json::to_string(&config).unwrap();
            assert_eq!(serde_json::from_str::<PpoConfig>(&text).unwrap(), config);
            let named = format!(r#"{{"advantage": "{}"}}"#, kind.name());
            assert_eq!(serde_json::from_str::<PpoConfig>(&named).unwrap(), config);
        }
        assert_eq!(serde_json::from_str::<PpoConfig>("{}").unwrap(), PpoConfig::default());
        assert_eq!(
            PpoConfig::for_advantage(AdvantageKind::Grpo).aggregation(),
            PolicyAggregation::SeqMeanMean
        );
        assert_eq!(
            PpoConfig::for_advantage(AdvantageKind::DrGrpo).aggregation(),
            PolicyAggregation::SeqSumConst
        );
        assert_eq!(PpoConfig::for_advantage(AdvantageKind::Dapo).aggregation(), PolicyAggregation::TokenMean);
    }

    #[test]
    fn unknown_keys_and_names_are_refused() {
        let error = serde_json::from_str::<PpoConfig>(r#"{"kl_coeff": 1}"#).unwrap_err().to_string();
        assert!(error.contains("kl_coeff") && error.contains("kl_coef"), "{error}");
        let error = serde_json::from_str::<PpoConfig>(r#"{"advantage": "gppo"}"#).unwrap_err().to_string();
        assert!(error.contains("gppo") && error.contains("dr-grpo"), "{error}");
    }

    #[test]
    fn ranges_are_checked() {
        let base = PpoConfig::default;
        refused(&PpoConfig { kl_coef: -1.0, ..base() }, &["kl-coef = -1"]);
        refused(&PpoConfig { gamma: 1.5, ..base() }, &["gamma = 1.5"]);
        refused(&PpoConfig { lam: f64::NAN, ..base() }, &["lam = NaN"]);
        refused(&PpoConfig { num_ppo_epochs: 0, ..base() }, &["num-ppo-epochs = 0"]);
        refused(&PpoConfig { cliprange: 1.0, ..base() }, &["cliprange = 1"]);
        refused(&PpoConfig { cliprange_value: 0.0, ..base() }, &["cliprange-value = 0"]);
        refused(&PpoConfig { missing_eos_penalty: Some(-1.0), ..base() }, &["missing-eos-penalty = -1"]);
        refused(&PpoConfig { reward_clip: Some(0.0), ..base() }, &["reward-clip = 0"]);
        refused(&PpoConfig { ref_ema: Some(1.5), ..base() }, &["ref-ema = 1.5", "weight of the policy"]);
        refused(&PpoConfig { max_ratio: Some(1.0), ..base() }, &["max-ratio = 1"]);
        refused(&PpoConfig { critic_learning_rate: 0.0, ..base() }, &["critic-learning-rate = 0"]);
        let long =
            |max, cache| PpoConfig { overlong_penalty: Some(OverlongPenalty { max, cache }), ..base() };
        refused(&long(20, 0), &["overlong-penalty = 20,0"]);
        refused(&long(20, 21), &["overlong-penalty = 20,21"]);
        long(20, 20).validate().unwrap();
        PpoConfig { truncated: Truncated::Score, ptx_coef: 27.8, ..base() }.validate().unwrap();
    }

    #[test]
    fn choices_that_do_not_go_together_are_refused_with_the_reason() {
        let of = PpoConfig::for_advantage;
        let (ppo, grpo) = (of(AdvantageKind::Ppo), of(AdvantageKind::Grpo));
        let k2 = PpoConfig { kl_estimator: KlEstimator::K2, ..ppo.clone() };
        refused(&k2, &["k2", "biased"]);
        PpoConfig { kl_placement: KlPlacement::Loss, ..k2 }.validate().unwrap();
        refused(&PpoConfig { kl_target: Some(6.0), ..grpo.clone() }, &["kl-target", "in the reward"]);
        refused(&PpoConfig { kl_target: Some(6.0), kl_coef: 0.0, ..ppo.clone() }, &["0 stays 0"]);
        let a2c = of(AdvantageKind::A2c);
        refused(&PpoConfig { num_ppo_epochs: 2, ..a2c.clone() }, &["num-ppo-epochs", "nothing is clipped"]);
        refused(&PpoConfig { cliprange_high: Some(0.3), ..a2c }, &["cliprange-high"]);
        refused(&PpoConfig { critic: CriticKind::Shared, ..grpo.clone() }, &["critic = shared", "only ppo"]);
        let warm = PpoConfig { critic: CriticKind::Shared, critic_warmup: 3, ..ppo.clone() };
        refused(&warm, &["critic-warmup", "transformer"]);
        refused(&PpoConfig { gamma: 0.9, ..grpo.clone() }, &["gamma", "same advantage"]);
        refused(&PpoConfig { dynamic_sampling: true, ..ppo }, &["dynamic-sampling and ppo"]);
        let relative = PpoConfig { reward_baseline: RewardBaseline::Reference, ..grpo.clone() };
        refused(&relative, &["reward-baseline", "cancels"]);
        refused(&PpoConfig { whiten_advantages: true, ..grpo }, &["whiten-advantages and grpo"]);
        let online = of(AdvantageKind::OnlineDpo);
        refused(&PpoConfig { kl_coef: 0.1, ..online }, &["kl-coef and online-dpo", "beta"]);
    }

    #[test]
    fn one_sample_is_too_few_for_groups() {
        for kind in AdvantageKind::ALL {
            let config = PpoConfig::for_advantage(kind);
            assert_eq!(config.check_samples(1).is_err(), kind.uses_groups());
            config.check_samples(2).unwrap();
        }
        let error = PpoConfig::for_advantage(AdvantageKind::Grpo).check_samples(1).unwrap_err().to_string();
        assert!(error.starts_with("num-completions = 1: at least 2"), "{error}");
    }
}
