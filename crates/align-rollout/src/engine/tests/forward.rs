use align_core::{
    CausalLm, PackedBatch,
    align_types::{Completion, PromptGroup},
    threads::prepare_compute_thread,
};
use align_lm::{LlamaConfig, LoadOptions, Model, ModelConfig};
use align_testkit::fixture;

use super::super::{
    blocks::{Pool, Table},
    forward::{Buffers, Decoder, Piece, Step},
    kernels::{Instructions, floats},
    read,
    weights::{Rotation, Weights},
};

const PREFILL: usize = 40;
const SINGLE: usize = 10;

struct Loaded {
    weights: Weights,
    rotation: Rotation,
}

impl Loaded {
    fn new(model: &Model) -> Self {
        let weights = read(model).unwrap();
        let mut rotation = Rotation::default();
        rotation.reach(PREFILL + SINGLE + 20, &weights.frequencies);
        Self { weights, rotation }
    }

    fn decoder(&self, kernels: Instructions) -> Decoder<'_> {
        Decoder { weights: &self.weights, rotation: &self.rotation, kernels }
    }
}

fn tokens(model: &Model, seed: u32) -> Vec<u32> {
    let vocabulary = model.vocab_size() as u32;
    (0..(PREFILL + SINGLE) as u32).map(|i| (seed + 7 * i + i * i * 3) % vocabulary).collect()
}

/// One sequence alone: its logits after the prompt and after each single token.
fn alone(decoder: Decoder<'_>, tokens: &[u32], pool: &mut Pool) -> Vec<Vec<f32>> {
    let (mut table, mut buffers, mut all) = (Table::default(), Buffers::default(), Vec::new());
    let vocab = decoder.weights.shape.vocab;
    for count in std::iter::once(PREFILL).chain([1; SINGLE]) {
        let position = table.len();
        pool.extend(&mut table, count);
        let step = Step {
            tokens: tokens[position..position + count].to_vec(),
            pieces: vec![Piece { table: &table, row: 0, rows: count, position, prompt: count > 1 }],
            wanted: vec![count - 1],
        };
        all.push(floats(decoder.forward(pool, &step, &mut buffers))[..vocab].to_vec());
    }
    pool.release(table);
    all
}

/// Logits of the rows that predict the tokens after the prompt, by the training forward.
fn training(model: &Model, tokens: &[u32]) -> Vec<f32> {
    let mut completion = tokens[PREFILL..].to_vec();
    completion.push(0);
    let group = PromptGroup::new(tokens[..PREFILL].to_vec(), vec![Completion::new(completion)]);
    let logits = model.logits(&PackedBatch::new(&[group]).unwrap()).unwrap();
    Vec::try_from(logits.reshape([-1])).unwrap()
}

fn models() -> Vec<(String, Model)> {
    prepare_compute_thread();
    let mut models: Vec<(String, Model)> = ["tiny-llama", "tiny-llama-mha-bias", "tiny-llama-tied-sharded"]
        .map(|name| {
            let folder = fixture(&format!("models/{name}"));
            (name.to_owned(), Model::load(&folder, &LoadOptions::default()).unwrap())
        })
        .into();
    // Five million parameters, and a shape in which nothing is a multiple of sixteen.
    let five = LlamaConfig {
        vocab_size: 4096,
        hidden_size: 256,
        intermediate_size: 704,
        num_hidden_layers: 6,
        num_attention_heads: 8,
        num_key_value_heads: 4,
        head_dim: 32,
        ..LlamaConfig::default()
    };
    let odd = LlamaConfig {
        vocab_size: 101,
        hidden_size: 30,
        intermediate_size: 41,
        num_hidden_layers: 3,
        num_attention_heads: 3,
        num_key_value_heads: 1,
        head_dim: 10,
        attention_bias: true,
        mlp_bias: true,
        // Large enough that attention is far from uniform.
        initializer_range: 0.3,
        ..LlamaConfig::default()
    };
    for (name, config) in [("5M", five), ("odd", odd)] {
        models.push((name.to_owned(), Model::init(&ModelConfig::llama(config).unwrap(), 3).unwrap()));
    }
    models
}

/// 40 tokens at once and ten one by one give what the training forward gives for the whole sequence.
#[test]
fn logits_are_those_of_the_training_forward() {
    for (name, model) in models() {
        let tokens = tokens(&model, 5);
        let expected = training(&model, &tokens);
        let loaded = Loaded::new(&model);
        for set in Instructions::available() {
            let mut pool = Pool::new(&loaded.weights.shape);
            let got = alone(loaded.decoder(set), &tokens, &mut pool);
            let far = got.concat().iter().zip(&expected).map(|(g, e)| (g - e).abs()).fold(0.0, f32::max);
            let scale = expected.iter().fold(1.0f32, |most, e| most.max(e.abs()));
            assert_eq!(got.len() * model.vocab_size(), expected.len());
            assert!(far < 1e-5 * scale, "{name}, {}: logits differ by {far}", set.name());
            assert_eq!(pool.in_use(), 0);
        }
    }
}

/// A sequence has the same bits alone and in steps with 31 others that are at other positions, prompts among them.
#[test]
fn logits_have_the_same_bits_alone_and_among_others() {
    for (name, model) in models() {
        let loaded = Loaded::new(&model);
        for set in Instructions::available() {
            let decoder = loaded.decoder(set);
            let mut pool = Pool::new(&loaded.weights.shape);
            let expected = alone(decoder, &tokens(&model, 5), &mut pool);
            let all: Vec<Vec<u32>> = (0..32).map(|i| tokens(&model, if i == 17 { 5 } else { i })).collect();
            let mut tables: Vec<Table> = (0..32).map(|_| Table::default()).collect();
            let (mut buffers, mut seen) = (Buffers::default(), 0);
            // Sequence i enters at step i / 3; a third of the prompts come in two pieces.
            for time in 0.. {
                let mut step = Step::default();
                let counts: Vec<usize> = (0..32)
                    .map(|i| match tables[i].len() {
                        _ if time < i / 3 => 0,
                        0 if i % 3 == 2 => 23,
                        held if held < PREFILL => PREFILL - held,
                        held => (PREFILL + SINGLE - held).min(1),
                    })
                    .collect();
                for (table, count) in tables.iter_mut().zip(&counts) {
                    pool.extend(table, *count);
                }
                let mut row_of_17 = None;
                for (i, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
                    let (row, position) = (step.tokens.len(), tables[i].len() - count);
                    step.tokens.extend(&all[i][position..position + count]);
                    let prompt = position < PREFILL;
                    step.pieces.push(Piece { table: &tables[i], row, rows: *count, position, prompt });
                    if i == 17 && tables[i].len() >= PREFILL {
                        row_of_17 = Some(step.wanted.len());
                    }
                    step.wanted.push(row + count - 1);
                }
                if step.tokens.is_empty() {
                    break;
                }
                let stride = loaded.weights.head.out_lanes();
                let logits = decoder.forward(&mut pool, &step, &mut buffers);
                if let Some(row) = row_of_17 {
                    let got = &floats(&logits[row * stride..])[..model.vocab_size()];
                    assert_eq!(got, expected[seen], "{name}, {}, token {seen}", set.name());
                    seen += 1;
                }
            }
            assert_eq!(seen, SINGLE + 1);
            tables.into_iter().for_each(|table| pool.release(table));
            assert_eq!(pool.in_use(), 0);
        }
    }
}
