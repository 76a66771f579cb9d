use align_core::{
    Parameter,
    align_types::{Purpose, RngStream},
    tch::{Device, Kind, Tensor},
};

use crate::config::Output;
use crate::linear::{Layout, Linear};
use crate::matrix::Matrix;
use crate::model::{LoadOptions, Trainable};
use crate::nf4::{Codebook, Nf4};
use crate::norm::{Norm, NormKind};

/// What a tensor does in the model: it decides its initial value and whether weight decay applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// An embedding, or the matrix of the output layer.
    Matrix,
    /// The matrix of a linear layer in a block.
    Linear,
    /// The scale of a norm.
    Norm,
    /// A bias, or the scale of a norm that counts from one.
    Bias,
}

impl Role {
    /// Says whether weight decay applies.
    pub(crate) fn decays(self) -> bool {
        matches!(self, Self::Matrix | Self::Linear)
    }
}

/// One tensor of a model, under its name in the checkpoint.
#[derive(Debug)]
pub(crate) struct Weight {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) matrix: Matrix,
    /// The data type it has in the checkpoint it came from.
    pub(crate) stored: Kind,
}

impl Weight {
    /// Returns the leaf that is trained; `None` for numbers that never are.
    pub(crate) fn parameter(&self) -> Option<Parameter> {
        let tensor = self.matrix.dense()?.shallow_clone();
        Some(Parameter { name: self.name.clone(), tensor, decay: self.role.decays() })
    }
}

/// Where the tensors of a model come from when it is built: a checkpoint, a random stream, another model.
pub(crate) trait Source {
    /// Gives the tensor of this name and shape.
    fn tensor(&mut self, name: &str, shape: &[i64], role: Role) -> crate::Result<Tensor>;

    /// As [`Self::tensor`] in this number format, which is at hand at the cost of no more memory than that.
    fn tensor_in(&mut self, name: &str, shape: &[i64], role: Role, kind: Kind) -> crate::Result<Tensor> {
        Ok(self.tensor(name, shape, role)?.f_to_kind(kind)?)
    }

    /// Gives a matrix that is there in 4 bits already.
    fn packed(&self, _name: &str) -> Option<Nf4> {
        None
    }

    /// Says in which data type the tensor was stored.
    fn stored(&self, _name: &str) -> Kind {
        Kind::Float
    }
}

/// Hands a family its tensors one by one and keeps the list of them, which is the fixed order of parameters.
pub(crate) struct Builder<'a> {
    source: &'a mut dyn Source,
    options: LoadOptions,
    /// Made when the first matrix is quantised.
    book: Option<Codebook>,
    /// What stands on top of the model.
    pub(crate) output: Output,
    weights: Vec<Weight>,
}

impl<'a> Builder<'a> {
    pub(crate) fn new(source: &'a mut dyn Source, options: &LoadOptions) -> Self {
        Self { source, options: *options, book: None, output: Output::default(), weights: Vec::new() }
    }

    fn trainable(&self) -> bool {
        self.options.trainable == Trainable::All
    }

    /// Takes the next tensor of the model.
    pub(crate) fn take(&mut self, name: String, shape: &[usize], role: Role) -> crate::Result<Tensor> {
        let shape: Vec<i64> = shape.iter().map(|n| *n as i64).collect();
        let stored = self.source.stored(&name);
        let tensor =
            match (self.trainable(), role.decays(), self.options.frozen.kind(stored, self.options.compute)) {
                (true, _, _) => self.source.tensor(&name, &shape, role)?.f_set_requires_grad(true)?,
                (false, true, Some(kind)) => self.source.tensor_in(&name, &shape, role, kind)?,
                (false, _, _) => self.source.tensor(&name, &shape, role)?,
            };
        let matrix = Matrix::Dense(tensor.shallow_clone());
        self.weights.push(Weight { name, role, matrix, stored });
        Ok(tensor)
    }

    /// Takes the next matrix of a block, in the form in which such matrices are kept.
    fn take_matrix(&mut self, name: String, shape: [usize; 2]) -> crate::Result<Matrix> {
        let role = Role::Linear;
        if self.trainable() || !self.options.frozen.is_nf4() {
            return Ok(Matrix::Dense(self.take(name, &shape, role)?));
        }
        let packed = match self.source.packed(&name) {
            Some(packed) => packed,
            None => self.quantise(&name, shape.map(|n| n as i64))?,
        };
        let stored = self.source.stored(&name);
        self.weights.push(Weight { name, role, matrix: Matrix::Nf4(packed.shallow_clone()), stored });
        Ok(Matrix::Nf4(packed))
    }

    /// Reads one matrix in full, and frees it when it is packed.
    fn quantise(&mut self, name: &str, shape: [i64; 2]) -> crate::Result<Nf4> {
        let tensor = self.source.tensor(name, &shape, Role::Linear)?;
        let book = match self.book.take() {
            Some(book) => book,
            None => Codebook::new(self.options.device)?,
        };
        let packed = Nf4::quantise(&tensor, &book).map_err(|error| match error {
            align_core::Error::Input { why, .. } => align_core::Error::input(name, why),
            other => other,
        })?;
        self.book = Some(book);
        Ok(packed)
    }

