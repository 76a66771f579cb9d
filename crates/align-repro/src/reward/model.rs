//! Small reward models: a Llama that has read the writers' texts, a score head, and the training of comparisons.

use std::path::Path;

use align_core::{
    CausalLm, Objective, PackedBatch, Parameter, ScoreModel,
    align_types::{Completion, PromptGroup, RngStream},
    no_grad,
    tch::Kind,
};
use align_lm::{LlamaConfig, LoadOptions, Model, ModelConfig, SaveDtype, SequenceClassifier};
use align_losses::{Sft, SftConfig};
use align_rm::{RewardConfig, RewardModelObjective, WeightedMember, average_weights};
use serde::{Deserialize, Serialize};

use super::world::{Answers, END, PAD, Stream, TOKENS, WorldSettings};
use crate::{
    Result,
    progress::UnitProgress,
    style::{
        gold::ANSWER_TOKENS,
        policy::{Descent, Job, Requests},
    },
};

/// Answers of one forward pass without gradient.
const ANSWERS_PER_PASS: usize = 256;

/// How models come about, the same for all arms of a size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainSettings {
    /// Texts of the writers that a model has read before it sees a comparison; the reference policy knows no more.
    pub texts: usize,
    /// Texts of one step.
    pub text_batch: usize,
    /// Steps over texts.
    pub text_steps: u64,
    /// Their learning rate.
    pub text_rate: f64,
    /// Answers of one update on comparisons, whatever the rows are.
    pub answers: usize,
    /// Learning rate of the updates on comparisons.
    pub rate: f64,
}

/// Makes a language model of this width and lets it read; `init` tells initialisations of one seed apart.
///
/// # Errors
/// A failed step, or the user stops the run.
pub fn read_texts(
    settings: &TrainSettings,
    world: &WorldSettings,
    (hidden, layers): (usize, usize),
    (seed, init): (u64, u64),
    progress: &UnitProgress<'_>,
) -> Result<Model> {
    let heads = (hidden / 8).max(1);
    let config = LlamaConfig {
        vocab_size: TOKENS,
        hidden_size: hidden,
        intermediate_size: 3 * hidden,
        num_hidden_layers: layers,
        num_attention_heads: heads,
        num_key_value_heads: heads,
        head_dim: hidden / heads,
        max_position_embeddings: 2 * ANSWER_TOKENS,
        ..LlamaConfig::default()
    };
    let config = ModelConfig::llama(config)?.with_special_tokens(None, Some(END), Some(PAD));
    let model = Model::init(&config, seed.wrapping_mul(1000).wrapping_add(init))?;
    if settings.text_steps == 0 {
        return Ok(model);
    }
    let requests = Requests::split(seed);
    let mut random: RngStream = Stream::Demonstrations.random(seed, init);
    let texts = world.answers(&requests.train, settings.texts, 1, &mut random);
    let job = Job {
        objective: Box::new(Sft::new(SftConfig::default())),
        rows: texts.iter().map(Answers::group).collect(),
        batch: settings.text_batch,
        steps: settings.text_steps,
        descent: Descent::usual(settings.text_rate, settings.text_steps),
        seed: seed.wrapping_mul(1000).wrapping_add(init),
    };
    job.run(CausalLm::replicate(&model)?, progress, |_| Ok(()))?;
    Ok(model)
}

/// Puts a fresh head on the language model of a folder; equal seeds give equal heads.
pub(crate) fn with_head(folder: &Path, seed: u64) -> Result<SequenceClassifier> {
    Ok(SequenceClassifier::from_causal_lm(folder, seed, &LoadOptions::default())?.with_pad_token_id(PAD)?)
}

/// Reads a reward model back.
pub(crate) fn load(folder: &Path) -> Result<SequenceClassifier> {
    Ok(SequenceClassifier::load(folder, &LoadOptions::default())?)
}

/// Writes a reward model.
pub(crate) fn save(model: &SequenceClassifier, folder: &Path) -> Result<()> {
    Ok(model.save(folder, SaveDtype::F32)?)
}

/// Averages the weights of models in folders (2401.12187): one model.
pub(super) fn average(folders: &[impl AsRef<Path>]) -> Result<Option<SequenceClassifier>> {
    let models = folders.iter().map(|folder| load(folder.as_ref())).collect::<Result<Vec<_>>>()?;
    let parameters: Vec<Vec<Parameter>> = models.iter().map(ScoreModel::parameters).collect();
    let member = |parameters| WeightedMember { name: "member", parameters, initial_head: None };
    let members: Vec<WeightedMember<'_>> = parameters.iter().map(|list| member(list.as_slice())).collect();
    average_weights(&members)?;
    // The average is in the weights of the first.
    Ok(models.into_iter().next())
}

/// The Bradley-Terry loss of comparisons, all comparisons of a row together (2203.02155, equation 1).
fn objective() -> Result<Box<dyn Objective<dyn ScoreModel>>> {
    Ok(Box::new(RewardModelObjective::new(RewardConfig::default())?))
}

/// Trains a reward model on rows for a number of updates; `after` sees how many are done.
pub(super) fn train(
    model: &SequenceClassifier,
    rows: Vec<PromptGroup>,
    settings: &TrainSettings,
    (updates, order): (u64, u64),
    progress: &UnitProgress<'_>,
    after: impl FnMut(u64) -> Result<()>,
) -> Result<usize> {
    let width = rows.first().map_or(1, |row| row.completions.len()).max(1);
    let job = Job::<dyn ScoreModel> {
        objective: objective()?,
        rows,
        batch: (settings.answers / width).max(1),
        steps: updates,
        descent: Descent::usual(settings.rate, updates),
        seed: order,
    };
    Ok(job.run(ScoreModel::replicate(model)?, progress, after)?.tokens)
}

/// Scores the answers of each request.
///
/// # Errors
/// A failure of the model.
pub fn scores(model: &SequenceClassifier, answers: &[Answers]) -> Result<Vec<Vec<f64>>> {
    let _guard = no_grad();
    let rows = answers.iter().flat_map(|group| {
        group.answers.chunks(ANSWERS_PER_PASS).map(|part| {
            let completions: Vec<Completion> = part.iter().map(|answer| answer.completion()).collect();
            PromptGroup::new(group.request.prompt(), completions)
        })
    });
    let (mut flat, mut batch, mut held) = (Vec::new(), Vec::new(), 0);
    for row in rows {
        held += row.completions.len();
        batch.push(row);
        if held >= ANSWERS_PER_PASS {
            flat.extend(pass(model, &batch)?);
            batch.clear();
            held = 0;
        }
    }
    flat.extend(pass(model, &batch)?);
    let mut flat = flat.into_iter();
    Ok(answers.iter().map(|group| flat.by_ref().take(group.answers.len()).collect()).collect())
}

fn pass(model: &SequenceClassifier, rows: &[PromptGroup]) -> Result<Vec<f64>> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    Ok(Vec::<f64>::try_from(model.scores(&PackedBatch::new(rows)?)?.f_to_kind(Kind::Double)?)?)
}
