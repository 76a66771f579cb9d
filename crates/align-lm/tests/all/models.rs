//! The numbers of small checkpoints against transformers, and one way of computing them against another.

use crate::fixtures;

use align_core::{
    CachedLm, CausalLm, PackedBatch,
    align_types::PromptGroup,
    tch::{Kind, Tensor},
};
use align_lm::{LlamaConfig, LoadOptions, Model, ModelConfig, Trainable};
use align_testkit::assert_close;
use fixtures::*;
use proptest::prelude::*;

#[test]
fn log_probabilities_are_those_of_transformers() {
    for name in FIXTURES {
        let (model, expected) = load(name);
        assert_eq!(model.notes(), Vec::<String>::new(), "{name}");
        let theirs: Vec<f64> =
            expected.groups.iter().flat_map(|g| g.logprobs.iter().flatten()).copied().collect();
        let ours = log_probs(&model, &groups(&expected));
        let worst = ours.iter().zip(&theirs).fold(0.0f64, |most, (a, b)| most.max((a - b).abs()));
        println!("{name}: largest difference {worst:.1e}");
        assert_close(&ours, &theirs, 1e-5);
    }
}

#[test]
fn packed_groups_are_separate_rows_in_values_and_gradients() {
    for name in FIXTURES {
        let (model, expected) = load(name);
        let packed = groups(&expected);
        let rows = unpacked(&packed);
        let values = log_probs(&model, &packed);
        assert_close(&values, &log_probs(&model, &rows), 1e-5);
        let factors: Vec<f64> = (0..values.len()).map(|i| (i as f64 * 0.37).sin()).collect();
        let separate = gradients(&model, &rows, &factors);
        assert_same_gradients(&gradients(&model, &packed, &factors), &separate, 1e-5);
    }
}

/// Prefill in pieces of several lengths, then token by token with slots of different length: the logits after
/// every step are those of the training forward.
#[test]
fn the_cache_gives_the_logits_of_the_training_forward() {
    for name in FIXTURES {
        let (model, expected) = load(name);
        let sequence = |g: &ExpectedGroup| [g.prompt.as_slice(), &g.completions[0]].concat();
        let sequences: Vec<Vec<u32>> = expected.groups.iter().rev().take(3).map(sequence).collect();
        let mut cache = model.new_cache(3, 32).unwrap();
        let mut done = [0usize; 3];
        let mut steps = vec![[1usize, 4, 2], [2, 1, 1], [5, 2, 3]];
        steps.resize(8, [1, 1, 1]);
        for step in steps {
            let pieces: Vec<&[u32]> =
                (0..3).map(|slot| &sequences[slot][done[slot]..done[slot] + step[slot]]).collect();
            let logits = model.extend(&mut cache, &pieces).unwrap();
            assert!(!logits.requires_grad());
            for slot in 0..3 {
                done[slot] += pieces[slot].len();
                let (seen, next) = sequences[slot].split_at(done[slot]);
                let batch = PackedBatch::new(&[group(seen, &[next[..1].to_vec()])]).unwrap();
                let whole = model.logits(&batch).unwrap().detach().reshape([-1]);
                let whole = Vec::<f64>::try_from(whole.to_kind(Kind::Double)).unwrap();
                let cached = logits.get(slot as i64).to_kind(Kind::Double);
                assert_close(&Vec::<f64>::try_from(cached).unwrap(), &whole, 1e-5);
            }
        }
        assert_eq!(cache.lengths, [13, 12, 11], "{name}");
    }
}

/// All prompts at once in one cache, then one token each; a slot is taken twice to share its prefill.
#[test]
fn greedy_continuations_are_those_of_transformers() {
    for name in FIXTURES {
        let (model, expected) = load(name);
        let prompts: Vec<&[u32]> = expected.greedy.iter().map(|g| g.prompt.as_slice()).collect();
        let mut cache = model.new_cache(prompts.len(), 64).unwrap();
        let first = model.extend(&mut cache, &prompts).unwrap();
        let slots = [0, 1, 2, 1];
        let mut cache = cache.select(&slots).unwrap();
        let mut logits = first.index_select(0, &Tensor::from_slice(&slots.map(|s| s as i64)));
        let mut tokens = vec![Vec::new(); slots.len()];
        for _ in 0..16 {
            let best = Vec::<i64>::try_from(logits.argmax(-1, false)).unwrap();
            tokens.iter_mut().zip(&best).for_each(|(list, id)| list.push(*id as u32));
            let next: Vec<[u32; 1]> = best.iter().map(|id| [*id as u32]).collect();
            let next: Vec<&[u32]> = next.iter().map(|t| t.as_slice()).collect();
            logits = model.extend(&mut cache, &next).unwrap();
        }
        for (tokens, slot) in tokens.iter().zip(slots) {
            assert_eq!(tokens, &expected.greedy[slot].tokens, "{name}, prompt {slot}");
        }
    }
}

