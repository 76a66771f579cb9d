//! Rewards as policies read them: what an arm leaves behind, and the scorer that is made of it.

use std::{collections::BTreeMap, path::Path};

use align_core::{
    BoxError,
    align_types::{PromptGroup, RngStream, TokenId},
};
use align_ppo::Scorer;
use serde::{Deserialize, Serialize};

use super::{
    best_of_n::moments,
    model,
    world::{END, Stream},
};
use crate::{
    Error, Result,
    on_policy::rated::Rated,
    store::{read, write},
    style::gold::Request,
};

const FILE: &str = "proxy.json";

/// What an arm leaves for the policies that are trained on it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Proxy {
    /// The mean of the scores of these models.
    Models(Vec<Member>),
    /// The gold reward.
    Gold,
    /// A reward drawn by lot.
    Nothing,
}

/// A model among those whose scores are averaged.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Member {
    /// The arm that has it.
    arm: String,
    /// Its scores are shifted by this and divided by the next: over held-out answers they have mean 0 and variance 1 then.
    mean: f64,
    deviation: f64,
}

impl Proxy {
    /// A model alone, with its scores of held-out answers.
    pub fn of_model(arm: &str, held_out: &[Vec<f64>]) -> Self {
        let (mean, deviation) = moments(held_out.iter().flatten());
        Self::Models(vec![Member { arm: arm.to_owned(), mean, deviation }])
    }

    /// The mean of the scores of all models of several arms.
    pub fn mean(proxies: Vec<Self>) -> Self {
        let members = proxies.into_iter().flat_map(|proxy| match proxy {
            Self::Models(members) => members,
            Self::Gold | Self::Nothing => Vec::new(),
        });
        Self::Models(members.collect())
    }

    /// Leaves it in an arm's folder.
    pub fn keep(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(|e| Error::io("make the folder", folder, e))?;
        write(&folder.join(FILE), self)
    }

    /// Reads it back.
    pub fn of(folder: &Path) -> Result<Self> {
        read(&folder.join(FILE))
    }

    /// Loads its models; `model` finds the model of an arm, `index` tells judges of one seed apart.
    pub fn judge(&self, model: impl Fn(&str) -> std::path::PathBuf, seed: u64, index: u64) -> Result<Judge> {
        Ok(match self {
            Self::Models(members) => {
                let member = |member: &Member| {
                    let scale = (member.mean, member.deviation);
                    Ok(Rated::new(model::load(&model(&member.arm))?, scale).with_end(END))
                };
                Judge::Models(members.iter().map(member).collect::<Result<_>>()?)
            }
            Self::Gold => Judge::Gold(Request::all().into_iter().map(|r| (r.prompt(), r)).collect()),
            Self::Nothing => Judge::Nothing(Box::new(Stream::Nothing.random(seed, 1 + index))),
        })
    }
}

/// Scores what a policy writes.
pub(super) enum Judge {
    /// By the mean of models.
    Models(Vec<Rated>),
    /// By gold.
    Gold(BTreeMap<Vec<TokenId>, Request>),
    /// By lot.
    Nothing(Box<RngStream>),
}

impl Judge {
    /// Scores every completion of every group.
    pub fn scores(&mut self, groups: &[PromptGroup]) -> Result<Vec<Vec<f64>>> {
        match self {
            Self::Models(models) => mean(models, groups),
            Self::Gold(requests) => groups.iter().map(|group| gold(requests, group)).collect(),
            Self::Nothing(random) => {
                Ok(groups.iter().map(|g| g.completions.iter().map(|_| random.normal()).collect()).collect())
            }
        }
    }
}

fn mean(models: &[Rated], groups: &[PromptGroup]) -> Result<Vec<Vec<f64>>> {
    let mut sum: Vec<Vec<f64>> = groups.iter().map(|group| vec![0.0; group.completions.len()]).collect();
    for model in models {
        let scores = model.scores(groups)?;
        let both = sum.iter_mut().flatten().zip(scores.iter().flatten());
        both.for_each(|(total, score)| *total += score / models.len() as f64);
    }
    Ok(sum)
}

fn gold(requests: &BTreeMap<Vec<TokenId>, Request>, group: &PromptGroup) -> Result<Vec<f64>> {
    let request = requests.get(&group.prompt);
    let request = request.ok_or_else(|| Error::input("gold", "the prompt is no request"))?;
    Ok(group.completions.iter().map(|answer| request.gold(&answer.token_ids)).collect())
}

impl Scorer for Judge {
    fn score(&mut self, groups: &[PromptGroup]) -> std::result::Result<Vec<Vec<Option<f64>>>, BoxError> {
        let scores = self.scores(groups)?;
        Ok(scores.into_iter().map(|group| group.into_iter().map(Some).collect()).collect())
    }
}
