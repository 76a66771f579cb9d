use align_core::{
    Result,
    align_types::{Purpose, RngStream},
    tch::{Device, Kind, Tensor},
};

/// What a tensor does in the model: it decides its initial value and whether weight decay applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// A matrix of a linear layer, or an embedding.
    Matrix,
    /// The scale of a norm.
    Norm,
    /// A bias, or the scale of a norm that counts from one.
    Bias,
}

/// One tensor of a model, under its name in the checkpoint.
#[derive(Debug)]
pub(crate) struct Weight {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) tensor: Tensor,
    /// The data type it has in the checkpoint it came from.
    pub(crate) stored: Kind,
}

/// Where the tensors of a model come from when it is built: a checkpoint, a random stream, another model.
pub(crate) trait Source {
    /// Gives the tensor of this name and shape.
    fn tensor(&mut self, name: &str, shape: &[i64], role: Role) -> crate::Result<Tensor>;

    /// Says in which data type the tensor was stored.
    fn stored(&self, _name: &str) -> Kind {
        Kind::Float
    }
}

/// Hands a family its tensors one by one and keeps the list of them, which is the fixed order of parameters.
pub(crate) struct Builder<'a> {
    source: &'a mut dyn Source,
    trainable: bool,
    weights: Vec<Weight>,
}

impl<'a> Builder<'a> {
    pub(crate) fn new(source: &'a mut dyn Source, trainable: bool) -> Self {
        Self { source, trainable, weights: Vec::new() }
    }

    /// Takes the next tensor of the model.
    pub(crate) fn take(&mut self, name: String, shape: &[usize], role: Role) -> crate::Result<Tensor> {
        let shape: Vec<i64> = shape.iter().map(|n| *n as i64).collect();
        let tensor = self.source.tensor(&name, &shape, role)?;
        let tensor = if self.trainable { tensor.f_set_requires_grad(true)? } else { tensor };
        let stored = self.source.stored(&name);
        self.weights.push(Weight { name, role, tensor: tensor.shallow_clone(), stored });
        Ok(tensor)
    }

    /// Takes a linear layer: `{name}.weight` `[outputs, inputs]` and, if it has one, `{name}.bias` `[outputs]`.
    pub(crate) fn linear(
        &mut self,
        name: &str,
        inputs: usize,
        outputs: usize,
        bias: bool,
    ) -> crate::Result<Linear> {
        let weight = self.take(format!("{name}.weight"), &[outputs, inputs], Role::Matrix)?;
        let bias = match bias {
            true => Some(self.take(format!("{name}.bias"), &[outputs], Role::Bias)?),
            false => None,
        };
        Ok(Linear { weight, bias, layout: Layout::OutputsFirst })
    }

    /// Takes a linear layer with a bias whose matrix is stored as `[inputs, outputs]`.
    pub(crate) fn linear_inputs_first(
        &mut self,
        name: &str,
        inputs: usize,
        outputs: usize,
    ) -> crate::Result<Linear> {
        let weight = self.take(format!("{name}.weight"), &[inputs, outputs], Role::Matrix)?;
        let bias = Some(self.take(format!("{name}.bias"), &[outputs], Role::Bias)?);
        Ok(Linear { weight, bias, layout: Layout::InputsFirst })
    }

    /// Takes a norm: `{name}.weight` `[width]` and, if its kind has one, `{name}.bias` `[width]`.
    pub(crate) fn norm(&mut self, name: &str, width: usize, kind: NormKind) -> crate::Result<Norm> {
        let role = match kind {
            NormKind::RmsFromOne { .. } => Role::Bias,
            NormKind::Rms { .. } | NormKind::Layer { .. } => Role::Norm,
        };
        let weight = self.take(format!("{name}.weight"), &[width], role)?;
        let bias = match kind {
            NormKind::Layer { .. } => Some(self.take(format!("{name}.bias"), &[width], Role::Bias)?),
            NormKind::Rms { .. } | NormKind::RmsFromOne { .. } => None,
        };
        Ok(Norm { weight, bias, width: width as i64, kind })
    }

    /// Ends the building.
    pub(crate) fn finish(self) -> Vec<Weight> {
        self.weights
    }
}

/// How the matrix of a linear layer is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// `[outputs, inputs]`, as nearly everywhere.
    OutputsFirst,
    /// `[inputs, outputs]`, as in GPT-2.
    InputsFirst,
}

/// A linear layer over rows.
#[derive(Debug)]
pub(crate) struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
    layout: Layout,
}

impl Linear {
    /// Makes the output layer that shares its matrix with the embedding.
    pub(crate) fn tied(embedding: &Tensor) -> Self {
        Self { weight: embedding.shallow_clone(), bias: None, layout: Layout::OutputsFirst }
    }