#[test]
fn replicas_share_weights_and_own_their_gradients() {
    let (model, expected) = load("tiny-llama-tied-sharded");
    let replica = model.replicate().unwrap();
    let batch = PackedBatch::new(&groups(&expected)[1..3]).unwrap();
    // Another thread, as data-parallel training has it.
    let replica = std::thread::spawn(move || {
        replica.token_log_probs(&batch, 1.0).unwrap().values().sum(Kind::Float).backward();
        replica
    })
    .join()
    .unwrap();
    for (ours, theirs) in model.parameters().iter().zip(replica.parameters()) {
        assert_eq!((&ours.name, ours.decay), (&theirs.name, theirs.decay));
        assert_eq!(ours.tensor.data_ptr(), theirs.tensor.data_ptr(), "{}", ours.name);
        assert!(!ours.tensor.grad().defined() && theirs.tensor.grad().defined(), "{}", ours.name);
    }
}

#[test]
fn frozen_models_have_no_parameters_and_do_not_follow_the_trained_one() {
    let (model, expected) = load("tiny-llama");
    let frozen = model.frozen_copy().unwrap();
    let options = LoadOptions { trainable: Trainable::No, ..LoadOptions::default() };
    let loaded = Model::load(&folder("tiny-llama"), &options).unwrap();
    let before = log_probs(&model, &groups(&expected));
    {
        let _guard = align_core::no_grad();
        model.parameters().iter().for_each(|p| drop(p.tensor.shallow_clone().fill_(0.1)));
    }
    assert_ne!(log_probs(&model, &groups(&expected)), before);
    for reference in [&frozen, &loaded] {
        assert!(reference.parameters().is_empty() && reference.replica().unwrap().parameters().is_empty());
        assert_eq!(log_probs(reference, &groups(&expected)), before);
        let batch = PackedBatch::new(&groups(&expected)).unwrap();
        assert!(!reference.logits(&batch).unwrap().requires_grad());
    }
}

/// Names and their order are the contract of checkpoints; biases and norms do not decay.
#[test]
fn parameters_have_the_names_of_the_checkpoint() {
    let (model, _) = load("tiny-llama-mha-bias");
    let parameters = model.parameters();
    let names: Vec<&str> = parameters.iter().map(|p| p.name.as_str()).collect();
    assert_eq!((names[0], names[1]), ("model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight"));
    assert_eq!(names.last(), Some(&"lm_head.weight"));
    for p in &parameters {
        assert_eq!(p.decay, p.tensor.dim() == 2, "{}", p.name);
        assert!(p.tensor.is_leaf() && p.tensor.requires_grad());
    }
}

#[test]
fn parameters_are_counted_without_weights() {
    for name in FIXTURES {
        let (model, _) = load(name);
        let parameters = model.parameters();
        for p in &parameters {
            assert_eq!(p.decay, p.tensor.dim() == 2, "{name}: {}", p.name);
        }
        let total: usize = parameters.iter().map(|p| p.tensor.numel()).sum();
        let estimate = model.config().memory_estimate().unwrap();
        assert_eq!((estimate.parameters, estimate.weights), (total, 4 * total), "{name}");
        assert!(estimate.activations_per_token > 0);
    }
}

/// A preference pair from scratch: −ln σ(β · (margin − margin of the reference)) is ln 2 where policy and reference
/// are the same, and a small step against its gradient brings it down.
#[test]
fn one_step_of_preference_training_lowers_the_loss() {
    let beta = 0.1;
    for name in FIXTURES {
        let (model, expected) = load(name);
        let batch = PackedBatch::new(&groups(&expected)[1..2]).unwrap();
        let margin = |model: &Model| {
            let sums = model.token_log_probs(&batch, 1.0).unwrap();
            let sums = sums.values().split_with_sizes([5, 9], 0);
            sums[0].sum(Kind::Float) - sums[1].sum(Kind::Float)
        };
        let reference = margin(&model.frozen_copy().unwrap());
        let loss = || -((margin(&model) - &reference) * beta).log_sigmoid();
        let before = loss();
        assert_close(&[before.double_value(&[])], &[2f64.ln()], 1e-5);
        before.backward();
        {
            let _guard = align_core::no_grad();
            for p in model.parameters() {
                let _ = p.tensor.shallow_clone().subtract_(&(p.tensor.grad() * 1e-4));
            }
        }
        assert!(loss().double_value(&[]) < before.double_value(&[]) - 1e-5, "{name}");
    }
}

/// Folders of the first releases leave out the prefix, and GPT-NeoX's output layer has two names.
#[test]
fn older_names_of_tensors_are_understood() {
    let rename = |name: &str, from: &str, to: &str| {
        let dir = tempfile::tempdir().unwrap();
        std::fs::copy(folder(name).join("config.json"), dir.path().join("config.json")).unwrap();
        let bytes = std::fs::read(folder(name).join("model.safetensors")).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header = String::from_utf8(bytes[8..8 + length].to_vec()).unwrap();
        assert!(header.contains(from), "{header}");
        let header = header.replace(from, to);
        let file = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &bytes[8 + length..]].concat();
        std::fs::write(dir.path().join("model.safetensors"), file).unwrap();
        let renamed = Model::load(dir.path(), &LoadOptions::default()).unwrap();
        let (model, expected) = load(name);
        assert_eq!(renamed.notes(), Vec::<String>::new());
        assert_eq!(log_probs(&renamed, &groups(&expected)), log_probs(&model, &groups(&expected)));
    };
    rename("tiny-gpt2", "\"transformer.", "\"");
    rename("tiny-bloom", "\"transformer.", "\"");
    rename("tiny-gpt-neox", "\"embed_out.", "\"lm_head.");
}

