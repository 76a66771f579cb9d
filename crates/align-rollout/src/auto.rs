use align_core::align_types::{Generator, PromptGroup, TokenId, config::SamplingConfig};
use align_lm::Model;

use crate::{
    Engine, Error, Result, TensorGenerator,
    settings::{Settings, generator_methods},
    work::{Backend, Call, Sink},
};

/// Chooses the engine where it knows the model, and the tensor backend for every other model and for GPUs.
///
/// Completions end at any of the given tokens.
///
/// # Errors
/// A failure of libtorch.
pub fn auto_generator(model: &Model, stop_tokens: Vec<TokenId>) -> Result<AutoGenerator<'_>> {
    match Engine::new(model, stop_tokens.clone()) {
        Ok(engine) => Ok(AutoGenerator::Engine(Box::new(engine))),
        Err(Error::Unsupported) => {
            Ok(AutoGenerator::Tensor(Box::new(TensorGenerator::new(model, stop_tokens))))
        }
        Err(error) => Err(error),
    }
}

/// The backend that [`auto_generator`] chose. Settings and results are the same for both.
#[derive(Debug)]
#[non_exhaustive]
pub enum AutoGenerator<'a> {
    /// Plain Rust on the CPU.
    Engine(Box<Engine<'a>>),
    /// The model's own forward.
    Tensor(Box<TensorGenerator<'a>>),
}

impl<'a> AutoGenerator<'a> {
    fn backend(&self) -> &dyn Backend<'a> {
        match self {
            Self::Engine(engine) => engine.as_ref(),
            Self::Tensor(tensor) => tensor.as_ref(),
        }
    }

    fn backend_mut(&mut self) -> &mut dyn Backend<'a> {
        match self {
            Self::Engine(engine) => engine.as_mut(),
            Self::Tensor(tensor) => tensor.as_mut(),
        }
    }
}

impl<'a> Backend<'a> for AutoGenerator<'a> {
    fn settings(&self) -> &Settings<'a> {
        self.backend().settings()
    }

    fn settings_mut(&mut self) -> &mut Settings<'a> {
        self.backend_mut().settings_mut()
    }

    fn vocabulary(&self) -> usize {
        self.backend().vocabulary()
    }

    fn context(&self) -> Option<usize> {
        self.backend().context()
    }

    fn refresh(&mut self) -> Result<()> {
        self.backend_mut().refresh()
    }

    fn draw(&mut self, call: &Call<'_>, capacity: usize, sink: &mut Sink<'_>) -> Result<()> {
        self.backend_mut().draw(call, capacity, sink)
    }
}

generator_methods!(AutoGenerator);
