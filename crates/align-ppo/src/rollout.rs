//! The first two phases of an iteration: completions are sampled, and scored.

use align_core::align_types::{self, Completion, Generator, PromptGroup, config::SamplingConfig};

use crate::{IterationError as Error, Scorer, begin_trajectories};

type Result<T, E = Error> = std::result::Result<T, E>;

/// Samples completions of prompts. Source and columns of each prompt stay with it, and every completion begins a
/// trajectory ([`begin_trajectories`]).
///
/// `draw` numbers the calls of a run: it chooses the random streams, and a resumed run passes the same number again.
///
/// # Errors
/// The generator's, with the row of the prompt that it names; [`Error::Rows`] when it gives another number of groups or completions than it was asked for.
pub fn sample(
    generator: &mut (impl Generator + ?Sized),
    prompts: Vec<PromptGroup>,
    config: &SamplingConfig,
    draw: u64,
) -> Result<Vec<PromptGroup>> {
    let tokens: Vec<_> = prompts.iter().map(|group| group.prompt.clone()).collect();
    let sampled = generator.generate(&tokens, config, draw).map_err(|error| of_row(error, &prompts))?;
    if sampled.len() != prompts.len() {
        let why = format!("the generator gave {} groups for {} prompts", sampled.len(), prompts.len());
        return Err(Error::rows("sampling", why));
    }
    let begin = |(index, (prompt, sampled)): (usize, (PromptGroup, PromptGroup))| {
        let mut group = PromptGroup { completions: sampled.completions, ..prompt };
        if group.completions.len() != config.num_completions {
            let (got, expected) = (group.completions.len(), config.num_completions);
            let why = format!("the generator gave {got} completions instead of {expected}");
            return Err(Error::rows(group.describe(index), why));
        }
        if group.completions.iter().any(|answer| answer.token_ids.is_empty()) {
            return Err(Error::rows(
                group.describe(index),
                "the generator gave a completion without a token",
            ));
        }
        for (number, answer) in group.completions.iter().enumerate() {
            check_logprobs(answer).map_err(|why| {
                Error::rows(format!("{}, answer {}", group.describe(index), number + 1), why)
            })?;
        }
        begin_trajectories(std::slice::from_mut(&mut group));
        Ok(group)
    };
    prompts.into_iter().zip(sampled).enumerate().map(begin).collect()
}

/// Puts the row in place of the prompt's place in the batch, which nobody can look up.
fn of_row(error: align_types::Error, prompts: &[PromptGroup]) -> align_types::Error {
    match error {
        align_types::Error::Prompt { index, why, source } => {
            let what =
                prompts.get(index).map_or_else(|| format!("prompt {index}"), |group| group.describe(index));
            align_types::Error::Seam { what, why: format!("sampling: {why}"), source }
        }
        other => other,
    }
}

/// Checks the sampler's log-probabilities, where it gives them.
fn check_logprobs(answer: &Completion) -> Result<(), String> {
    let Some(list) = &answer.logprobs else { return Ok(()) };
    let (numbers, tokens) = (list.len(), answer.token_ids.len());
    if numbers != tokens {
        return Err(format!("the generator gave {numbers} log-probabilities for {tokens} tokens"));
    }
    match list.iter().position(|number| !number.is_finite()) {
        Some(token) => Err(format!("the generator's log-probability of token {} is not finite", token + 1)),
        None => Ok(()),
    }
}

/// Asks for the rewards of all completions and writes them into [`Completion::reward`]; returns how many abstained.
///
/// [`Completion::reward`]: align_core::align_types::Completion::reward
///
/// # Errors
/// The scorer's; [`Error::Rows`] for scores that are too few, too many, or no finite numbers, and for a batch of which
/// every completion is without a score.
pub fn score(scorer: &mut (impl Scorer + ?Sized), groups: &mut [PromptGroup]) -> Result<usize> {
    let abstained = score_any(scorer, groups)?;
    let all: usize = groups.iter().map(|group| group.completions.len()).sum();
    if all > 0 && abstained == all {
        let mut why =
            format!("the reward abstained for all {all} completions: there is nothing to learn from");
        if let Some(who) = scorer.silence() {
            why = format!("{why}; {who}");
        }
        return Err(Error::rows("scoring", why));
    }
    Ok(abstained)
}

/// As [`score`], but every completion may be without a score.
pub(crate) fn score_any(scorer: &mut (impl Scorer + ?Sized), groups: &mut [PromptGroup]) -> Result<usize> {
    let scores = scorer.score(groups).map_err(Error::Seam)?;
    if scores.len() != groups.len() {
        let why = format!("there are scores of {} groups for {}", scores.len(), groups.len());
        return Err(Error::rows("scoring", why));
    }
    let mut abstained = 0;
    for (index, (group, scores)) in groups.iter_mut().zip(scores).enumerate() {
        if scores.len() != group.completions.len() {
            let why = format!("{} scores for {} completions", scores.len(), group.completions.len());
            return Err(Error::rows(group.describe(index), why));
        }
        if let Some(score) = scores.iter().flatten().find(|score| !score.is_finite()) {
            return Err(Error::rows(group.describe(index), format!("its reward is {score}")));
        }
        abstained += scores.iter().filter(|score| score.is_none()).count();
        group.completions.iter_mut().zip(scores).for_each(|(answer, score)| answer.reward = score);
    }
    Ok(abstained)
}
