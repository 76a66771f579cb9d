use align_core::{
    CausalLm, PackedBatch,
    align_types::{Generator, PromptGroup, config::SamplingConfig},
    no_grad,
};
use align_data::Tokenizer;
use align_lm::Model;
use align_rollout::auto_generator;

use super::{PairsBudget, rule};
use crate::{Error, Result, style::policy::GROUPS_PER_PASS};

/// Log-probabilities of chosen and rejected of each pair under one model.
pub(super) type PairSums = Vec<(f64, f64)>;

/// Computes the summed log-probabilities of every pair's two answers.
pub(super) fn pair_sums(model: &dyn CausalLm, pairs: &[PromptGroup]) -> Result<PairSums> {
    let _guard = no_grad();
    let mut sums = Vec::with_capacity(pairs.len());
    for part in pairs.chunks(GROUPS_PER_PASS) {
        let values = model.token_log_probs(&PackedBatch::new(part)?, 1.0)?.sums()?;
        let values = Vec::<f64>::try_from(&values)?;
        for pair in values.chunks_exact(2) {
            if let [chosen, rejected] = pair {
                sums.push((*chosen, *rejected));
            }
        }
    }
    match sums.iter().flat_map(|(c, r)| [*c, *r]).find(|v| !v.is_finite()) {
        Some(value) => Err(Error::NonFinite { what: "a log-probability of a held-out answer".into(), value }),
        None => Ok(sums),
    }
}

/// Keeps the log-probabilities with the answers, as the reference of DPO.
pub(super) fn keep_reference(pairs: &mut [PromptGroup], sums: &PairSums) {
    for (pair, (chosen, rejected)) in pairs.iter_mut().zip(sums) {
        for (completion, sum) in pair.completions.iter_mut().zip([chosen, rejected]) {
            completion.ref_logprob = Some(*sum);
        }
    }
}

/// 1 where the first number is larger, 0 where it is smaller, a half for ties: a tie decides nothing.
pub(super) fn preferred(first: f64, second: f64) -> f64 {
    match first.total_cmp(&second) {
        std::cmp::Ordering::Greater => 1.0,
        std::cmp::Ordering::Equal => 0.5,
        std::cmp::Ordering::Less => 0.0,
    }
}

/// Says of each pair whether the model finds the chosen answer more likely.
pub(super) fn ranking(sums: &PairSums) -> Vec<f64> {
    sums.iter().map(|(chosen, rejected)| preferred(*chosen, *rejected)).collect()
}

/// Says of each pair whether the implicit reward log π − log π_ref prefers the chosen answer.
pub(super) fn reward(sums: &PairSums, reference: &PairSums) -> Vec<f64> {
    sums.iter().zip(reference).map(|(s, r)| preferred(s.0 - r.0, s.1 - r.1)).collect()
}

/// Samples answers to the first distinct prompts: one group per prompt.
pub(super) fn sample(
    model: &Model,
    tokenizer: &Tokenizer,
    pairs: &[PromptGroup],
    budget: &PairsBudget,
    seed: u64,
) -> Result<Vec<PromptGroup>> {
    let mut chosen: Vec<Vec<u32>> = Vec::new();
    for pair in pairs {
        if chosen.len() < budget.sample_prompts && !chosen.contains(&pair.prompt) {
            chosen.push(pair.prompt.clone());
        }
    }
    let (num_completions, max_new_tokens) = (budget.gold_samples, budget.max_new_tokens);
    let config = SamplingConfig { num_completions, max_new_tokens, seed, ..Default::default() };
    let mut generator = auto_generator(model, tokenizer.eos_ids().to_vec())?.with_threads(1);
    Ok(generator.generate(&chosen, &config, 0)?)
}

/// Writes the first answer to each prompt as text.
pub(super) fn first_texts(tokenizer: &Tokenizer, groups: &[PromptGroup]) -> Result<Vec<(String, String)>> {
    let text = |group: &PromptGroup| {
        let ids = group.completions.first().map(|c| c.token_ids.as_slice()).unwrap_or_default();
        Ok((tokenizer.decode(&group.prompt, true)?, tokenizer.decode(ids, true)?))
    };
    groups.iter().map(text).collect()
}

/// Averages the rule's points over sampled answers.
pub(super) fn mean_points(tokenizer: &Tokenizer, groups: &[PromptGroup]) -> Result<f64> {
    let (mut points, mut answers) = (0.0, 0usize);
    for group in groups {
        let prompt = tokenizer.decode(&group.prompt, true)?;
        for answer in &group.completions {
            points += f64::from(rule::score(&prompt, &tokenizer.decode(&answer.token_ids, true)?));
            answers += 1;
        }
    }
    Ok(points / answers.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_count_as_half() {
        let sums = vec![(-1.0, -2.0), (-2.0, -1.0), (-1.0, -1.0)];
        assert_eq!(ranking(&sums), [1.0, 0.0, 0.5]);
        assert_eq!(reward(&sums, &sums), [0.5, 0.5, 0.5]);
        assert_eq!(reward(&sums, &vec![(-1.5, -2.0), (-1.0, -1.0), (0.0, -0.5)]), [1.0, 0.0, 0.0]);
    }
}
