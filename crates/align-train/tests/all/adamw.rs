//! AdamW against `torch.optim.AdamW` (fixtures/train/make_adamw.py), its file, and its threads.

use align_core::Parameter;
use align_core::align_types::config::{OptimizerConfig, Schedule};
use align_core::tch::{Device, Kind, Tensor};
use align_testkit::{assert_close, fixture};
use align_train::{AdamW, Update, clip_factor, gradient_norm, learning_rate};
use proptest::prelude::*;
use serde_json::Value;

const NAMES: [&str; 3] = ["matrix", "bias", "sometimes"];

fn json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(fixture(name)).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).collect()
}

fn tensor(values: &Value, shape: &Value, kind: Kind) -> Tensor {
    let shape: Vec<i64> = numbers(shape).iter().map(|n| *n as i64).collect();
    Tensor::from_slice(&numbers(values)).to_kind(kind).reshape(&shape)
}

fn values(tensor: &Tensor) -> Vec<f64> {
    Vec::<f64>::try_from(tensor.detach().to_kind(Kind::Double).reshape([-1])).unwrap()
}

fn parameters(record: &Value, kind: Kind) -> Vec<Parameter> {
    let parameter = |name: &str| Parameter {
        name: name.into(),
        tensor: tensor(&record["initial"][name], &record["shapes"][name], kind).set_requires_grad(true),
        decay: name != "bias",
    };
    NAMES.map(parameter).into()
}

fn config(record: &Value) -> OptimizerConfig {
    let betas = numbers(&record["betas"]);
    OptimizerConfig {
        weight_decay: record["weight_decay"].as_f64().unwrap(),
        adam_beta1: betas[0],
        adam_beta2: betas[1],
        adam_epsilon: record["epsilon"].as_f64().unwrap(),
        ..OptimizerConfig::default()
    }
}

/// Follows the fixture; `sometimes` gets no gradient where PyTorch had one of 0.
fn follow(record: &Value, kind: Kind, tolerance: f64) {
    let mut parameters = parameters(record, kind);
    let mut optimizer = AdamW::new(&parameters, &config(record));
    for (index, step) in record["steps"].as_array().unwrap().iter().enumerate() {
        let gradient = |name: &str| {
            let absent = name == "sometimes" && index % 2 == 1;
            (!absent).then(|| tensor(&step["gradients"][name], &record["shapes"][name], kind))
        };
        let gradients = NAMES.map(gradient);
        let norm = gradient_norm(&gradients, 1).unwrap();
        assert_close(&[norm], &[step["grad_norm"].as_f64().unwrap()], 1e-6 * norm);
        let update = Update {
            learning_rate: step["learning_rate"].as_f64().unwrap(),
            scale: clip_factor(norm, record["max_grad_norm"].as_f64().unwrap()),
            threads: 2,
        };
        optimizer.step(&mut parameters, &gradients, update).unwrap();
        for parameter in &parameters {
            let expected = numbers(&step["parameters"][&parameter.name]);
            assert_close(&values(&parameter.tensor), &expected, tolerance);
        }
    }
}

#[test]
fn eight_steps_are_those_of_pytorch() {
    let record = json("train/adamw.json");
    // Weights are about 1; a float32 holds them to 6e-8, and each of eight steps rounds a few times.
    follow(&record, Kind::Float, 1e-6);
    // The way of other kinds and devices, by tensor operations.
    follow(&record, Kind::Double, 1e-6);
}

#[test]
fn learning_rates_are_those_of_transformers() {
    for case in json("train/schedules.json")["cases"].as_array().unwrap() {
        let lr_scheduler: Schedule = serde_json::from_value(case["schedule"].clone()).unwrap();
        let warmup_steps = case["warmup"].as_u64().unwrap();
        let config = OptimizerConfig { learning_rate: 1.0, lr_scheduler, warmup_steps, ..Default::default() };
        let total = case["total"].as_u64().unwrap();
        let ours: Vec<f64> = (0..total).map(|step| learning_rate(&config, step, total)).collect();
        assert_close(&ours, &numbers(&case["rates"]), 1e-12);
    }
}

