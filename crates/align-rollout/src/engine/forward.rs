//! One step of the decoder: rows of (sequence, position, token) in, logits of the wanted rows out.

use std::ops::Range;

use super::attend::{Many, One, Scratch};
use super::blocks::{Pool, Table};
use super::kernels::{Instructions, floats, floats_mut};
use super::lanes::{Lane, WIDTH};
use super::product::{Emit, Product};
use super::weights::{Layer, Packed, Rotation, Shape, Weights};

/// Consecutive rows of one sequence.
#[derive(Debug)]
pub(crate) struct Piece<'t> {
    /// The sequence, with room for the rows.
    pub(crate) table: &'t Table,
    /// Its first row in the step.
    pub(crate) row: usize,
    pub(crate) rows: usize,
    /// The position of the first row.
    pub(crate) position: usize,
    /// Whether it is part of a prompt. A row of a prompt and a drawn token are computed in different ways, each the
    /// same however many rows a step has.
    pub(crate) prompt: bool,
}

/// The rows of one step.
#[derive(Debug, Default)]
pub(crate) struct Step<'t> {
    pub(crate) tokens: Vec<u32>,
    pub(crate) pieces: Vec<Piece<'t>>,
    /// The rows whose logits are wanted.
    pub(crate) wanted: Vec<usize>,
}

/// What all threads share.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Decoder<'w> {
    pub(crate) weights: &'w Weights,
    pub(crate) rotation: &'w Rotation,
    pub(crate) kernels: Instructions,
}

/// The activations of a step; kept from step to step.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    x: Vec<Lane>,
    normed: Vec<Lane>,
    qkv: Vec<Lane>,
    attended: Vec<Lane>,
    inner: Vec<Lane>,
    logits: Vec<Lane>,
    transposed: Vec<f32>,
    attention: Attention,
}

/// Buffers of attention.
#[derive(Debug, Default)]
struct Attention {
    heads: Vec<Lane>,
    places: Vec<(usize, Range<usize>)>,
    scratch: Scratch,
}

/// Makes room in a buffer that only grows; the numbers in it are those of an earlier step.
fn room(buffer: &mut Vec<Lane>, lanes: usize) -> &mut [Lane] {
    if buffer.len() < lanes {
        buffer.resize(lanes, Lane::default());
    }
    buffer.get_mut(..lanes).unwrap_or_default()
}

