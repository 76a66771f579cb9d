//! The weights of a model, packed for the kernels.

use align_core::tch::{Kind, Tensor};
use align_lm::{PlainDecoder, PlainLayer, PlainLinear};

use super::lanes::{Lane, WIDTH};
use crate::Result;

/// The shape of a decoder.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Shape {
    pub(crate) vocab: usize,
    pub(crate) hidden: usize,
    pub(crate) inner: usize,
    pub(crate) heads: usize,
    pub(crate) key_value_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) context: usize,
    pub(crate) eps: f32,
    pub(crate) window: Option<usize>,
    pub(crate) layers: usize,
}

impl Shape {
    /// Lanes of a head's values.
    pub(crate) fn value_lanes(&self) -> usize {
        self.head_dim.div_ceil(WIDTH)
    }

    /// Lanes that keys and values of one layer and head take in a block.
    pub(crate) fn unit_lanes(&self) -> usize {
        self.head_dim + self.value_lanes() * WIDTH
    }

    /// Lanes of a block of 16 positions.
    pub(crate) fn block_lanes(&self) -> usize {
        self.layers * self.key_value_heads * self.unit_lanes()
    }
}

/// A linear layer, its outputs in panels of 16.
#[derive(Debug, Default)]
pub(crate) struct Packed {
    pub(crate) inputs: usize,
    pub(crate) panels: Vec<Lane>,
    pub(crate) bias: Option<Vec<Lane>>,
}

impl Packed {
    /// Packs linear layers one after the other, as if their outputs were those of one.
    fn joined(parts: &[&PlainLinear], read: &mut Reader) -> Result<Self> {
        let outputs: usize = parts.iter().map(|part| rows(&part.weight)).sum();
        let mut packed = Self::empty(parts, outputs)?;
        let mut first = 0;
        for part in parts {
            packed.take(part, read, |output| first + output)?;
            first += rows(&part.weight);
        }
        Ok(packed)
    }

    /// Packs gate and up so that panels of 16 alternate.
    fn alternating(gate: &PlainLinear, up: &PlainLinear, read: &mut Reader) -> Result<Self> {
        let outputs = rows(&gate.weight).max(rows(&up.weight)).next_multiple_of(WIDTH);
        let mut packed = Self::empty(&[gate, up], 2 * outputs)?;
        for (side, part) in [gate, up].into_iter().enumerate() {
            packed.take(part, read, |output| (output / WIDTH * 2 + side) * WIDTH + output % WIDTH)?;
        }
        Ok(packed)
    }

    fn empty(parts: &[&PlainLinear], outputs: usize) -> Result<Self> {
        let inputs = parts.first().and_then(|part| part.weight.size().get(1).copied()).unwrap_or(0) as usize;
        // Tiles are two panels wide at least.
        let panels = outputs.div_ceil(2 * WIDTH) * 2;
        let biased = parts.iter().any(|part| part.bias.is_some());
        Ok(Self {
            inputs,
            panels: vec![Lane::default(); panels * inputs],
            bias: biased.then(|| vec![Lane::default(); panels]),
        })
    }

    /// Writes a layer; `place` gives the column of each of its outputs.
    fn take(&mut self, part: &PlainLinear, read: &mut Reader, place: impl Fn(usize) -> usize) -> Result<()> {
        let inputs = self.inputs.max(1);
        for (output, weights) in read.numbers(&part.weight)?.chunks_exact(inputs).enumerate() {
            let (panel, column) = (place(output) / WIDTH, place(output) % WIDTH);
            let lanes = self.panels.get_mut(panel * inputs..(panel + 1) * inputs).unwrap_or_default();
            for (lane, weight) in lanes.iter_mut().zip(weights) {
                lane.0[column] = *weight;
            }
        }
        if let (Some(all), Some(bias)) = (&mut self.bias, &part.bias) {
            for (output, bias) in read.numbers(bias)?.iter().enumerate() {
                if let Some(lane) = all.get_mut(place(output) / WIDTH) {
                    lane.0[place(output) % WIDTH] = *bias;
                }
            }
        }
        Ok(())
    }

    /// Lanes of a row of outputs.
    pub(crate) fn out_lanes(&self) -> usize {
        self.panels.len() / self.inputs.max(1)
    }
}

/// One block of the decoder.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) input_norm: Vec<Lane>,
    /// Queries, keys and values in this order.
    pub(crate) qkv: Packed,
    pub(crate) query_norm: Option<Vec<f32>>,
    pub(crate) key_norm: Option<Vec<f32>>,
    pub(crate) output: Packed,
    pub(crate) post_norm: Vec<Lane>,
    pub(crate) gate_up: Packed,
    pub(crate) down: Packed,
}

