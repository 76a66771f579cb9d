use align_core::{
    Parameter,
    align_types::config::OptimizerConfig,
    no_grad,
    storage::{f32_slice, f32_slice_mut, is_plain_f32},
    tch::{Kind, Tensor},
};

use crate::{Error, Result, overlap, parallel};

/// Numbers that a thread updates at a time; small enough to share work out evenly.
const CHUNK: usize = 1 << 16;
/// Below this many numbers a second thread costs more than it saves.
const WORTH_A_THREAD: usize = 1 << 18;

/// AdamW with decoupled weight decay (1711.05101, algorithm 2) over the storage of parameters.
///
/// Per number, with the t-th gradient g of the parameter (times the clip factor), rate η and decay λ:
///
/// * p ← p − η λ p (only where [`Parameter::decay`] holds)
/// * m ← β₁ m + (1 − β₁) g, v ← β₂ v + (1 − β₂) g²
/// * p ← p − η / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + ε)
///
/// which is what `torch.optim.AdamW` computes. Moments are float32. A parameter that never had a gradient is
/// left alone; one that had one once and has none now is treated as having gradient 0.
///
/// Float32 parameters on the CPU are updated in one pass over memory; every number is computed by itself, so
/// the bits do not depend on the number of threads. Other parameters go through tensor operations: the update
/// is computed in float32 and rounded to the parameter's kind.
#[derive(Debug)]
pub struct AdamW {
    beta1: f64,
    beta2: f64,
    epsilon: f64,
    weight_decay: f64,
    pub(crate) slots: Vec<Slot>,
}

/// What the optimiser keeps of one parameter.
#[derive(Debug)]
pub(crate) struct Slot {
    pub name: String,
    pub decay: bool,
    pub shape: Vec<i64>,
    pub moments: Option<Moments>,
}

/// Moving averages of gradient and squared gradient, of the parameter's shape, in float32.
#[derive(Debug)]
pub(crate) struct Moments {
    /// Updates so far.
    pub step: u64,
    pub first: Tensor,
    pub second: Tensor,
}

/// How one update is made.
#[derive(Debug, Clone, Copy)]
pub struct Update {
    /// The learning rate.
    pub learning_rate: f64,
    /// What gradients are multiplied with: the clip factor.
    pub scale: f64,
    /// Compute threads, at least 1.
    pub threads: usize,
}

/// The numbers of an update that are the same for a whole parameter.
#[derive(Debug, Clone, Copy)]
struct Coefficients {
    scale: f32,
    keep: f32,
    beta1: f32,
    new1: f32,
    beta2: f32,
    new2: f32,
    rate: f32,
    root_correction: f32,
    epsilon: f32,
}

/// A run of numbers of one parameter with everything that belongs to them.
struct Chunk<'a> {
    values: &'a mut [f32],
    gradient: Option<&'a [f32]>,
    first: &'a mut [f32],
    second: &'a mut [f32],
    with: Coefficients,
}

impl AdamW {
    /// Makes an optimiser without moments for parameters in this order.
    pub fn new(parameters: &[Parameter], config: &OptimizerConfig) -> Self {
        let slot = |p: &Parameter| Slot {
            name: p.name.clone(),
            decay: p.decay,
            shape: p.tensor.size(),
            moments: None,
        };
        Self {
            beta1: config.adam_beta1,
            beta2: config.adam_beta2,
            epsilon: config.adam_epsilon,
            weight_decay: config.weight_decay,
            slots: parameters.iter().map(slot).collect(),
        }
    }

    /// Counts the updates so far, those before a run was resumed included.
    pub fn updates(&self) -> u64 {
        self.slots.iter().filter_map(|slot| slot.moments.as_ref()).map(|it| it.step).max().unwrap_or(0)
    }