#[test]
fn random_models_are_a_function_of_the_seed_with_the_spread_they_name() {
    let config = ModelConfig::llama(LlamaConfig::default()).unwrap();
    let flat = |seed| {
        let parameters = Model::init(&config, seed).unwrap().parameters();
        Tensor::cat(&parameters.iter().map(|p| p.tensor.detach().reshape([-1])).collect::<Vec<_>>(), 0)
    };
    assert!(flat(1).equal(&flat(1)) && !flat(1).equal(&flat(2)));
    let embedding = Model::init(&config, 3).unwrap().parameters().swap_remove(0).tensor;
    let (mean, std) = (embedding.mean(Kind::Float).double_value(&[]), embedding.std(true).double_value(&[]));
    // 65,536 draws: the standard errors are 8e-5 and 6e-5.
    assert!(mean.abs() < 4e-4 && (std - 0.02).abs() < 3e-4, "{mean} {std}");
}

#[test]
fn rows_that_do_not_fit_are_refused() {
    let config = LlamaConfig { max_position_embeddings: 8, ..LlamaConfig::default() };
    let model = Model::init(&ModelConfig::llama(config).unwrap(), 0).unwrap();
    let refused =
        |groups: &[PromptGroup]| model.logits(&PackedBatch::new(groups).unwrap()).unwrap_err().to_string();
    let long = refused(&[group(&[1; 7], &[vec![1]]), group(&[1; 7], &[vec![1], vec![1; 4]])]);
    assert!(
        long.starts_with("1 of 2 rows of the batch: longer than the model's context of 8 tokens"),
        "{long}"
    );
    assert!(long.contains("the longest has 11"), "{long}");
    assert!(refused(&[group(&[512], &[vec![1]])]).contains("token 512"));
    assert_eq!(model.logits(&PackedBatch::default()).unwrap().size(), [0, 512]);

    assert!(model.new_cache(1, 9).unwrap_err().to_string().contains("context of 8"));
    let mut cache = model.new_cache(2, 4).unwrap();
    let mut refused = |tokens: &[&[u32]]| model.extend(&mut cache, tokens).unwrap_err().to_string();
    assert!(refused(&[&[1]]).contains("1 lists of tokens for 2 slots"));
    assert!(refused(&[&[1], &[]]).contains("slot 1: no token"));
    assert!(refused(&[&[1], &[1; 5]]).contains("slot 1: 0 + 5 tokens in a capacity of 4"));
    assert!(refused(&[&[1], &[900]]).contains("token 900"));
    let other = load("tiny-llama").0;
    assert!(other.extend(&mut cache, &[&[1], &[1]]).unwrap_err().to_string().contains("another model"));
    assert_eq!(cache.lengths, [0, 0]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// However completions are grouped and in whatever order they come, values and gradients stay.
    #[test]
    fn grouping_and_order_change_nothing(
        rows in prop::collection::vec(
            (prop::collection::vec(0u32..320, 1..12), prop::collection::vec(prop::collection::vec(0u32..320, 1..9), 1..5)),
            1..4,
        ),
        swap in any::<u64>(),
    ) {
        let (model, _) = load("tiny-llama");
        let packed: Vec<PromptGroup> = rows.iter().map(|(p, c)| group(p, c)).collect();
        // Any other order: rotated groups, each with its completions rotated, some cut out as groups of their own.
        let mut order: Vec<(usize, usize)> = (packed.iter().enumerate())
            .flat_map(|(g, group)| (0..group.completions.len()).map(move |c| (g, c)))
            .collect();
        let middle = swap as usize % order.len();
        order.rotate_left(middle);
        let single = |(g, c): &(usize, usize)| {
            PromptGroup::new(packed[*g].prompt.clone(), vec![packed[*g].completions[*c].clone()])
        };
        let shuffled: Vec<PromptGroup> = order.iter().map(single).collect();

        let lens = |groups: &[PromptGroup]| -> Vec<usize> {
            groups.iter().flat_map(|g| g.completions.iter().map(|c| c.token_ids.len())).collect()
        };
        let rotate = |values: &[f64]| -> Vec<f64> {
            let at: usize = lens(&packed)[..middle].iter().sum();
            [&values[at..], &values[..at]].concat()
        };
        let values = log_probs(&model, &packed);
        assert_close(&log_probs(&model, &shuffled), &rotate(&values), 1e-5);
        let factors: Vec<f64> = (0..values.len()).map(|i| 1.0 - 0.1 * i as f64).collect();
        assert_same_gradients(
            &gradients(&model, &shuffled, &rotate(&factors)),
            &gradients(&model, &packed, &factors),
            1e-5,
        );
    }
}
