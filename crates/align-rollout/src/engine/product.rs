//! Rows times a packed matrix.

use super::kernels::floats;
use super::lanes::{Lane, Level, WIDTH, exp, tile};

/// Calls a function with a number of rows that is known when it is compiled.
macro_rules! with_rows {
    ($count:expr, $call:ident :: < $level:ty, R $(, $more:ident)? > ( $($arg:expr),* )) => {
        match $count {
            1 => $call::<$level, 1 $(, $more)?>($($arg),*),
            2 => $call::<$level, 2 $(, $more)?>($($arg),*),
            3 => $call::<$level, 3 $(, $more)?>($($arg),*),
            4 => $call::<$level, 4 $(, $more)?>($($arg),*),
            5 => $call::<$level, 5 $(, $more)?>($($arg),*),
            6 => $call::<$level, 6 $(, $more)?>($($arg),*),
            7 => $call::<$level, 7 $(, $more)?>($($arg),*),
            8 => $call::<$level, 8 $(, $more)?>($($arg),*),
            9 => $call::<$level, 9 $(, $more)?>($($arg),*),
            10 => $call::<$level, 10 $(, $more)?>($($arg),*),
            11 => $call::<$level, 11 $(, $more)?>($($arg),*),
            _ => $call::<$level, 12 $(, $more)?>($($arg),*),
        }
    };
}

/// What becomes of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Emit {
    /// It replaces the output.
    Store,
    /// It is added to the output.
    Add,
    /// Panels are pairs of gate and up: SiLU(gate) · up replaces the output.
    Gate,
}

/// A matrix product and what becomes of it.
pub(crate) struct Product<'a> {
    /// The rows, `stride` lanes each.
    pub(crate) x: &'a [Lane],
    pub(crate) stride: usize,
    /// Numbers of a row that enter the product.
    pub(crate) inputs: usize,
    /// Panels of `inputs` lanes, 16 outputs each; an even number of panels.
    pub(crate) panels: &'a [Lane],
    /// One lane per panel.
    pub(crate) bias: Option<&'a [Lane]>,
    pub(crate) emit: Emit,
    /// The results, `out_stride` lanes for each row.
    pub(crate) out: &'a mut [Lane],
    pub(crate) out_stride: usize,
    /// Room for the rows in the order in which tiles read them.
    pub(crate) scratch: &'a mut Vec<f32>,
}

/// How rows are cut into tiles: even blocks, because 11 + 11 + 10 fill registers better than 12 + 12 + 8.
#[derive(Clone, Copy)]
struct Blocks {
    count: usize,
    base: usize,
    larger: usize,
}

impl Blocks {
    fn rows(&self, block: usize) -> usize {
        self.base + usize::from(block < self.larger)
    }
}

/// Multiplies all rows with all panels. A panel stays in the nearest cache while all rows pass it.
#[inline(always)]
pub(crate) fn product<S: Level>(p: Product<'_>) {
    let rows = p.x.len() / p.stride.max(1);
    let count = rows.div_ceil(S::ROWS);
    if p.inputs == 0 || count == 0 {
        return;
    }
    let blocks = Blocks { count, base: rows / count, larger: rows % count };
    transpose::<S>(p.x, p.stride, p.inputs, blocks, p.scratch);
    let most_together = if blocks.rows(0) <= S::ROWS / 2 { 4 } else { 2 };
    let panels = p.panels.len() / p.inputs;
    let mut panel = 0;
    while panel < panels {
        let together = if panel + most_together <= panels { most_together } else { 2 };
        let lanes = p.panels.get(panel * p.inputs..(panel + together) * p.inputs).unwrap_or_default();
        let next = p.panels.get((panel + together) * p.inputs..).unwrap_or_default();
        let mut first = 0;
        for block in 0..blocks.count {
            let count = blocks.rows(block);
            // The last block of rows fetches the next panels while it works.
            let next = if block + 1 == blocks.count { next } else { &[] };
            let x = p.scratch.get(first * p.inputs..(first + count) * p.inputs).unwrap_or_default();
            let out = p.out.get_mut(first * p.out_stride..(first + count) * p.out_stride).unwrap_or_default();
            let to = To { out, stride: p.out_stride, panel, bias: p.bias, emit: p.emit };
            match together {
                4 => block_of::<S, 4>(x, Panels { lanes, next, inputs: p.inputs }, count, to),
                _ => block_of::<S, 2>(x, Panels { lanes, next, inputs: p.inputs }, count, to),
            }
            first += count;
        }
        panel += together;
    }
}

