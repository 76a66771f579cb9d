//! From flags to the configuration of the method.

use align_types::config::{
    AdvantageKind, CriticKind, KlEstimator, KlPlacement, OverlongPenalty, PpoConfig, SamplingConfig,
};
use toml::Value;

use super::PpoArgs;

impl PpoArgs {
    /// Makes the configuration of the method: what is not given follows from `--advantage`.
    pub fn ppo_config(&self) -> PpoConfig {
        let Self { method, shaping, kl, critic, ptx, .. } = self;
        let usual = PpoConfig::for_advantage(method.advantage);
        let kl_placement = kl.kl_placement.unwrap_or(usual.kl_placement);
        // The expected gradient of k1 in the loss is 0.
        let kl_estimator = match kl_placement {
            KlPlacement::Reward => KlEstimator::K1,
            KlPlacement::Loss => KlEstimator::K3,
        };
        PpoConfig {
            advantage: method.advantage,
            kl_coef: kl.kl_coef.unwrap_or(usual.kl_coef),
            kl_placement,
            kl_estimator: kl.kl_estimator.unwrap_or(kl_estimator),
            kl_target: kl.kl_target,
            kl_horizon: kl.kl_horizon.unwrap_or(usual.kl_horizon),
            num_ppo_epochs: method.num_ppo_epochs.unwrap_or(usual.num_ppo_epochs),
            num_mini_batches: method.num_mini_batches,
            cliprange: method.cliprange.unwrap_or(usual.cliprange),
            cliprange_high: method.cliprange_high.or(usual.cliprange_high),
            cliprange_value: critic.cliprange_value.unwrap_or(usual.cliprange_value),
            vf_coef: critic.vf_coef.unwrap_or(usual.vf_coef),
            entropy_coef: method.entropy_coef,
            gamma: critic.gamma.unwrap_or(usual.gamma),
            lam: critic.lam.unwrap_or(usual.lam),
            whiten_rewards: shaping.whiten_rewards,
            whiten_advantages: method.whiten_advantages.unwrap_or(usual.whiten_advantages),
            missing_eos_penalty: shaping.missing_eos_penalty,
            truncated: shaping.truncated.unwrap_or(usual.truncated),
            reward_scaling: shaping.reward_scaling,
            reward_clip: shaping.reward_clip,
            reward_baseline: shaping.reward_baseline,
            overlong_penalty: self.overlong_penalty(),
            mask_truncated: shaping.mask_truncated,
            dynamic_sampling: method.dynamic_sampling.unwrap_or(usual.dynamic_sampling),
            ptx_coef: ptx.ptx_coef.unwrap_or(usual.ptx_coef),
            ref_ema: kl.ref_ema,
            target_kl: method.target_kl,
            max_ratio: method.max_ratio,
            critic: critic.critic,
            critic_learning_rate: critic.critic_learning_rate.unwrap_or(usual.critic_learning_rate),
            critic_warmup: critic.critic_warmup,
            normalize_values: critic.normalize_values,
            aggregation: method.aggregation,
            beta: method.beta.unwrap_or(usual.beta),
        }
    }

    /// Says whether rows are held out.
    pub(crate) fn holds_out(&self) -> bool {
        !self.train.watch.eval_data.is_empty() || !self.ptx.ptx_eval_data.is_empty()
    }

    /// Says whether held-out rows of these settings have a metric.
    pub(crate) fn is_held_out(&self, metric: &str) -> bool {
        let prompts = !self.train.watch.eval_data.is_empty();
        let earlier = !self.ptx.ptx_eval_data.is_empty();
        metric == "loss"
            || prompts && PpoConfig::HELD_OUT.contains(&metric)
            || earlier && metric == PpoConfig::PTX_LOSS
    }

    /// Makes the configuration of the sampler.
    pub fn sampling_config(&self) -> SamplingConfig {
        self.draw.config(self.train.seed)
    }

