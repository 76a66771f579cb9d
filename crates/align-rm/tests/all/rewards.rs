//! Reward models as rewards of texts: against transformers, with errors that name the item, and as ensembles.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::path::Path;
use std::sync::{Arc, Mutex};

use align_core::{
    BoxError, PackedBatch, Parameter, ScoreModel,
    align_types::{Columns, Completion, PromptGroup, Reward, RewardItem, Source, score},
    tch::{Device, Tensor},
};
use align_data::{ChatTemplate, Tokenizer, encode_item};
use align_lm::{LoadOptions, SequenceClassifier};
use align_rm::{
    EnsembleReward, EnsembleRule, Error, ModelReward, NormalizedOn, RewardNormalization, RowScorer, Spread,
};
use align_testkit::{assert_close, fixture};
use serde_json::Value;

/// Opens the small reward model with the tokenizer of a folder.
fn open(folder: &Path) -> ModelReward {
    let tokenizer = Tokenizer::from_folder(folder).unwrap();
    let template = ChatTemplate::from_folder(folder, tokenizer.special_tokens()).unwrap();
    let model = SequenceClassifier::load(&fixture("classifiers/llama"), &LoadOptions::default()).unwrap();
    let scorer = RowScorer::new("rm", Box::new(model)).with_threads(2).unwrap().with_batch_tokens(64);
    ModelReward::new(scorer, move |item, index| Ok(encode_item(item, index, &tokenizer, template.as_ref())?))
}

fn item<'a>(completion: &'a str, columns: &'a Columns) -> RewardItem<'a> {
    RewardItem { prompt: "p", messages: None, completion, columns, source: None }
}

fn scale(mean: f64, std: f64, of: NormalizedOn) -> RewardNormalization {
    RewardNormalization { mean, std, rows: 9, of, spread: Spread::Unit, weights: None }
}

/// `fixtures/classifiers/rewards.py` got the expected rewards from transformers: text and conversations, each with the
/// reward model's own tokens and template.
#[test]
fn rewards_of_texts_are_those_of_transformers() {
    let expected: Value =
        serde_json::from_slice(&std::fs::read(fixture("classifiers/rewards.json")).unwrap()).unwrap();
    let cases = expected["items"].as_array().unwrap();
    let columns = Columns::new();
    let items: Vec<RewardItem<'_>> = cases
        .iter()
        .map(|case| RewardItem {
            prompt: case["prompt"].as_str().unwrap_or("the messages count"),
            messages: case["messages"].as_array().map(Vec::as_slice),
            completion: case["completion"].as_str().unwrap(),
            columns: &columns,
            source: None,
        })
        .collect();
    let expected: Vec<f64> = cases.iter().map(|case| case["reward"].as_f64().unwrap()).collect();
    let mut model = open(&fixture("models/tiny-llama"));
    let raw = model.raw_scores(&items).unwrap();
    assert_close(&raw, &expected, 1e-4);
    assert_eq!((model.score(&[]).unwrap(), model.name()), (vec![], "rm"));
    let mut model = model.named("model:rm").normalized(scale(1.0, 2.0, NormalizedOn::Samples)).unwrap();
    assert_eq!(model.name(), "model:rm, normalized");
    let brought: Vec<f64> = score(&mut model, &items).unwrap().into_values().into_iter().flatten().collect();
    let by_hand: Vec<f64> = raw.iter().map(|raw| (raw - 1.0) / 2.0).collect();
    assert_close(&brought, &by_hand, 1e-5);
}

/// The same weights behind another tokenizer read other tokens of the same text.
#[test]
fn the_tokenizer_is_the_reward_models_own() {
    let folder = tempfile::tempdir().unwrap();
    let other = fixture("sentencepiece/llama-320.model");
    std::fs::copy(other, folder.path().join("tokenizer.model")).unwrap();
    let columns = Columns::new();
    let items = [item(" The river is wide.", &columns), item(" No", &columns)];
    let of = |tokenizer: &Path| open(tokenizer).raw_scores(&items).unwrap();
    let (one, two) = (of(&fixture("models/tiny-llama")), of(folder.path()));
    assert!(one.iter().zip(&two).all(|(one, two)| (one - two).abs() > 1e-3), "{one:?} {two:?}");
}

/// Scores an answer by the number of its first token; 9 is no number.
#[derive(Debug)]
struct ByToken;