    /// Maps `[T, inputs]` to `[T, outputs]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self.layout {
            Layout::OutputsFirst => Ok(x.f_linear(&self.weight, self.bias.as_ref())?),
            Layout::InputsFirst => Ok(x.f_linear(&self.weight.f_transpose(0, 1)?, self.bias.as_ref())?),
        }
    }

    /// As [`Self::forward`], with every row of the matrix scaled to length 1.
    pub(crate) fn forward_normalised(&self, x: &Tensor) -> Result<Tensor> {
        let lengths = self.weight.f_norm_scalaropt_dim(2.0, [1i64], true)?.f_clamp_min(1e-12)?;
        Ok(x.f_linear(&self.weight.f_div(&lengths)?, self.bias.as_ref())?)
    }
}

/// Which norm, and what it adds before the root.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum NormKind {
    /// Root mean square (arXiv:1910.07467): x / √(mean(x²) + eps) · weight.
    Rms { eps: f64 },
    /// The same with the factor 1 + weight (Gemma).
    RmsFromOne { eps: f64 },
    /// (x − mean(x)) / √(var(x) + eps) · weight + bias (arXiv:1607.06450).
    Layer { eps: f64 },
}

/// A norm over rows.
#[derive(Debug)]
pub(crate) struct Norm {
    weight: Tensor,
    bias: Option<Tensor>,
    width: i64,
    kind: NormKind,
}

impl Norm {
    /// Normalises the last dimension of `[..., width]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let rms = |weight: &Tensor, eps: f64| -> Result<Tensor> {
            Ok(x.f_internal_fused_rms_norm([self.width], Some(weight), eps)?.0)
        };
        match self.kind {
            NormKind::Rms { eps } => rms(&self.weight, eps),
            NormKind::RmsFromOne { eps } => rms(&self.weight.f_add_scalar(1.0)?, eps),
            NormKind::Layer { eps } => {
                Ok(x.f_layer_norm([self.width], Some(&self.weight), self.bias.as_ref(), eps, false)?)
            }
        }
    }
}

/// Random initial weights: matrices normal with the given standard deviation, norms one, biases zero.
///
/// Every tensor has a stream of its own, so its values depend on the seed, its place in the model and nothing else.
#[derive(Debug)]
pub(crate) struct RandomInit {
    pub(crate) seed: u64,
    pub(crate) std: f64,
    pub(crate) device: Device,
    pub(crate) index: u64,
}

impl Source for RandomInit {
    fn tensor(&mut self, _: &str, shape: &[i64], role: Role) -> crate::Result<Tensor> {
        let options = (Kind::Float, self.device);
        let index = self.index;
        self.index += 1;
        Ok(match role {
            Role::Norm => Tensor::f_ones(shape, options)?,
            Role::Bias => Tensor::f_zeros(shape, options)?,
            Role::Matrix => {
                let tensor = Tensor::f_empty(shape, options)?;
                self.fill(&tensor.f_view([-1])?, RngStream::new(self.seed, Purpose::Init, 0, index))?;
                tensor
            }
        })
    }
}

impl RandomInit {
    /// Fills a flat tensor piece by piece: libtorch allocates it, so that a model that does not fit into memory is
    /// an error.
    fn fill(&self, flat: &Tensor, mut rng: RngStream) -> crate::Result<()> {
        const CHUNK: i64 = 1 << 20;
        let count = flat.numel() as i64;
        let mut start = 0;
        while start < count {
            let len = CHUNK.min(count - start);
            let values: Vec<f32> = (0..len).map(|_| (rng.normal() * self.std) as f32).collect();
            flat.f_narrow(0, start, len)?.f_copy_(&Tensor::f_from_slice(&values)?)?;
            start += len;
        }
        Ok(())
    }
}

/// The tensors of another model: aliases of the same storage, or copies.
pub(crate) struct Existing<'a> {
    pub(crate) weights: &'a [Weight],
    pub(crate) copy: bool,
}

impl Existing<'_> {
    fn find(&self, name: &str) -> Option<&Weight> {
        self.weights.iter().find(|weight| weight.name == name)
    }
}

impl Source for Existing<'_> {
    fn tensor(&mut self, name: &str, _: &[i64], _: Role) -> crate::Result<Tensor> {
        let weight = self
            .find(name)
            .ok_or_else(|| align_core::Error::input(name, "the other model has no such tensor"))?;
        let alias = weight.tensor.f_detach()?;
        if !self.copy {
            return Ok(alias);
        }
        let mut copy = alias.f_empty_like()?;
        copy.f_copy_(&alias)?;
        Ok(copy)
    }

    fn stored(&self, name: &str) -> Kind {
        self.find(name).map_or(Kind::Float, |weight| weight.stored)
    }
}

/// The names and shapes that a model would take, without any weights.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) tensors: Vec<(String, Vec<i64>, Role)>,
}

impl Source for Plan {
    fn tensor(&mut self, name: &str, shape: &[i64], role: Role) -> crate::Result<Tensor> {
        self.tensors.push((name.to_owned(), shape.to_vec(), role));
        Ok(Tensor::f_empty([0i64], (Kind::Float, Device::Cpu))?)
    }
}
