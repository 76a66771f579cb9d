//! Which flags go together.

use align_types::config::{AdvantageKind, CriticKind, PpoConfig};

use super::PpoArgs;
use crate::{Error, Result, args::RowStoreName};

impl PpoArgs {
    /// Checks ranges, and that every flag that was given is read.
    ///
    /// # Errors
    /// [`Error::Usage`] names the flags.
    pub(crate) fn check(&self) -> Result<()> {
        let config = self.ppo_config();
        self.check_overlong()?;
        config.validate()?;
        self.sampling_config().validate()?;
        config.check_samples(self.draw.num_completions)?;
        if self.rewards.count() == 0 {
            let hint =
                "give --reward-model DIR, --reward rule:NAME or --reward-command 'PROGRAM ARGS'".to_owned();
            return Err(Error::usage("a reward is missing: what the answers are scored with", [hint]));
        }
        self.rewards.check()?;
        self.check_sizes(&config)?;
        self.check_method(&config)?;
        self.check_reference(&config)?;
        self.check_critic(&config)?;
        self.check_ptx(&config)?;
        self.curriculum.check()?;
        self.check_rows()
    }

    fn check_overlong(&self) -> Result<()> {
        let given = &self.shaping.overlong_penalty;
        if given.is_empty() || given.len() == 2 {
            return Ok(());
        }
        let shown = given.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
        Err(Error::usage(format!("--overlong-penalty {shown}: expected MAX,CACHE, such as 128,32"), []))
    }

    /// Checks that an iteration has as many prompts and answers as are asked of it.
    fn check_sizes(&self, config: &PpoConfig) -> Result<()> {
        let prompts = self.train.batch.batch_size;
        let answers = prompts.saturating_mul(self.draw.num_completions);
        let (parts, fewest) = (config.num_mini_batches, PpoConfig::FEWEST_TO_WHITEN);
        if parts > prompts {
            return Err(Error::usage(
                format!("--num-mini-batches {parts}: an iteration has only {prompts} prompts (--batch-size)"),
                ["the answers to a prompt stay together".to_owned()],
            ));
        }
        if config.whiten_rewards && answers < fewest {
            return Err(Error::usage(
                format!(
                    "--whiten-rewards needs at least {fewest} answers an iteration, and this one has {answers}"
                ),
                ["raise --batch-size or --num-completions".to_owned()],
            ));
        }
        Ok(())
    }

    fn check_method(&self, config: &PpoConfig) -> Result<()> {
        let (method, name) = (&self.method, config.advantage.name());
        let unread = |given: bool, flag: &str, why: &str| match given {
            true => Err(Error::usage(format!("{flag} would change nothing: {why}"), [])),
            false => Ok(()),
        };
        let clips = config.advantage.clips();
        unread(method.cliprange.is_some() && !clips, "--cliprange", &format!("{name} clips nothing"))?;
        let pairs = config.advantage == AdvantageKind::OnlineDpo;
        unread(
            method.beta.is_some() && !pairs,
            "--beta",
            "only online-dpo has it; --kl-coef is for the others",
        )?;
        if method.overlap && pairs {
            let why = "samples that are one iteration old need a weight, and pairs have none".to_owned();
            return Err(Error::usage("--overlap and --advantage online-dpo exclude each other", [why]));
        }
        let kl = self.kl.kl_estimator.is_some() || self.kl.kl_placement.is_some();
        unread(kl && pairs, "--kl-estimator and --kl-placement", "online-dpo has --beta instead")?;
        unread(
            self.kl.kl_horizon.is_some() && config.kl_target.is_none(),
            "--kl-horizon",
            "without --kl-target the weight of the divergence stays",
        )
    }