impl ScoreModel for ByToken {
    fn vocab_size(&self) -> usize {
        10
    }

    fn context_length(&self) -> Option<usize> {
        Some(4)
    }

    fn device(&self) -> Device {
        Device::Cpu
    }

    fn scores(&self, batch: &PackedBatch) -> Result<Tensor, Error> {
        let mut list = Vec::new();
        for span in batch.groups() {
            for completion in span.completions() {
                let first = batch.ids()[span.start + completion.start];
                list.push(if first == 9 { f32::NAN } else { first as f32 });
            }
        }
        Ok(Tensor::from_slice(&list))
    }

    fn parameters(&self) -> Vec<Parameter> {
        Vec::new()
    }

    fn replicate(&self) -> Result<Box<dyn ScoreModel>, Error> {
        Ok(Box::new(Self))
    }
}

/// A character is a token.
fn digits(name: &str) -> ModelReward {
    ModelReward::new(RowScorer::new(name, Box::new(ByToken)), |item, _| {
        let tokens = |text: &str| -> Result<Vec<u32>, BoxError> {
            text.chars().map(|c| c.to_digit(10).ok_or_else(|| format!("`{c}` is no digit").into())).collect()
        };
        let answers = item.completion.split('|').map(|text| Ok(Completion::new(tokens(text)?)));
        Ok(PromptGroup::new(vec![0], answers.collect::<Result<_, BoxError>>()?))
    })
}

#[test]
fn what_cannot_be_scored_is_an_error_that_names_the_item() {
    let columns = Columns::new();
    let source = Source { file: "rows.jsonl".into(), row: 7 };
    let refused = |completion: &str, texts: &[&str]| {
        let items = [item("1", &columns), RewardItem { source: Some(&source), ..item(completion, &columns) }];
        let error = score(&mut digits("digits"), &items).unwrap_err().to_string();
        assert!(texts.iter().all(|text| error.contains(text)), "{error}");
    };
    refused("93", &["digits", "rows.jsonl:7", "NaN"]);
    refused("1|2", &["rows.jsonl:7", "2 answers"]);
    refused("1x", &["digits", "`x` is no digit"]);
    assert!(digits("x").normalized(scale(0.0, 0.0, NormalizedOn::Samples)).is_err());
}

/// The context is 4: a prompt of one token and an answer of four do not fit. As a reward the model abstains there and says so
/// once; asked for raw scores it refuses.
#[test]
fn answers_that_do_not_fit_have_no_reward() {
    let columns = Columns::new();
    let source = Source { file: "rows.jsonl".into(), row: 7 };
    let long = RewardItem { source: Some(&source), ..item("1234", &columns) };
    let items = [item("5", &columns), long, item("1", &columns), long];
    let said = Arc::new(Mutex::new(Vec::new()));
    let hear = Arc::clone(&said);
    let notice = move |text: &str| hear.lock().unwrap().push(text.to_owned());
    let mut one = digits("digits").with_notice(Box::new(notice));
    assert_eq!(score(&mut one, &items).unwrap().values(), [Some(5.0), None, Some(1.0), None]);
    score(&mut one, &items).unwrap();
    let said = said.lock().unwrap();
    assert_eq!(said.len(), 1);
    for text in ["digits: rows.jsonl:7", "5 tokens", "context is 4", "have no reward"] {
        assert!(said[0].contains(text), "{said:?}");
    }
    let error = one.raw_scores(&items).unwrap_err().to_string();
    assert!(error.contains("rows.jsonl:7"), "{error}");
    let samples = NormalizedOn::Samples;
    let members = vec![
        digits("a").normalized(scale(3.0, 2.0, samples)).unwrap(),
        digits("b").normalized(scale(1.0, 4.0, samples)).unwrap(),
    ];
    let mut ensemble = EnsembleReward::new(members, EnsembleRule::Mean).unwrap();
    assert_eq!(score(&mut ensemble, &items).unwrap().values(), [Some(1.0), None, Some(-0.5), None]);
}

