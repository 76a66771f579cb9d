//! Computing with 16 bits, and storing what is frozen in fewer bits, against float32.

use crate::fixtures;

use align_core::{
    CachedLm, CausalLm, PackedBatch, no_grad,
    tch::{Kind, Tensor},
};
use align_lm::{FrozenStorage, LoadOptions, Model, Trainable};
use fixtures::*;

fn bf16() -> LoadOptions {
    LoadOptions { compute: Kind::BFloat16, ..LoadOptions::default() }
}

fn frozen(options: LoadOptions, frozen: FrozenStorage) -> LoadOptions {
    LoadOptions { trainable: Trainable::No, frozen, ..options }
}

fn flat(values: Tensor) -> Vec<f64> {
    Vec::try_from(values.to_kind(Kind::Double).reshape([-1])).unwrap()
}

fn largest_difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0, |most, (a, b)| most.max((a - b).abs()))
}

/// How far logits may lie from those of float32.
///
/// A number of 8 significant bits is off by up to 2⁻⁹ of itself. On the way to a logit the stream is rounded once per
/// embedding and at most ten times per block (two norms, queries and keys twice, values, attention, two or three inner
/// rows, two outputs), and the last norm and the logit itself are rounded; errors of one size and either sign add up
/// to the root of their number, of which twice as much is granted. A norm makes the stream's relative error that of
/// the logits, whose size is their largest magnitude.
fn bound(model: &Model, batch: &PackedBatch) -> f64 {
    let _guard = no_grad();
    let logits = model.logits(batch).unwrap();
    let roundings = 10.0 * model.config().sizes().num_hidden_layers as f64 + 3.0;
    2.0 * roundings.sqrt() * 2f64.powi(-9) * logits.abs().max().double_value(&[])
}

#[test]
fn log_probabilities_of_bf16_are_those_of_float32_but_for_rounding() {
    for name in FIXTURES {
        let (wide, expected) = load(name);
        let (narrow, _) = load_with(name, &bf16());
        let groups = groups(&expected);
        let batch = PackedBatch::new(&groups).unwrap();
        // A log-probability is a logit minus a mean of logits.
        let bound = 2.0 * bound(&wide, &batch);
        let off = largest_difference(&log_probs(&narrow, &groups), &log_probs(&wide, &groups));
        println!("{name}: off by {off:.4}, bound {bound:.4}");
        assert!(off > 1e-5, "{name} computes in float32");
        assert!(off < bound, "{name}: off by {off}, bound {bound}");
        assert_eq!(narrow.logits(&batch).unwrap().kind(), Kind::Float);
    }
}

#[test]
fn gradients_of_bf16_point_where_those_of_float32_do_and_are_float32() {
    for name in FIXTURES {
        let (wide, expected) = load(name);
        let groups = groups(&expected);
        let factors: Vec<f64> =
            (0..log_probs(&wide, &groups).len()).map(|i| (i as f64 * 0.37).sin()).collect();
        let wide = gradients(&wide, &groups, &factors);
        for recompute in [false, true] {
            let (narrow, _) = load_with(name, &LoadOptions { recompute, ..bf16() });
            let narrow_gradients = gradients(&narrow, &groups, &factors);
            for p in narrow.parameters() {
                assert_eq!((p.tensor.kind(), p.tensor.grad().kind()), (Kind::Float, Kind::Float));
            }
            for ((parameter, a), (_, b)) in narrow_gradients.iter().zip(&wide) {
                let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
                let cosine = dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
                assert!(cosine > 0.99, "{name}, {parameter}: cosine {cosine}");
            }
        }
    }
}

/// Prefill, then token by token, in slots of different length.
#[test]
fn the_cache_of_bf16_gives_the_logits_of_its_training_forward() {
    for name in FIXTURES {
        let (model, expected) = load_with(name, &bf16());
        let sequence = |g: &ExpectedGroup| [g.prompt.as_slice(), &g.completions[0]].concat();
        let sequences: Vec<Vec<u32>> = expected.groups.iter().rev().take(2).map(sequence).collect();
        let mut cache = model.new_cache(2, 32).unwrap();
        assert_eq!(cache.layers[0].keys.kind(), Kind::BFloat16);
        let mut done = [0usize; 2];
        for step in [[2usize, 5], [1, 1], [1, 1], [3, 2], [1, 1]] {
            let pieces: Vec<&[u32]> =
                (0..2).map(|slot| &sequences[slot][done[slot]..done[slot] + step[slot]]).collect();
            let logits = model.extend(&mut cache, &pieces).unwrap();
            for slot in 0..2 {
                done[slot] += pieces[slot].len();
                let (seen, next) = sequences[slot].split_at(done[slot]);
                let batch = PackedBatch::new(&[group(seen, &[next[..1].to_vec()])]).unwrap();
                let whole = flat(model.logits(&batch).unwrap().detach());
                let off = largest_difference(&flat(logits.get(slot as i64)), &whole);
                let bound = bound(&model, &batch);
                assert!(off < bound, "{name}: {off} of {bound}");
            }
        }
    }
}