    /// Takes a linear layer of a block: `{name}.weight` `[outputs, inputs]` and, if it has one, `{name}.bias`
    /// `[outputs]`.
    pub(crate) fn linear(
        &mut self,
        name: &str,
        inputs: usize,
        outputs: usize,
        bias: bool,
    ) -> crate::Result<Linear> {
        let weight = self.take_matrix(format!("{name}.weight"), [outputs, inputs])?;
        let bias = match bias {
            true => Some(self.take(format!("{name}.bias"), &[outputs], Role::Bias)?),
            false => None,
        };
        Ok(Linear::new(name, weight, bias, Layout::OutputsFirst))
    }

    /// Takes a linear layer of a block with a bias whose matrix is stored as `[inputs, outputs]`.
    pub(crate) fn linear_inputs_first(
        &mut self,
        name: &str,
        inputs: usize,
        outputs: usize,
    ) -> crate::Result<Linear> {
        let weight = self.take_matrix(format!("{name}.weight"), [inputs, outputs])?;
        let bias = Some(self.take(format!("{name}.bias"), &[outputs], Role::Bias)?);
        Ok(Linear::new(name, weight, bias, Layout::InputsFirst))
    }

    /// Takes the layer that makes logits, or whatever else comes behind the blocks: `{name}.weight` `[outputs,
    /// inputs]`, never in 4 bits.
    pub(crate) fn output_layer(
        &mut self,
        name: &str,
        inputs: usize,
        outputs: usize,
    ) -> crate::Result<Linear> {
        let weight = self.take(format!("{name}.weight"), &[outputs, inputs], Role::Matrix)?;
        Ok(Linear::new(name, Matrix::Dense(weight), None, Layout::OutputsFirst))
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
        Ok(Norm::new(weight, bias, width, kind))
    }

    /// Ends the building.
    pub(crate) fn finish(self) -> Vec<Weight> {
        self.weights
    }
}

/// The matrix of a score head, and that of a value head.
pub(crate) const SCORE: &str = "score.weight";
pub(crate) const VALUE: &str = "v_head.weight";
const SCALAR_HEADS: [&str; 2] = [SCORE, VALUE];

/// Random initial weights: matrices normal with the given standard deviation, norms one, biases zero. The matrices of
/// score and value heads of H inputs have standard deviation 1/√(H + 1), as in arXiv:2009.01325.
///
/// Every tensor has a stream of its own, so its values depend on the seed, its place in the model and nothing else.
#[derive(Debug)]
pub(crate) struct RandomInit {
    pub(crate) seed: u64,
    pub(crate) std: f64,
    pub(crate) device: Device,
    pub(crate) index: u64,
}

impl RandomInit {
    /// Draws the tensors of a head; its streams are those of no tensor of a model.
    pub(crate) fn head(seed: u64, device: Device) -> Self {
        Self { seed, std: 0.0, device, index: 1 << 32 }
    }
}

impl Source for RandomInit {
    fn tensor(&mut self, name: &str, shape: &[i64], role: Role) -> crate::Result<Tensor> {
        let options = (Kind::Float, self.device);
        let index = self.index;
        self.index += 1;
        Ok(match role {
            Role::Norm => Tensor::f_ones(shape, options)?,
            Role::Bias => Tensor::f_zeros(shape, options)?,
            Role::Matrix | Role::Linear => {
                let tensor = Tensor::f_empty(shape, options)?;
                let std = match SCALAR_HEADS.contains(&name) {
                    true => 1.0 / (shape.last().map_or(1.0, |inputs| *inputs as f64) + 1.0).sqrt(),
                    false => self.std,
                };
                Self::fill(&tensor.f_view([-1])?, std, RngStream::new(self.seed, Purpose::Init, 0, index))?;
                tensor
            }
        })
    }
}

impl RandomInit {
    /// Fills a flat tensor piece by piece: libtorch allocates it, so that a model that does not fit into memory is
    /// an error.
    fn fill(flat: &Tensor, std: f64, mut rng: RngStream) -> crate::Result<()> {
        const CHUNK: i64 = 1 << 20;
        let count = flat.numel() as i64;
        let mut start = 0;
        while start < count {
            let len = CHUNK.min(count - start);
            let values: Vec<f32> = (0..len).map(|_| (rng.normal() * std) as f32).collect();
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

    fn dense(&self, name: &str) -> crate::Result<&Tensor> {
        let tensor = self.find(name).and_then(|weight| weight.matrix.dense());
        Ok(tensor.ok_or_else(|| align_core::Error::input(name, "the other model has no such tensor"))?)
    }
}

impl Source for Existing<'_> {
    fn tensor(&mut self, name: &str, shape: &[i64], role: Role) -> crate::Result<Tensor> {
        let kind = self.dense(name)?.kind();
        self.tensor_in(name, shape, role, kind)
    }

    fn tensor_in(&mut self, name: &str, _: &[i64], _: Role, kind: Kind) -> crate::Result<Tensor> {
        let alias = self.dense(name)?.f_detach()?;
        if !self.copy {
            return Ok(alias);
        }
        let mut copy = Tensor::f_empty(alias.size().as_slice(), (kind, alias.device()))?;
        copy.f_copy_(&alias)?;
        Ok(copy)
    }

    fn packed(&self, name: &str) -> Option<Nf4> {
        match &self.find(name)?.matrix {
            Matrix::Nf4(packed) => Some(packed.shallow_clone()),
            Matrix::Dense(_) => None,
        }
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
