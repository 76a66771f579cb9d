use tch::{Device, Tensor};

use crate::{ActorCritic, CausalLm, Parameter, Result, ScoreModel, ValueModel};

/// What a training loop needs of a model, whatever the model computes.
///
/// It is there for the trait objects: a loop over `M: Trainable + ?Sized` trains a `dyn CausalLm` and a `dyn
/// ScoreModel` alike, and an [`Objective`](crate::Objective) over the same `M` asks the model for what it computes.
/// A model implements [`CausalLm`] or [`ScoreModel`]; nobody implements this.
///
/// ```
/// use align_core::{CausalLm, Result, ScoreModel, Trainable, clear_gradients};
///
/// fn forget<M: Trainable + ?Sized>(model: &M) -> Result<()> {
///     clear_gradients(model.parameters().iter().map(|parameter| &parameter.tensor))
/// }
///
/// fn forget_both(policy: &(dyn CausalLm + 'static), reward: &(dyn ScoreModel + 'static)) -> Result<()> {
///     forget(policy)?;
///     forget(reward)
/// }
/// ```
pub trait Trainable: Send + 'static {
    /// Returns the device of the weights.
    fn device(&self) -> Device;

    /// Returns the trainable parameters in a fixed order.
    fn parameters(&self) -> Vec<Parameter>;

    /// Makes a model over the same storage with leaves of its own, for another thread.
    ///
    /// # Errors
    /// libtorch refuses.
    fn replicate(&self) -> Result<Box<Self>>;

    /// As [`CausalLm::begin_step`].
    fn begin_step(&self, step: Option<u64>);

    /// As [`CausalLm::backward`].
    ///
    /// # Errors
    /// libtorch refuses.
    fn backward(&self, loss: &Tensor) -> Result<()>;

    /// As [`CausalLm::discard_forwards`].
    fn discard_forwards(&self);
}

/// Both traits have these methods; the words differ in nothing but the trait.
macro_rules! trainable {
    ($model:ident) => {
        impl Trainable for dyn $model {
            fn device(&self) -> Device {
                $model::device(self)
            }

            fn parameters(&self) -> Vec<Parameter> {
                $model::parameters(self)
            }

            fn replicate(&self) -> Result<Box<Self>> {
                $model::replicate(self)
            }

            fn begin_step(&self, step: Option<u64>) {
                $model::begin_step(self, step);
            }

            fn backward(&self, loss: &Tensor) -> Result<()> {
                $model::backward(self, loss)
            }

            fn discard_forwards(&self) {
                $model::discard_forwards(self);
            }
        }
    };
}

trainable!(CausalLm);
trainable!(ScoreModel);
trainable!(ValueModel);
trainable!(ActorCritic);