impl Layer {
    fn new(plain: &PlainLayer, read: &mut Reader) -> Result<Self> {
        let mut head = |norm: &Option<Tensor>| -> Result<Option<Vec<f32>>> {
            let Some(norm) = norm else { return Ok(None) };
            Ok(Some(read.numbers(norm)?.to_vec()))
        };
        Ok(Self {
            query_norm: head(&plain.query_norm)?,
            key_norm: head(&plain.key_norm)?,
            input_norm: read.lanes(&plain.input_norm)?,
            qkv: Packed::joined(&[&plain.query, &plain.key, &plain.value], read)?,
            output: Packed::joined(&[&plain.output], read)?,
            post_norm: read.lanes(&plain.post_norm)?,
            gate_up: Packed::alternating(&plain.gate, &plain.up, read)?,
            down: Packed::joined(&[&plain.down], read)?,
        })
    }
}

/// All weights of a decoder; read-only, shared by all threads.
#[derive(Debug)]
pub(crate) struct Weights {
    pub(crate) shape: Shape,
    /// A row of lanes for each token.
    pub(crate) embedding: Vec<Lane>,
    pub(crate) layers: Vec<Layer>,
    pub(crate) norm: Vec<Lane>,
    pub(crate) head: Packed,
    pub(crate) frequencies: Vec<f32>,
}

impl Weights {
    pub(crate) fn new(plain: &PlainDecoder) -> Result<Self> {
        let mut read = Reader::default();
        let hidden_lanes = plain.hidden_size.div_ceil(WIDTH);
        let mut embedding = vec![Lane::default(); plain.vocab_size * hidden_lanes];
        let rows = read.numbers(&plain.embedding)?.chunks_exact(plain.hidden_size.max(1));
        for (lanes, row) in embedding.chunks_exact_mut(hidden_lanes.max(1)).zip(rows) {
            fill(lanes, row);
        }
        let layers =
            plain.layers.iter().map(|layer| Layer::new(layer, &mut read)).collect::<Result<Vec<_>>>()?;
        Ok(Self {
            shape: Shape {
                vocab: plain.vocab_size,
                hidden: plain.hidden_size,
                inner: plain.intermediate_size,
                heads: plain.heads,
                key_value_heads: plain.key_value_heads.max(1),
                head_dim: plain.head_dim,
                context: plain.context_length,
                eps: plain.norm_eps as f32,
                window: plain.window,
                layers: layers.len(),
            },
            embedding,
            layers,
            norm: read.lanes(&plain.norm)?,
            head: Packed::joined(&[&plain.head], &mut read)?,
            frequencies: plain.frequencies.clone(),
        })
    }
}

/// Copies tensors out through one buffer.
#[derive(Default)]
struct Reader {
    buffer: Vec<f32>,
}

impl Reader {
    fn numbers(&mut self, tensor: &Tensor) -> Result<&[f32]> {
        let failed = crate::Error::model("packing");
        let count = tensor.numel();
        if self.buffer.len() < count {
            self.buffer.resize(count, 0.0);
        }
        let plain = tensor.f_detach().and_then(|t| t.f_to_kind(Kind::Float)).and_then(|t| t.f_contiguous());
        plain.and_then(|t| t.f_copy_data(&mut self.buffer, count)).map_err(|e| failed(e.into()))?;
        Ok(self.buffer.get(..count).unwrap_or_default())
    }

    fn lanes(&mut self, tensor: &Tensor) -> Result<Vec<Lane>> {
        let numbers = self.numbers(tensor)?;
        let mut lanes = vec![Lane::default(); numbers.len().div_ceil(WIDTH)];
        fill(&mut lanes, numbers);
        Ok(lanes)
    }
}

fn fill(lanes: &mut [Lane], numbers: &[f32]) {
    for (lane, numbers) in lanes.iter_mut().zip(numbers.chunks(WIDTH)) {
        for (lane, number) in lane.0.iter_mut().zip(numbers) {
            *lane = *number;
        }
    }
}

fn rows(weight: &Tensor) -> usize {
    weight.size().first().copied().unwrap_or(0) as usize
}

/// Cosines and sines of all positions up to a length, `[positions][head_dim / 2]`.
#[derive(Debug, Default)]
pub(crate) struct Rotation {
    cos: Vec<f32>,
    sin: Vec<f32>,
    pairs: usize,
}

impl Rotation {
    /// Makes the table long enough.
    pub(crate) fn reach(&mut self, positions: usize, frequencies: &[f32]) {
        self.pairs = frequencies.len();
        let have = self.cos.len() / self.pairs.max(1);
        for position in have..positions {
            for frequency in frequencies {
                // The angle is rounded to float32, as the training forward has it.
                let angle = f64::from(position as f32 * frequency);
                self.cos.push(angle.cos() as f32);
                self.sin.push(angle.sin() as f32);
            }
        }
    }

    pub(crate) fn at(&self, position: usize) -> (&[f32], &[f32]) {
        let range = position * self.pairs..(position + 1) * self.pairs;
        (self.cos.get(range.clone()).unwrap_or_default(), self.sin.get(range).unwrap_or_default())
    }
}