/// Writes each block of rows as `[inputs][rows of the block]`.
#[inline(always)]
fn transpose<S: Level>(x: &[Lane], stride: usize, inputs: usize, blocks: Blocks, out: &mut Vec<f32>) {
    let total = x.len() / stride * inputs;
    if out.len() < total {
        out.resize(total, 0.0);
    }
    let mut first = 0;
    for block in 0..blocks.count {
        let count = blocks.rows(block);
        let rows = x.get(first * stride..).unwrap_or_default();
        let out = out.get_mut(first * inputs..(first + count) * inputs).unwrap_or_default();
        with_rows!(count, transpose_block::<S, R>(rows, stride, out));
        first += count;
    }
}

#[inline(always)]
fn transpose_block<S: Level, const R: usize>(x: &[Lane], stride: usize, out: &mut [f32]) {
    let (out, _) = out.as_chunks_mut::<R>();
    for (r, row) in x.chunks_exact(stride).enumerate().take(R) {
        for (out, x) in out.iter_mut().zip(floats(row)) {
            out[r] = *x;
        }
    }
}

/// Where a block of rows writes its panels.
struct To<'a> {
    out: &'a mut [Lane],
    stride: usize,
    panel: usize,
    bias: Option<&'a [Lane]>,
    emit: Emit,
}

/// The panels of a tile, and those that come after.
struct Panels<'a> {
    lanes: &'a [Lane],
    next: &'a [Lane],
    inputs: usize,
}

#[inline(always)]
fn block_of<S: Level, const B: usize>(x: &[f32], panels: Panels<'_>, count: usize, to: To<'_>) {
    with_rows!(count, panels_of::<S, R, B>(x, panels, to));
}

#[inline(always)]
fn panels_of<S: Level, const R: usize, const B: usize>(x: &[f32], from: Panels<'_>, to: To<'_>) {
    // Tiles that the level never asks for, or that would not fit its registers, are not compiled.
    if R > S::ROWS || (B == 4 && R > S::ROWS / 2) {
        return;
    }
    let mut panels = from.lanes.chunks_exact(from.inputs);
    let panels: [&[Lane]; B] = std::array::from_fn(|_| panels.next().unwrap_or_default());
    let mut acc = [[Lane::default(); B]; R];
    tile::<S, R, 0, R, B>(x.as_chunks::<R>().0, panels, from.next, &mut acc);
    if let Some(bias) = to.bias.and_then(|bias| bias.get(to.panel..to.panel + B)) {
        for acc in &mut acc {
            for (acc, bias) in acc.iter_mut().zip(bias) {
                for c in 0..WIDTH {
                    acc.0[c] += bias.0[c];
                }
            }
        }
    }
    for (row, acc) in to.out.chunks_exact_mut(to.stride).zip(&acc) {
        emit::<S, B>(to.emit, row, to.panel, acc);
    }
}

#[inline(always)]
fn emit<S: Level, const B: usize>(emit: Emit, row: &mut [Lane], panel: usize, acc: &[Lane; B]) {
    match emit {
        Emit::Store => {
            for (out, acc) in row.iter_mut().skip(panel).zip(acc) {
                *out = *acc;
            }
        }
        Emit::Add => {
            for (out, acc) in row.iter_mut().skip(panel).zip(acc) {
                for c in 0..WIDTH {
                    out.0[c] += acc.0[c];
                }
            }
        }
        Emit::Gate => {
            for (out, pair) in row.iter_mut().skip(panel / 2).zip(acc.as_chunks::<2>().0) {
                let [gate, up] = pair;
                for c in 0..WIDTH {
                    out.0[c] = gate.0[c] / (1.0 + exp::<S>(-gate.0[c])) * up.0[c];
                }
            }
        }
    }
}