    /// Updates the parameters in place; `gradients` are those of the parameters in order.
    ///
    /// # Errors
    /// [`Error::Tensor`] when parameters or gradients are not those the optimiser was made for, when a parameter
    /// shares memory with another or with a gradient, or when libtorch refuses.
    pub fn step(
        &mut self,
        parameters: &mut [Parameter],
        gradients: &[Option<Tensor>],
        update: Update,
    ) -> Result<()> {
        self.check(parameters, gradients)?;
        let _guard = no_grad();
        self.count_step(parameters, gradients)?;
        let (beta1, beta2) = (self.beta1, self.beta2);
        let (epsilon, weight_decay) = (self.epsilon, self.weight_decay);
        let mut chunks = Vec::new();
        let mut numbers = 0;
        for ((slot, parameter), gradient) in self.slots.iter_mut().zip(parameters).zip(gradients) {
            let Some(moments) = slot.moments.as_mut() else { continue };
            let t = moments.step as f64;
            let decay = if slot.decay { weight_decay } else { 0.0 };
            let with = Coefficients {
                scale: update.scale as f32,
                keep: (1.0 - update.learning_rate * decay) as f32,
                beta1: beta1 as f32,
                new1: (1.0 - beta1) as f32,
                beta2: beta2 as f32,
                new2: (1.0 - beta2) as f32,
                rate: (update.learning_rate / (1.0 - beta1.powf(t))) as f32,
                root_correction: (1.0 - beta2.powf(t)).sqrt() as f32,
                epsilon: epsilon as f32,
            };
            let plain = is_plain_f32(&parameter.tensor) && gradient.as_ref().is_none_or(is_plain_f32);
            if plain {
                numbers += parameter.tensor.numel();
                push_chunks(&mut chunks, &mut parameter.tensor, gradient.as_ref(), moments, with)?;
            } else {
                update_by_tensor_operations(&mut parameter.tensor, gradient.as_ref(), moments, with)?;
            }
        }
        let threads = if numbers < WORTH_A_THREAD { 1 } else { update.threads };
        parallel::map(parallel::deal(chunks, threads), |run| run.into_iter().for_each(Chunk::update))?;
        Ok(())
    }

    fn check(&self, parameters: &[Parameter], gradients: &[Option<Tensor>]) -> Result<()> {
        let refuse = |what: &str, why: String| Err(align_core::Error::input(what, why).into());
        if parameters.len() != self.slots.len() || gradients.len() != self.slots.len() {
            let (p, g) = (parameters.len(), gradients.len());
            return refuse("optimiser", format!("{p} parameters and {g} gradients for {}", self.slots.len()));
        }
        for ((slot, parameter), gradient) in self.slots.iter().zip(parameters).zip(gradients) {
            let fits = |tensor: &Tensor| tensor.size() == slot.shape;
            if !fits(&parameter.tensor) || !gradient.as_ref().is_none_or(fits) {
                return refuse(&slot.name, format!("parameter or gradient is not of shape {:?}", slot.shape));
            }
        }
        match overlap::find(parameters, gradients) {
            None => Ok(()),
            Some((one, other)) => {
                refuse(one, format!("it shares memory with {other}; list a tied parameter once"))
            }
        }
    }

    fn count_step(&mut self, parameters: &[Parameter], gradients: &[Option<Tensor>]) -> Result<()> {
        for ((slot, parameter), gradient) in self.slots.iter_mut().zip(parameters).zip(gradients) {
            if slot.moments.is_none() && gradient.is_some() {
                let zeros = || Tensor::f_zeros(&slot.shape, (Kind::Float, parameter.tensor.device()));
                slot.moments = Some(Moments { step: 0, first: zeros()?, second: zeros()? });
            }
            if let Some(moments) = &mut slot.moments {
                moments.step += 1;
            }
        }
        Ok(())
    }
}

fn push_chunks<'a>(
    chunks: &mut Vec<Chunk<'a>>,
    parameter: &'a mut Tensor,
    gradient: Option<&'a Tensor>,
    moments: &'a mut Moments,
    with: Coefficients,
) -> Result<(), Error> {
    // SAFETY: no other parameter and no gradient of this step overlaps with this one (`check`). The weights are
    // shared with replicas and with the caller's handle of the model, but nobody computes with them during an optimiser step: worker threads have been joined, and `step` runs on the
    // thread that owns the engine.
    let values = unsafe { f32_slice_mut(parameter) }?;
    // SAFETY: gradients are only written during a backward pass.
    let gradient = gradient.map(|g| unsafe { f32_slice(g) }).transpose()?;
    // SAFETY: the moments belong to this optimiser alone.
    let (first, second) =
        unsafe { (f32_slice_mut(&mut moments.first)?, f32_slice_mut(&mut moments.second)?) };
    let mut gradients = gradient.map(|g| g.chunks(CHUNK));
    let states = first.chunks_mut(CHUNK).zip(second.chunks_mut(CHUNK));
    for (values, (first, second)) in values.chunks_mut(CHUNK).zip(states) {
        let gradient = gradients.as_mut().and_then(Iterator::next);
        chunks.push(Chunk { values, gradient, first, second, with });
    }
    Ok(())
}