/// Rounded where it is stored or where it is used, a weight is the same number: a reference beside a trained policy
/// starts as that policy.
#[test]
fn sixteen_bits_of_storage_change_nothing_for_sixteen_bits_of_computing() {
    for name in FIXTURES {
        let (trained, expected) = load_with(name, &LoadOptions { frozen: FrozenStorage::Half, ..bf16() });
        let (stored, _) = load_with(name, &frozen(bf16(), FrozenStorage::Half));
        let groups = groups(&expected);
        let copy = trained.frozen_copy().unwrap();
        assert!(stored.weight_bytes() < trained.weight_bytes() * 6 / 10, "{name}");
        assert_eq!(copy.weight_bytes(), stored.weight_bytes());
        let expected = log_probs(&trained, &groups);
        assert_eq!(log_probs(&stored, &groups), expected, "{name}");
        assert_eq!(log_probs(&copy, &groups), expected, "{name}");
        assert_eq!(log_probs(&stored.replica().unwrap(), &groups), expected, "{name}");
    }
}

#[test]
fn a_bf16_checkpoint_loses_nothing_when_it_is_stored_as_it_is() {
    let (wide, expected) = load("tiny-llama-bf16");
    let (stored, _) = load_with("tiny-llama-bf16", &frozen(LoadOptions::default(), FrozenStorage::Half));
    assert!(stored.weight_bytes() < wide.weight_bytes() * 6 / 10);
    assert_eq!(log_probs(&stored, &groups(&expected)), log_probs(&wide, &groups(&expected)));
}

#[test]
fn other_formats_and_trained_4_bit_weights_are_refused() {
    let refused =
        |options: LoadOptions| Model::load(&folder("tiny-llama"), &options).unwrap_err().to_string();
    let half = refused(LoadOptions { compute: Kind::Half, ..LoadOptions::default() });
    assert!(half.contains("Half is not computed with"), "{half}");
    let trained = refused(LoadOptions { frozen: FrozenStorage::Nf4, ..LoadOptions::default() });
    assert!(trained.contains("training of 4-bit weights"), "{trained}");
}

/// Names of the matrices of blocks have the number of their block.
fn is_in_block(name: &str, tensor: &Tensor) -> bool {
    tensor.dim() == 2 && name.split('.').any(|part| part.parse::<usize>().is_ok())
}

#[test]
fn four_bits_are_less_than_three_tenths_of_float32() {
    for name in FIXTURES {
        let (wide, _) = load(name);
        let (packed, expected) = load_with(name, &frozen(LoadOptions::default(), FrozenStorage::Nf4));
        let bytes = |in_block: bool| -> usize {
            let parameters = wide.parameters();
            let chosen = parameters.iter().filter(|p| is_in_block(&p.name, &p.tensor) == in_block);
            chosen.map(|p| 4 * p.tensor.numel()).sum()
        };
        let layers = packed.weight_bytes() - bytes(false);
        assert!(layers * 10 < bytes(true) * 3, "{name}: {layers} of {}", bytes(true));
        // The error of normal weights is a tenth of their size. Independent log-probabilities would be off by twice
        // their variance.
        let (ours, theirs) = (log_probs(&packed, &groups(&expected)), log_probs(&wide, &groups(&expected)));
        let mean = |a: &[f64]| a.iter().sum::<f64>() / a.len() as f64;
        let off: Vec<f64> = ours.iter().zip(&theirs).map(|(a, b)| (a - b).powi(2)).collect();
        let spread: Vec<f64> = theirs.iter().map(|x| (x - mean(&theirs)).powi(2)).collect();
        let share = mean(&off) / mean(&spread);
        assert!(share > 0.0 && share < 0.25, "{name}: {share} of the variance");
    }
}

/// The same numbers in a dense model give the same log-probabilities, and what is saved is what was computed with.
#[test]
fn a_saved_4_bit_model_computes_as_it_did_in_memory() {
    for name in ["tiny-llama", "tiny-gpt2", "tiny-bloom", "tiny-llama-tied-sharded"] {
        let (packed, expected) = load_with(name, &frozen(LoadOptions::default(), FrozenStorage::Nf4));
        let groups = groups(&expected);
        let out = tempfile::tempdir().unwrap();
        packed.save(&out.path().join("dense"), align_lm::SaveDtype::F32).unwrap();
        let dense = Model::load(&out.path().join("dense"), &LoadOptions::default()).unwrap();
        let values = log_probs(&packed, &groups);
        assert_eq!(log_probs(&dense, &groups), values, "{name}");
        assert_eq!(log_probs(&packed.replica().unwrap(), &groups), values);
        assert_eq!(log_probs(&packed.frozen_copy().unwrap(), &groups), values);
        assert!(packed.plain().unwrap().is_none() && packed.parameters().is_empty());
    }
}

/// What a plan says of a model is what loading it finds.
#[test]
fn what_has_a_plain_description_is_known_before_it_is_loaded() {
    let full = LoadOptions::default();
    let ways = [
        full,
        frozen(full, FrozenStorage::Float),
        frozen(full, FrozenStorage::Half),
        frozen(full, FrozenStorage::Nf4),
        LoadOptions { compute: Kind::BFloat16, ..full },
    ];
    let mut plain = 0;
    for entry in std::fs::read_dir(align_testkit::fixture("models")).unwrap() {
        let folder = entry.unwrap().path();
        if !folder.is_dir() {
            continue;
        }
        for options in &ways {
            let model = Model::load(&folder, options).unwrap();
            let found = model.plain().unwrap().is_some();
            assert_eq!(model.config().is_plain(options), found, "{} {options:?}", folder.display());
            plain += usize::from(found);
        }
    }
    assert!(plain > 0);
}
