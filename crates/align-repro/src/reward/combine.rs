//! Arms without training: averages of others, the best of them, gold, a reward drawn by lot.

use align_core::ScoreModel;

use super::{
    best_of_n, model,
    proxy::Proxy,
    settings::ArmSettings,
    study::{ArmResult, RewardStudy, SCORED, folder},
    trial::{Scored, Trial, mean_of_scores},
    world::{Answers, Stream},
};
use crate::{Result, store::read, study::UnitContext};

/// An arm that is made of others, with its seed.
struct Combined<'a> {
    study: &'a RewardStudy,
    arm: &'a str,
    seed: u64,
    context: &'a UnitContext<'a>,
    trial: Trial,
}

impl RewardStudy {
    /// Makes a reward of what other arms have left, judges it and leaves it for policies.
    pub(super) fn combine(&self, arm: &str, seed: u64, context: &UnitContext<'_>) -> Result<ArmResult> {
        let trial = Trial::of(self.settings(), seed, self.arm(arm)?.has_samples());
        let mut result = ArmResult::default();
        let combined = Combined { study: self, arm, seed, context, trial };
        let (scored, proxy) = combined.make(&mut result)?;
        proxy.keep(&context.folder(arm, seed))?;
        combined.trial.judge(&scored, self.settings(), seed, (0, 0.0), &mut result)?;
        Ok(result)
    }
}

impl Combined<'_> {
    fn make(&self, result: &mut ArmResult) -> Result<(Scored, Proxy)> {
        let trial = &self.trial;
        match self.study.arm(self.arm)? {
            ArmSettings::Weights { of, .. } => self.weights(of, result),
            ArmSettings::Scores { of } => {
                let members = of.iter().map(|name| self.scored(name)).collect::<Result<Vec<_>>>()?;
                let proxies = of.iter().map(|name| self.proxy(name)).collect::<Result<Vec<_>>>()?;
                Ok((mean_of_scores(&members), Proxy::mean(proxies)))
            }
            ArmSettings::BestSingle { of } => self.best_single(of, result),
            ArmSettings::Gold => {
                let gold = |answers: &Answers| answers.answers.iter().map(|a| a.gold).collect::<Vec<f64>>();
                Ok((trial.score(|answers| Ok(answers.iter().map(gold).collect()))?, Proxy::Gold))
            }
            _ => {
                let random = || Stream::Nothing.random(self.seed, 0);
                let scored = trial.score(|answers| Ok(best_of_n::nothing(answers, &mut random())))?;
                Ok((scored, Proxy::Nothing))
            }
        }
    }

    fn scored(&self, name: &str) -> Result<Scored> {
        read(&folder(self.context, name, self.seed).join(SCORED))
    }

    fn proxy(&self, name: &str) -> Result<Proxy> {
        Proxy::of(&self.context.folder(name, self.seed))
    }

    fn weights(&self, of: &[String], result: &mut ArmResult) -> Result<(Scored, Proxy)> {
        let folder = |name: &str| folder(self.context, name, self.seed);
        let mean = model::average(&of.iter().map(|name| folder(name)).collect::<Vec<_>>())?;
        let mean = mean.ok_or_else(|| self.study.fail(format!("arm {} averages nothing", self.arm)))?;
        result.parameters = mean.parameters().iter().map(|p| p.tensor.numel()).sum();
        model::save(&mean, &folder(self.arm))?;
        let scored = self.trial.score(|answers| model::scores(&mean, answers))?;
        let proxy = Proxy::of_model(self.arm, &scored.pairs);
        Ok((scored, proxy))
    }

    fn best_single(&self, of: &[String], result: &mut ArmResult) -> Result<(Scored, Proxy)> {
        let noise = self.study.settings().world.noise;
        let mut best: Option<(f64, &String, Scored)> = None;
        for name in of {
            let scored = self.scored(name)?;
            let validation = self.trial.validate(&scored.validation, noise, self.seed);
            let validation = validation.ok_or_else(|| {
                self.study.fail(format!("arm {} chooses by noisy pairs: there are none", self.arm))
            })?;
            if best.as_ref().is_none_or(|(before, ..)| validation > *before) {
                best = Some((validation, name, scored));
            }
        }
        let nothing = || self.study.fail(format!("arm {} chooses from nothing", self.arm));
        let (_, name, scored) = best.ok_or_else(nothing)?;
        result.chosen = Some(name.clone());
        Ok((scored, self.proxy(name)?))
    }
}