    fn check_reference(&self, config: &PpoConfig) -> Result<()> {
        if let Some(dropout) = self.train.lora.lora_dropout.filter(|dropout| *dropout > 0.0) {
            let why = "an update would see other log-probabilities than those of the samples, and importance ratios would \
                       not begin at 1";
            return Err(Error::usage(format!("--lora-dropout {dropout}: {why}"), []));
        }
        let machine = &self.train.machine;
        let adapter =
            [("--lora-rank", self.train.lora.lora_rank.is_some()), ("--adapter", machine.adapter.is_some())];
        let Some((flag, _)) = adapter.into_iter().find(|(_, given)| *given) else { return Ok(()) };
        let refuse = |other: &str, why: &str| {
            Err(Error::usage(format!("{other} and {flag} exclude each other"), [why.to_owned()]))
        };
        if config.ref_ema.is_some() {
            let why = "an adapter is the product of two matrices, and mixing the two is not mixing their product: train \
                       all weights, or let the reference stay";
            return refuse("--ref-ema", why);
        }
        if config.critic == CriticKind::Shared {
            let why = "a value head on a model with an adapter has no place in the adapter's folder: take --critic \
                       separate";
            return refuse("--critic shared", why);
        }
        Ok(())
    }

    fn check_critic(&self, config: &PpoConfig) -> Result<()> {
        let given = &self.critic;
        let both = [
            ("--cliprange-value", given.cliprange_value.is_some()),
            ("--gamma", given.gamma.is_some()),
            ("--lam", given.lam.is_some()),
            ("--truncated", self.shaping.truncated.is_some()),
        ];
        let separate = [
            ("--critic-model", given.critic_model.is_some()),
            ("--critic-learning-rate", given.critic_learning_rate.is_some()),
        ];
        let shared = [("--vf-coef", given.vf_coef.is_some())];
        let name = config.advantage.name();
        let (unread, why) = match (config.advantage.uses_critic(), config.critic) {
            (false, _) => ([&both[..], &separate, &shared].concat(), format!("{name} has no critic")),
            (true, CriticKind::Shared) => {
                (separate.to_vec(), "with --critic shared it is a part of the policy".to_owned())
            }
            (true, _) => (shared.to_vec(), "a separate critic has --critic-learning-rate instead".to_owned()),
        };
        if let Some((flag, _)) = unread.into_iter().find(|(_, given)| *given) {
            return Err(Error::usage(format!("{flag} would change nothing: {why}"), []));
        }
        if given.lam.is_some() && config.advantage == AdvantageKind::A2c {
            return Err(Error::usage("--lam would change nothing: a2c is the case of 1", []));
        }
        Ok(())
    }

    fn check_ptx(&self, config: &PpoConfig) -> Result<()> {
        let data = !self.ptx.ptx_data.is_empty();
        if data && config.ptx_coef == 0.0 {
            let hint = "it is the weight of the mean loss of a token beside that of the samples".to_owned();
            return Err(Error::usage("--ptx-data needs --ptx-coef X above 0", [hint]));
        }
        let details = [
            ("--ptx-coef", self.ptx.ptx_coef.is_some()),
            ("--ptx-batch-size", self.ptx.ptx_batch_size.is_some()),
        ];
        match details.into_iter().find(|(_, given)| *given && !data) {
            Some((flag, _)) => Err(Error::usage(format!("{flag} needs --ptx-data FILE"), [])),
            None if self.ptx.ptx_batch_size == Some(0) => {
                Err(Error::usage("--ptx-batch-size 0: expected at least 1", []))
            }
            None => Ok(()),
        }
    }

    fn check_rows(&self) -> Result<()> {
        let rows = &self.train.rows;
        if self.draw.max_new_tokens >= rows.max_length {
            let (new, most) = (self.draw.max_new_tokens, rows.max_length);
            return Err(Error::usage(
                format!("--max-new-tokens {new}: --max-length {most} leaves no room for a prompt"),
                ["--max-length bounds the tokens of a prompt with its answer".to_owned()],
            ));
        }
        if !rows.data_weights.is_empty() {
            let why = "the prompts of an iteration come in turn, or as --curriculum chooses them";
            return Err(Error::usage(format!("--data-weights would change nothing: {why}"), []));
        }
        if rows.row_store == RowStoreName::Disk {
            return Err(Error::usage(
                "--row-store disk: prompts stay in memory, because rewards read their text",
                [],
            ));
        }
        Ok(())
    }
}
