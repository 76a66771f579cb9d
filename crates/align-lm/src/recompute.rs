use std::cell::Cell;
use std::fmt;

use align_core::{Error, Result, no_grad, records_gradients, tch::Tensor};

use crate::adapter::{Attached, Pass};
use crate::attention::PackedAttention;
use crate::rope::Rotation;
use crate::transformer::Transformer;

/// A forward pass that kept the input of each block and nothing from inside the blocks (arXiv:1604.06174): the
/// backward pass computes a block again when its turn comes, so that only one block's activations exist at a time.
pub(crate) struct Segment {
    ids: Tensor,
    positions: Tensor,
    rotations: Vec<Rotation>,
    attention: PackedAttention,
    /// What dropout was drawn from.
    pass: Option<Pass>,
    /// What went into each block, `[T, H]`.
    inputs: Vec<Tensor>,
    /// What came out of the last one: a leaf, from which the rest of the graph goes on.
    output: Tensor,
}

impl Segment {
    /// Runs embedding and blocks over tokens `[T]` at positions `[T]`; returns the hidden states after the last norm,
    /// `[T, H]`, whose graph begins behind the last block.
    pub(crate) fn record(
        decoder: &Transformer,
        ids: Tensor,
        positions: Tensor,
        mut attention: PackedAttention,
        pass: Option<Pass>,
    ) -> Result<(Tensor, Self)> {
        let rotations = decoder.rotations(&positions)?;
        let mut inputs = Vec::with_capacity(decoder.blocks.len());
        let output = {
            let _guard = no_grad();
            let mut x = decoder.embedding.forward(&ids, &positions)?;
            for (index, block) in decoder.blocks.iter().enumerate() {
                let next = block.forward(&x, &rotations, index, &mut attention)?;
                inputs.push(std::mem::replace(&mut x, next));
            }
            leaf(&x)?
        };
        let hidden = decoder.norm.forward(&output)?;
        Ok((hidden, Self { ids, positions, rotations, attention, pass, inputs, output }))
    }

    /// Continues the backward pass of a loss from the last block down to the embedding.
    fn backward(mut self, decoder: &Transformer, adapter: Option<&Attached>) -> Result<()> {
        let mut gradient = self.output.f_grad()?;
        drop(self.output);
        if !gradient.defined() {
            // The loss did not depend on this pass.
            return Ok(());
        }
        if let (Some(adapter), Some(pass)) = (adapter, self.pass.take()) {
            adapter.repeat(pass);
        }
        while let Some(input) = self.inputs.pop() {
            let index = self.inputs.len();
            let Some(block) = decoder.blocks.get(index) else { continue };
            let input = leaf(&input)?;
            let output = block.forward(&input, &self.rotations, index, &mut self.attention)?;
            pull(&output, &gradient)?;
            gradient = input.f_grad()?;
        }
        let embedded = decoder.embedding.forward(&self.ids, &self.positions)?;
        // A frozen embedding ends the way.
        if embedded.requires_grad() { pull(&embedded, &gradient) } else { Ok(()) }
    }
}

fn leaf(x: &Tensor) -> Result<Tensor> {
    Ok(x.f_detach()?.f_set_requires_grad(true)?)
}

/// Runs the backward pass of `output` for the gradient of a loss in it: that of Σ output · gradient, in which the
/// gradient is a constant.
fn pull(output: &Tensor, gradient: &Tensor) -> Result<()> {
    Ok(output.f_mul(gradient)?.f_sum(output.kind())?.f_backward()?)
}

/// The forward passes of a model that wait for their backward pass, oldest first.
#[derive(Default)]
pub(crate) struct Tape(Cell<Vec<Segment>>);

impl fmt::Debug for Tape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tape")
    }
}

impl Tape {
    pub(crate) fn push(&self, segment: Segment) {
        let mut segments = self.0.take();
        segments.push(segment);
        self.0.set(segments);
    }

    pub(crate) fn clear(&self) {
        self.0.take();
    }

    /// Runs the backward pass of a loss and of every pass that waits. Whatever happens, none waits afterwards.
    pub(crate) fn backward(
        &self,
        loss: &Tensor,
        decoder: &Transformer,
        adapter: Option<&Attached>,
    ) -> Result<()> {
        let segments = self.0.take();
        if !segments.is_empty() && !records_gradients()? {
            return Err(Error::input("backward pass", "blocks cannot be computed again under `no_grad`"));
        }
        loss.f_backward()?;
        segments.into_iter().rev().try_for_each(|segment| segment.backward(decoder, adapter))
    }
}