#[test]
fn a_parameter_without_a_gradient_is_left_alone() {
    let record = json("train/adamw.json");
    let mut parameters = parameters(&record, Kind::Float);
    let before = values(&parameters[0].tensor);
    let mut optimizer = AdamW::new(&parameters, &config(&record));
    let gradients = [None, Some(Tensor::ones([4], (Kind::Float, Device::Cpu))), None];
    let update = Update { learning_rate: 0.1, scale: 1.0, threads: 1 };
    optimizer.step(&mut parameters, &gradients, update).unwrap();
    assert_eq!(values(&parameters[0].tensor), before);
}

#[test]
fn gradients_of_another_model_are_refused() {
    let record = json("train/adamw.json");
    let mut parameters = parameters(&record, Kind::Float);
    let mut optimizer = AdamW::new(&parameters, &config(&record));
    let update = Update { learning_rate: 0.1, scale: 1.0, threads: 1 };
    assert!(optimizer.step(&mut parameters, &[None, None], update).is_err());
    let wrong = [Some(Tensor::zeros([5, 3], (Kind::Float, Device::Cpu))), None, None];
    let error = optimizer.step(&mut parameters, &wrong, update).unwrap_err().to_string();
    assert!(error.contains("matrix"), "{error}");
}

/// A parameter of `n` numbers, two updates, the bits of everything after.
fn bits(n: usize, threads: usize, kind: Kind) -> (Vec<u64>, std::path::PathBuf, tempfile::TempDir) {
    let wave = |phase: f64| -> Vec<f64> { (0..n).map(|i| (i as f64 * 0.37 + phase).sin()).collect() };
    let tensor = |phase| Tensor::from_slice(&wave(phase)).to_kind(kind);
    let mut parameters =
        vec![Parameter { name: "p".into(), tensor: tensor(0.0).set_requires_grad(true), decay: true }];
    let mut optimizer = AdamW::new(&parameters, &OptimizerConfig { weight_decay: 0.1, ..Default::default() });
    for step in 1..3 {
        let gradients = [Some(tensor(f64::from(step)))];
        let update = Update { learning_rate: 1e-3, scale: 0.7, threads };
        optimizer.step(&mut parameters, &gradients, update).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("optimizer.safetensors");
    optimizer.save(&path).unwrap();
    (values(&parameters[0].tensor).iter().map(|v| v.to_bits()).collect(), path, folder)
}

#[test]
fn threads_do_not_change_the_bits() {
    // More than the least that is shared out, and not a multiple of the piece that a thread takes.
    let n = (1 << 18) + 12_345;
    let (one, file, _folder) = bits(n, 1, Kind::Float);
    for threads in [2, 3, 5] {
        let (other, other_file, _folder) = bits(n, threads, Kind::Float);
        assert_eq!(one, other);
        assert_eq!(std::fs::read(&file).unwrap(), std::fs::read(other_file).unwrap());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    #[test]
    fn both_ways_of_updating_agree(n in 1usize..300) {
        let as_float = |bits: Vec<u64>| -> Vec<f64> { bits.into_iter().map(f64::from_bits).collect() };
        let (fast, ..) = bits(n, 1, Kind::Float);
        let (slow, ..) = bits(n, 1, Kind::Double);
        assert_close(&as_float(fast), &as_float(slow), 5e-7);
    }
}

#[test]
fn moments_come_back_bit_for_bit() {
    let record = json("train/adamw.json");
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    let mut parameters = parameters(&record, Kind::Float);
    let mut optimizer = AdamW::new(&parameters, &config(&record));
    let update = Update { learning_rate: 0.1, scale: 1.0, threads: 1 };
    let gradient = |name: &str| {
        (name != "bias")
            .then(|| tensor(&record["steps"][0]["gradients"][name], &record["shapes"][name], Kind::Float))
    };
    optimizer.step(&mut parameters, &NAMES.map(gradient), update).unwrap();
    optimizer.save(&first).unwrap();
    let mut other = AdamW::new(&parameters, &config(&record));
    other.load(&first, &parameters).unwrap();
    other.save(&second).unwrap();
    assert_eq!(std::fs::read(&first).unwrap(), std::fs::read(&second).unwrap());
    // The next update is the same, the parameter that has no moments yet included.
    let gradients = NAMES.map(|name| {
        Some(tensor(&record["steps"][1]["gradients"][name], &record["shapes"][name], Kind::Float))
    });
    let copy =
        |p: &Parameter| Parameter { name: p.name.clone(), tensor: p.tensor.detach().copy(), decay: p.decay };
    let mut copies: Vec<Parameter> = parameters.iter().map(copy).collect();
    optimizer.step(&mut parameters, &gradients, update).unwrap();
    other.step(&mut copies, &gradients, update).unwrap();
    for (p, c) in parameters.iter().zip(&copies) {
        assert_eq!(values(&p.tensor), values(&c.tensor));
    }
}

#[test]
fn files_of_other_models_and_torn_files_are_refused() {
    let record = json("train/adamw.json");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("optimizer.safetensors");
    let mut parameters = parameters(&record, Kind::Float);
    let mut optimizer = AdamW::new(&parameters, &config(&record));
    let ones = |p: &Parameter| Some(p.tensor.detach().ones_like());
    let gradients: Vec<Option<Tensor>> = parameters.iter().map(ones).collect();
    let update = Update { learning_rate: 0.1, scale: 1.0, threads: 1 };
    optimizer.step(&mut parameters, &gradients, update).unwrap();
    optimizer.save(&path).unwrap();
    let fewer = &parameters[..2];
    let error = AdamW::new(fewer, &config(&record)).load(&path, fewer).unwrap_err().to_string();
    assert!(error.contains("sometimes"), "{error}");
    let other = [Parameter {
        name: "matrix".into(),
        tensor: Tensor::zeros([5, 3], (Kind::Float, Device::Cpu)),
        decay: true,
    }];
    let error = AdamW::new(&other, &config(&record)).load(&path, &other).unwrap_err().to_string();
    assert!(error.contains("[3, 5]") && error.contains("[5, 3]"), "{error}");
    let whole = std::fs::read(&path).unwrap();
    for length in [0, 7, 40, whole.len() - 1] {
        std::fs::write(&path, &whole[..length]).unwrap();
        let error = optimizer.load(&path, &parameters).unwrap_err().to_string();
        assert!(error.contains("optimizer.safetensors"), "{error}");
    }
    // A header that promises more than there is.
    let mut hostile = whole.clone();
    hostile[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    std::fs::write(&path, hostile).unwrap();
    assert!(optimizer.load(&path, &parameters).is_err());
}

#[test]
fn parameters_that_share_memory_are_refused() {
    let matrix = Tensor::ones([4, 3], (Kind::Float, Device::Cpu));
    let parameter = |name: &str, tensor: Tensor| Parameter { name: name.into(), tensor, decay: true };
    let step = |parameters: Vec<Parameter>, gradients: Vec<Option<Tensor>>| {
        let mut parameters = parameters;
        let update = Update { learning_rate: 0.1, scale: 1.0, threads: 2 };
        AdamW::new(&parameters, &OptimizerConfig::default()).step(&mut parameters, &gradients, update)
    };
    let ones = |rows: i64| Some(Tensor::ones([rows, 3], (Kind::Float, Device::Cpu)));
    let unchanged = || values(&matrix).iter().all(|value| *value == 1.0);

    // A tied matrix that is listed twice, and a part of one; with a third one that lies elsewhere.
    let other = || parameter("other", Tensor::ones([2, 3], (Kind::Float, Device::Cpu)));
    for (first, rows) in [(0, 4), (3, 1)] {
        let tied = parameter("head", matrix.narrow(0, first, rows));
        let parameters = vec![parameter("embedding", matrix.shallow_clone()), other(), tied];
        let error = step(parameters, vec![ones(4), ones(2), ones(rows)]).unwrap_err().to_string();
        let named = error.contains("embedding") && error.contains("head") && error.contains("tied");
        assert!(named && !error.contains("other"), "{error}");
    }
    // The gradient is the parameter itself.
    let error = step(vec![parameter("loop", matrix.shallow_clone())], vec![Some(matrix.shallow_clone())]);
    assert!(error.unwrap_err().to_string().contains("the gradient of loop"));
    assert!(unchanged(), "a step that is refused must change nothing");

    // Neighbours in one storage share nothing, and gradients are only read.
    let halves = [("top", 0), ("bottom", 2)].map(|(name, row)| parameter(name, matrix.narrow(0, row, 2)));
    let gradient = ones(2).unwrap();
    step(halves.into(), vec![Some(gradient.shallow_clone()), Some(gradient)]).unwrap();
    // The first update of AdamW is the learning rate times the sign of the gradient.
    assert_close(&values(&matrix), &[0.9; 12], 1e-6);
}
