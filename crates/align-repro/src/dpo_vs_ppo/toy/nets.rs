use align_core::{
    Parameter,
    align_types::{Purpose, RngStream, config::OptimizerConfig},
    no_grad,
    tch::{Kind, Tensor},
};
use align_train::{AdamW, Update};

use super::SIZE;
use crate::Result;

/// Networks of S seeds side by side: one-hot prompt → tanh layer of width H → 8 numbers.
///
/// With a one-hot input the first layer is a table, so no input tensor is needed.
#[derive(Debug)]
pub struct Nets {
    /// `[S, 8, H]`.
    input: Tensor,
    /// `[S, 1, H]`.
    input_bias: Tensor,
    /// `[S, H, 8]`.
    output: Tensor,
    /// `[S, 1, 8]`.
    output_bias: Tensor,
}

/// Which of the networks of a seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The policy (and the reference it starts as).
    Policy = 0,
    /// The reward.
    Reward = 1,
}

impl Nets {
    /// Draws the networks: input weights of the given standard deviation, output weights of 1/√H, biases 0.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn draw(seeds: u64, hidden: usize, input_deviation: f64, role: Role) -> Result<Self> {
        let (mut input, mut output) = (Vec::new(), Vec::new());
        for seed in 0..seeds {
            let mut random = RngStream::new(seed, Purpose::Init, hidden as u64, role as u64);
            let mut draw = |deviation: f64| (deviation * random.normal()) as f32;
            input.extend((0..SIZE * hidden).map(|_| draw(input_deviation)));
            output.extend((0..SIZE * hidden).map(|_| draw(1.0 / (hidden as f64).sqrt())));
        }
        let (s, h, n) = (seeds as i64, hidden as i64, SIZE as i64);
        let zeros = |last: i64| Tensor::f_zeros([s, 1, last], (Kind::Float, align_core::tch::Device::Cpu));
        let nets = Self {
            input: Tensor::f_from_slice(&input)?.f_reshape([s, n, h])?,
            input_bias: zeros(h)?,
            output: Tensor::f_from_slice(&output)?.f_reshape([s, h, n])?,
            output_bias: zeros(n)?,
        };
        nets.into_leaves()
    }

    /// Copies the networks as they are now.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn copy(&self) -> Result<Self> {
        let _guard = no_grad();
        let copied = |t: &Tensor| -> Result<Tensor> {
            let mut copy = t.f_detach()?.f_zeros_like()?;
            copy.f_copy_(t)?;
            Ok(copy)
        };
        let nets = Self {
            input: copied(&self.input)?,
            input_bias: copied(&self.input_bias)?,
            output: copied(&self.output)?,
            output_bias: copied(&self.output_bias)?,
        };
        nets.into_leaves()
    }

    fn into_leaves(self) -> Result<Self> {
        Ok(Self {
            input: self.input.f_set_requires_grad(true)?,
            input_bias: self.input_bias.f_set_requires_grad(true)?,
            output: self.output.f_set_requires_grad(true)?,
            output_bias: self.output_bias.f_set_requires_grad(true)?,
        })
    }

    /// Computes the 8 numbers of every prompt, `[S, 8, 8]`.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn forward(&self) -> Result<Tensor> {
        let hidden = self.input.f_add(&self.input_bias)?.f_tanh()?;
        Ok(hidden.f_bmm(&self.output)?.f_add(&self.output_bias)?)
    }

    /// Computes the log-probabilities of every prompt's responses, `[S, 8, 8]`.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn log_policy(&self) -> Result<Tensor> {
        Ok(self.forward()?.f_log_softmax(-1, Kind::Float)?)
    }

    fn parameters(&self) -> Vec<Parameter> {
        let named = [
            ("input", &self.input),
            ("input_bias", &self.input_bias),
            ("output", &self.output),
            ("output_bias", &self.output_bias),
        ];
        let parameter = |(name, tensor): (&str, &Tensor)| Parameter {
            name: name.to_owned(),
            tensor: tensor.shallow_clone(),
            decay: false,
        };
        named.into_iter().map(parameter).collect()
    }
}

/// Adam on the networks of all seeds: their losses are summed, and because no parameter belongs to two seeds the
/// update of each is that of its own loss.
#[derive(Debug)]
pub struct Descent {
    parameters: Vec<Parameter>,
    optimizer: AdamW,
    update: Update,
}

impl Descent {
    /// Prepares Adam with a constant rate for the networks.
    pub fn new(nets: &Nets, learning_rate: f64) -> Self {
        let parameters = nets.parameters();
        let optimizer = AdamW::new(&parameters, &OptimizerConfig::default());
        Self { parameters, optimizer, update: Update { learning_rate, scale: 1.0, threads: 1 } }
    }

    /// Takes one step down a scalar loss.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn step(&mut self, loss: &Tensor) -> Result<()> {
        let leaves: Vec<&Tensor> = self.parameters.iter().map(|p| &p.tensor).collect();
        let gradients = Tensor::f_run_backward(&[loss], &leaves, false, false)?;
        let gradients: Vec<Option<Tensor>> = gradients.into_iter().map(Some).collect();
        Ok(self.optimizer.step(&mut self.parameters, &gradients, self.update)?)
    }
}