impl Decoder<'_> {
    /// Computes a step and returns the logits of the wanted rows, one row of `out_lanes` of the head each.
    pub(crate) fn forward<'b>(
        &self,
        pool: &mut Pool,
        step: &Step<'_>,
        buffers: &'b mut Buffers,
    ) -> &'b mut [Lane] {
        let shape = &self.weights.shape;
        let (rows, stride) = (step.tokens.len(), shape.hidden.div_ceil(WIDTH));
        let x = room(&mut buffers.x, rows * stride);
        for (x, token) in x.chunks_exact_mut(stride).zip(&step.tokens) {
            let from = *token as usize * stride;
            x.copy_from_slice(self.weights.embedding.get(from..from + stride).unwrap_or_default());
        }
        for (index, layer) in self.weights.layers.iter().enumerate() {
            self.layer(index, layer, pool, step, buffers);
        }
        let Buffers { x, attended, normed, logits, transposed, .. } = buffers;
        let wanted = room(attended, step.wanted.len() * stride);
        for (to, row) in wanted.chunks_exact_mut(stride).zip(&step.wanted) {
            to.copy_from_slice(x.get(row * stride..(row + 1) * stride).unwrap_or_default());
        }
        let normed = room(normed, wanted.len());
        self.norm(wanted, &self.weights.norm, normed);
        let head = &self.weights.head;
        let logits = room(logits, step.wanted.len() * head.out_lanes());
        self.product(normed, stride, head, Emit::Store, logits, head.out_lanes(), transposed);
        logits
    }

    fn norm(&self, x: &[Lane], weight: &[Lane], out: &mut [Lane]) {
        let shape = &self.weights.shape;
        self.kernels.norm_rows(x, shape.hidden.div_ceil(WIDTH), shape.hidden, weight, shape.eps, out);
    }

    #[expect(clippy::too_many_arguments, reason = "a product has two matrices with their strides")]
    fn product(
        &self,
        x: &[Lane],
        stride: usize,
        packed: &Packed,
        emit: Emit,
        out: &mut [Lane],
        out_stride: usize,
        scratch: &mut Vec<f32>,
    ) {
        let (inputs, panels, bias) = (packed.inputs, &packed.panels, packed.bias.as_deref());
        self.kernels.product(Product { x, stride, inputs, panels, bias, emit, out, out_stride, scratch });
    }

    fn layer(&self, index: usize, layer: &Layer, pool: &mut Pool, step: &Step<'_>, buffers: &mut Buffers) {
        let shape = &self.weights.shape;
        let (rows, stride) = (step.tokens.len(), shape.hidden.div_ceil(WIDTH));
        let qkv_stride = layer.qkv.out_lanes();
        let attended_stride = (shape.heads * shape.head_dim).div_ceil(WIDTH);
        let inner_stride = shape.inner.div_ceil(WIDTH);
        let Buffers { x, normed, qkv, attended, inner, transposed, attention, .. } = buffers;
        let (x, normed) = (room(x, rows * stride), room(normed, rows * stride));
        let (qkv, attended) = (room(qkv, rows * qkv_stride), room(attended, rows * attended_stride));
        let inner = room(inner, rows * inner_stride);

        self.norm(x, &layer.input_norm, normed);
        self.product(normed, stride, &layer.qkv, Emit::Store, qkv, qkv_stride, transposed);
        self.place(index, layer, pool, step, qkv, qkv_stride);
        self.attend(index, pool, step, (qkv, qkv_stride), (attended, attended_stride), attention);
        self.product(attended, attended_stride, &layer.output, Emit::Add, x, stride, transposed);
        self.norm(x, &layer.post_norm, normed);
        self.product(normed, stride, &layer.gate_up, Emit::Gate, inner, inner_stride, transposed);
        self.product(inner, inner_stride, &layer.down, Emit::Add, x, stride, transposed);
    }

    /// Normalises and rotates queries and keys, and writes keys and values to the cache.
    fn place(
        &self,
        index: usize,
        layer: &Layer,
        pool: &mut Pool,
        step: &Step<'_>,
        qkv: &mut [Lane],
        stride: usize,
    ) {
        let Shape { heads, key_value_heads, head_dim, eps, .. } = self.weights.shape;
        for piece in &step.pieces {
            let rows = qkv.chunks_exact_mut(stride).skip(piece.row).take(piece.rows);
            for (row, position) in rows.zip(piece.position..) {
                let (cos, sin) = self.rotation.at(position);
                let row = floats_mut(row);
                let split = ((heads + key_value_heads) * head_dim).min(row.len());
                let (turned, values) = row.split_at_mut(split);
                for (head, x) in turned.chunks_exact_mut(head_dim).enumerate() {
                    let norm = if head < heads { &layer.query_norm } else { &layer.key_norm };
                    if let Some(norm) = norm {
                        self.kernels.norm_head(x, norm, eps);
                    }
                    self.kernels.rotate(x, cos, sin);
                }
                let keys = turned.chunks_exact(head_dim).skip(heads);
                for (head, (key, value)) in keys.zip(values.chunks_exact(head_dim)).enumerate() {
                    pool.write(piece.table, position, index * key_value_heads + head, key, value);
                }
            }
        }
    }

    /// Heads outside, rows inside: sequences that share a prompt find its keys in the nearest cache.
    fn attend(
        &self,
        index: usize,
        pool: &Pool,
        step: &Step<'_>,
        (qkv, stride): (&[Lane], usize),
        (attended, out_stride): (&mut [Lane], usize),
        buffers: &mut Attention,
    ) {
        let shape = &self.weights.shape;
        let group = shape.heads / shape.key_value_heads;
        let scale = 1.0 / (shape.head_dim as f32).sqrt();
        let Attention { heads, places, scratch } = buffers;
        let (source, out) = (floats(qkv), floats_mut(attended));
        for head in 0..shape.key_value_heads {
            // The heads of a group are neighbours.
            let (from, width) = (head * group * shape.head_dim, group * shape.head_dim);
            for piece in &step.pieces {
                let past = pool.past(piece.table, index, head);
                if !piece.prompt {
                    let at = piece.row * stride * WIDTH + from;
                    let to = piece.row * out_stride * WIDTH + from;
                    self.kernels.one(One {
                        past,
                        queries: source.get(at..at + width).unwrap_or_default(),
                        seen: self.seen(piece.position),
                        scale,
                        out: out.get_mut(to..to + width).unwrap_or_default(),
                        scratch,
                    });
                    continue;
                }
                let rows = piece.rows * group;
                for first in (0..rows).step_by(WIDTH) {
                    places.clear();
                    places.extend((first..rows.min(first + WIDTH)).map(|r| {
                        let (row, member) = (r / group, r % group);
                        let at = (piece.row + row) * stride * WIDTH + from + member * shape.head_dim;
                        (at, self.seen(piece.position + row))
                    }));
                    let heads = room(heads, shape.value_lanes() * WIDTH);
                    self.kernels.many(Many { past, rows: places, source, scale, out: heads, scratch });
                    for r in first..rows.min(first + WIDTH) {
                        let (row, member) = (r / group, r % group);
                        let to = (piece.row + row) * out_stride * WIDTH + from + member * shape.head_dim;
                        let out = out.get_mut(to..to + shape.head_dim).unwrap_or_default();
                        let columns = heads.iter().skip(r - first).step_by(WIDTH);
                        for (out, columns) in out.chunks_mut(WIDTH).zip(columns) {
                            out.copy_from_slice(columns.0.get(..out.len()).unwrap_or_default());
                        }
                    }
                }
            }
        }
    }

    /// The positions that a position sees.
    fn seen(&self, position: usize) -> Range<usize> {
        let start = self.weights.shape.window.map_or(0, |window| (position + 1).saturating_sub(window));
        start..position + 1
    }
}