    /// Says whether a reference is loaded: something reads it, or it was named, so that the divergence from it is shown.
    pub fn has_reference(&self) -> bool {
        self.kl.ref_model.is_some() || self.ppo_config().needs_reference()
    }

    /// Names the flag under which answers are drawn from fewer tokens than the policy has, if there is one.
    pub fn off_policy(&self) -> Option<&'static str> {
        let draw = &self.draw;
        let changes = [(draw.top_p < 1.0, "--top-p"), (draw.top_k > 0, "--top-k")];
        changes.into_iter().find(|(given, _)| *given).map(|(_, flag)| flag)
    }

    /// Returns the rows of language modelling of an iteration.
    pub fn ptx_batch_size(&self) -> usize {
        self.ptx.ptx_batch_size.unwrap_or(self.train.batch.batch_size)
    }

    fn overlong_penalty(&self) -> Option<OverlongPenalty> {
        match self.shaping.overlong_penalty.as_slice() {
            &[max, cache] => Some(OverlongPenalty { max, cache }),
            _ => None,
        }
    }

    /// Lists the settings that follow from others, `--advantage` before all, so that `config.toml` has all that a run depends on.
    pub(crate) fn resolved(&self) -> Vec<(&'static str, Value)> {
        let config = self.ppo_config();
        let name = |text: &str| Value::String(text.to_owned());
        let switch = |on: bool| name(if on { "on" } else { "off" });
        let text = |choice: serde_json::Result<serde_json::Value>| {
            let text = choice.ok().and_then(|value| value.as_str().map(|text| text.replace('_', "-")));
            Value::String(text.unwrap_or_default())
        };
        let mut list = vec![
            ("num_ppo_epochs", Value::Integer(config.num_ppo_epochs as i64)),
            ("aggregation", text(serde_json::to_value(config.aggregation()))),
            ("whiten_advantages", switch(config.whiten_advantages)),
            ("dynamic_sampling", switch(config.dynamic_sampling)),
            ("kl_coef", number(config.kl_coef)),
            ("kl_estimator", text(serde_json::to_value(config.kl_estimator))),
            ("kl_placement", text(serde_json::to_value(config.kl_placement))),
        ];
        if config.advantage.clips() {
            list.push(("cliprange", number(config.cliprange)));
            list.extend(config.cliprange_high.map(|high| ("cliprange_high", number(high))));
        }
        if config.advantage.uses_critic() {
            list.push(("cliprange_value", number(config.cliprange_value)));
            list.push(("gamma", number(config.gamma)));
            list.push(("truncated", text(serde_json::to_value(config.truncated))));
            list.push(match config.critic {
                CriticKind::Separate => ("critic_learning_rate", number(config.critic_learning_rate)),
                CriticKind::Shared => ("vf_coef", number(config.vf_coef)),
            });
        }
        if config.advantage == AdvantageKind::Ppo {
            list.push(("lam", number(config.lam)));
        }
        if config.advantage == AdvantageKind::OnlineDpo {
            list.push(("beta", number(config.beta)));
        }
        if config.kl_target.is_some() {
            list.push(("kl_horizon", number(config.kl_horizon)));
        }
        if !self.ptx.ptx_data.is_empty() {
            list.push(("ptx_batch_size", Value::Integer(self.ptx_batch_size() as i64)));
        }
        // What another choice would not look at is refused, and left out.
        list.retain(|(key, _)| !self.is_of_another(key));
        list
    }

    /// Says whether a setting is nothing to the loss of online DPO.
    fn is_of_another(&self, key: &str) -> bool {
        let of_policy_gradients =
            ["aggregation", "dynamic_sampling", "kl_coef", "kl_estimator", "kl_placement"];
        self.method.advantage == AdvantageKind::OnlineDpo && of_policy_gradients.contains(&key)
    }
}

/// Writes a number as flags are written: 1.0 and 1 are the same setting.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        Value::Integer(value as i64)
    } else {
        Value::Float(value)
    }
}
