use std::cell::Cell;
use std::fmt;

use align_core::{Error, PackedBatch, Result, no_grad, records_gradients, tch::Tensor};

use crate::attention::{PackedAttention, TailAttention};
use crate::rope::Rotation;
use crate::transformer::{Block, Transformer};

/// The rows of a forward pass: a batch, its tokens `[T]` and their positions `[T]`.
pub(crate) struct Rows {
    pub(crate) batch: PackedBatch,
    pub(crate) ids: Tensor,
    pub(crate) positions: Tensor,
    /// The rows that the last block computes; all if absent.
    pub(crate) tail: Option<Tensor>,
}

impl Rows {
    /// Computes a block, the last one for the rows of the tail alone.
    fn forward(
        &self,
        decoder: &Transformer,
        block: &Block,
        x: &Tensor,
        rotations: &[Rotation],
        index: usize,
        attention: &mut PackedAttention,
    ) -> Result<Tensor> {
        match &self.tail {
            Some(tail) if index + 1 == decoder.blocks.len() => {
                block.forward_rows(x, rotations, index, &mut TailAttention(attention), Some(tail))
            }
            _ => block.forward(x, rotations, index, attention),
        }
    }
}

/// A forward pass that kept the input of each block and nothing from inside the blocks (arXiv:1604.06174): the
/// backward pass computes a block again when its turn comes, so that only one block's activations exist at a time.
pub(crate) struct Segment {
    rows: Rows,
    rotations: Vec<Rotation>,
    attention: PackedAttention,
    /// What went into each block, `[T, H]`.
    inputs: Vec<Tensor>,
    /// What came out of the last one: a leaf, from which the rest of the graph goes on.
    output: Tensor,
}

impl Segment {
    /// Runs embedding and blocks; returns the hidden states after the last norm, `[T, H]`, whose graph begins behind
    /// the last block.
    pub(crate) fn record(
        decoder: &Transformer,
        rows: Rows,
        mut attention: PackedAttention,
    ) -> Result<(Tensor, Self)> {
        let rotations = decoder.rotations(&rows.positions)?;
        let mut inputs = Vec::with_capacity(decoder.blocks.len());
        let output = {
            let _guard = no_grad();
            let mut x = decoder.embedding.forward(&rows.ids, &rows.positions)?;
            for (index, block) in decoder.blocks.iter().enumerate() {
                let next = rows.forward(decoder, block, &x, &rotations, index, &mut attention)?;
                inputs.push(std::mem::replace(&mut x, next));
            }
            leaf(&x)?
        };
        let hidden = decoder.norm.forward(&output)?;
        Ok((hidden, Self { rows, rotations, attention, inputs, output }))
    }

    /// Continues the backward pass of a loss from the last block down to the embedding; `enter` is told the rows first.
    fn continue_backward(mut self, decoder: &Transformer, enter: &dyn Fn(&PackedBatch)) -> Result<()> {
        let mut gradient = self.output.f_grad()?;
        drop(self.output);
        if !gradient.defined() {
            // The loss did not depend on this pass.
            return Ok(());
        }
        enter(&self.rows.batch);
        while let Some(input) = self.inputs.pop() {
            let index = self.inputs.len();
            let Some(block) = decoder.blocks.get(index) else { continue };
            let input = leaf(&input)?;
            let output =
                self.rows.forward(decoder, block, &input, &self.rotations, index, &mut self.attention)?;
            pull(&output, &gradient)?;
            gradient = input.f_grad()?;
        }
        let embedded = decoder.embedding.forward(&self.rows.ids, &self.rows.positions)?;
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
        enter: &dyn Fn(&PackedBatch),
    ) -> Result<()> {
        let segments = self.0.take();
        if !segments.is_empty() && !records_gradients()? {
            return Err(Error::input("backward pass", "blocks cannot be computed again under `no_grad`"));
        }
        loss.f_backward()?;
        segments.into_iter().rev().try_for_each(|segment| segment.continue_backward(decoder, enter))
    }
}