impl Chunk<'_> {
    fn update(self) {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has the instructions.
            return unsafe { self.update_with_avx2() };
        }
        self.update_numbers();
    }

    /// The same arithmetic on more numbers at a time. Nothing is fused, so the bits are those of any processor.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn update_with_avx2(self) {
        self.update_numbers();
    }

    #[inline(always)]
    fn update_numbers(self) {
        let Self { values, first, second, with, .. } = self;
        match self.gradient {
            Some(gradient) => update_numbers(values, first, second, gradient.iter().copied(), with),
            None => update_numbers(values, first, second, std::iter::repeat(0.0), with),
        }
    }
}

#[inline(always)]
fn update_numbers(
    values: &mut [f32],
    first: &mut [f32],
    second: &mut [f32],
    gradient: impl Iterator<Item = f32>,
    with: Coefficients,
) {
    for (((p, m), v), g) in values.iter_mut().zip(first).zip(second).zip(gradient) {
        // Adding 0 turns −0 into 0: a gradient that is accumulated into a cleared buffer has no −0, one in a
        // fresh buffer may, and a resumed run must have the bits of an uninterrupted one.
        let g = g * with.scale + 0.0;
        *m = with.beta1 * *m + with.new1 * g;
        *v = with.beta2 * *v + with.new2 * g * g;
        *p = *p * with.keep - with.rate * *m / (v.sqrt() / with.root_correction + with.epsilon);
    }
}

fn update_by_tensor_operations(
    parameter: &mut Tensor,
    gradient: Option<&Tensor>,
    moments: &mut Moments,
    with: Coefficients,
) -> Result<()> {
    let wide = |factor: f32| f64::from(factor);
    let gradient = match gradient {
        Some(gradient) => gradient.f_to_kind(Kind::Float)?.f_mul_scalar(wide(with.scale))?,
        None => moments.first.f_zeros_like()?,
    };
    let Moments { first, second, .. } = moments;
    let _ = first.f_mul_scalar_(wide(with.beta1))?.f_add_(&gradient.f_mul_scalar(wide(with.new1))?)?;
    let _ = second
        .f_mul_scalar_(wide(with.beta2))?
        .f_add_(&gradient.f_square()?.f_mul_scalar(wide(with.new2))?)?;
    let root = second.f_sqrt()?.f_div_scalar(wide(with.root_correction))?;
    let change = first.f_div(&root.f_add_scalar(wide(with.epsilon))?)?.f_mul_scalar(wide(with.rate))?;
    let kind = if parameter.kind() == Kind::Double { Kind::Double } else { Kind::Float };
    let before = parameter.f_detach()?.f_to_kind(kind)?;
    let after = before.f_mul_scalar(wide(with.keep))?.f_sub(&change.f_to_kind(kind)?)?;
    parameter.f_copy_(&after)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_instructions_give_the_bits_of_plain_ones() {
        let wave = |n: usize, step: f32| -> Vec<f32> { (0..n).map(|i| (i as f32 * step).sin()).collect() };
        let with = Coefficients {
            scale: 0.37,
            keep: 0.999,
            beta1: 0.9,
            new1: 0.1,
            beta2: 0.95,
            new2: 0.05,
            rate: 0.013,
            root_correction: 0.22,
            epsilon: 1e-8,
        };
        let run = |update: fn(Chunk<'_>)| {
            let (mut values, mut first, gradient) = (wave(1003, 0.1), wave(1003, 0.2), wave(1003, 0.3));
            let mut second: Vec<f32> = wave(1003, 0.4).iter().map(|v| v.abs()).collect();
            for gradient in [Some(gradient.as_slice()), None] {
                let (values, first, second) = (&mut values[..], &mut first[..], &mut second[..]);
                update(Chunk { values, gradient, first, second, with });
            }
            [values, first, second].concat().into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        assert_eq!(run(|chunk| chunk.update()), run(|chunk| chunk.update_numbers()));
    }
}