/// Rewards 5 and 1 on scales (3, 2) and (1, 4): 1, -1 and 1, 0. Their mean 1, -1/2, the worst 1, -1; the variance of -1
/// and 0 around -1/2 is 1/4.
#[test]
fn an_ensemble_is_one_reward() {
    let columns = Columns::new();
    let items = [item("5", &columns), item("1", &columns)];
    let samples = NormalizedOn::Samples;
    let members = || {
        let (one, two) = (scale(3.0, 2.0, samples), scale(1.0, 4.0, samples));
        vec![digits("a").normalized(one).unwrap(), digits("b").normalized(two).unwrap()]
    };
    for (rule, name, expected) in [
        (EnsembleRule::Mean, "mean of a and b", [1.0, -0.5]),
        (EnsembleRule::Worst, "worst of a and b", [1.0, -1.0]),
        (EnsembleRule::MeanMinusVariance { k: 2.0 }, "mean less 2 variances of a and b", [1.0, -1.0]),
    ] {
        let mut ensemble = EnsembleReward::new(members(), rule).unwrap();
        assert_eq!(ensemble.name(), name);
        let found: Vec<f64> =
            score(&mut ensemble, &items).unwrap().into_values().into_iter().flatten().collect();
        assert_close(&found, &expected, 1e-9);
        let error = score(&mut ensemble, &[item("9", &columns)]).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("NaN"), "{error}");
    }
    let refused = |members: Vec<ModelReward>, rule, expected: &str| {
        let error = EnsembleReward::new(members, rule).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    refused(members().into_iter().take(1).collect(), EnsembleRule::Mean, "at least two");
    refused(vec![digits("a"), digits("b")], EnsembleRule::Worst, "model a: its scores are not normalised");
    refused(members(), EnsembleRule::MeanMinusVariance { k: -1.0 }, "variance penalty");
    let mut mixed = members();
    mixed[1] = digits("b").normalized(scale(1.0, 4.0, NormalizedOn::Demonstrations)).unwrap();
    refused(mixed, EnsembleRule::Mean, "Demonstrations");
}

/// The bound of a batch and the number of threads do not change what is scored, nor its order; rows that were scored
/// before are left out by whole batches; whoever is asked to go on may end it.
#[test]
fn rows_are_scored_in_order_however_they_are_cut() {
    let row =
        |n: u32| PromptGroup::new(vec![0], vec![Completion::new(vec![n % 9]), Completion::new(vec![n % 7])]);
    let rows: Vec<PromptGroup> = (0..40).map(row).collect();
    let expected: Vec<Vec<f64>> = (0..40).map(|n| vec![f64::from(n % 9), f64::from(n % 7)]).collect();
    for (threads, tokens) in [(1, 1), (2, 8), (3, 2048)] {
        let mut scorer =
            RowScorer::new("m", Box::new(ByToken)).with_threads(threads).unwrap().with_batch_tokens(tokens);
        assert_eq!(scorer.all(&rows, || Ok::<_, align_rm::ScoringError>(())).unwrap(), expected);
        let mut rest = Vec::new();
        let take = |batch: std::ops::Range<usize>, scores: Vec<Vec<f64>>| {
            assert!(batch.end > 20);
            rest.extend(scores);
            Ok::<_, align_rm::ScoringError>(())
        };
        scorer.each(&rows, 20, || Ok(()), take).unwrap();
        assert!(rest.len() >= 20 && rest[..] == expected[40 - rest.len()..]);
        let stop = || Err::<(), align_rm::ScoringError>(Error::input("stop", "asked for").into());
        assert!(scorer.all(&rows, stop).unwrap_err().to_string().contains("asked for"));
    }
    let mut scorer = RowScorer::new("m", Box::new(ByToken));
    let bad = PromptGroup { source: Some(Source { file: "f".into(), row: 3 }), ..row(9 * 7 + 2) };
    let bad = PromptGroup { completions: vec![Completion::new(vec![9])], ..bad };
    let error = scorer.all(&[row(1), bad], || Ok::<_, align_rm::ScoringError>(())).unwrap_err().to_string();
    assert_eq!(error, "f:3: its reward is NaN");
    // A row of nobody knows where is counted among all rows, not among those of its pass.
    let bad = PromptGroup { completions: vec![Completion::new(vec![9])], ..row(1) };
    let mut scorer = RowScorer::new("m", Box::new(ByToken)).with_batch_tokens(1);
    let rows = [row(1), row(2), bad];
    let error = scorer.all(&rows, || Ok::<_, align_rm::ScoringError>(())).unwrap_err().to_string();
    assert_eq!(error, "group 2: its reward is NaN");
}
