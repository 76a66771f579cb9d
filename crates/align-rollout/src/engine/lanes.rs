//! The arithmetic of the engine, written once over lanes of 16 numbers and compiled for each instruction set by
//! [`super::kernels`].
//!
//! Every number of a result is accumulated in one fixed order, whatever number of rows is computed together: a row
//! has the same bits alone and among others. All shapes are made by [`super::weights`] and [`super::blocks`]; slices
//! that are too short end a loop early instead of reading beyond.

use super::kernels::floats_mut;

/// Numbers in a lane.
pub(crate) const WIDTH: usize = 16;

/// Sixteen numbers side by side, one cache line.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[repr(C, align(64))]
pub(crate) struct Lane(pub(crate) [f32; WIDTH]);

/// What an instruction set is good at.
///
/// The register tiles are written in vectors of 16 numbers, because a compiler left to itself turns some tile sizes
/// into gathers; everything else is plain loops over lanes.
pub(crate) trait Level {
    /// Whether multiply-add is one instruction; as a library call it would be slower than two.
    const FUSED: bool;
    /// Rows of a register tile two lanes wide.
    const ROWS: usize;
    /// A lane in registers.
    type Vector: Copy;

    fn load(lane: &Lane) -> Self::Vector;
    fn store(vector: Self::Vector) -> Lane;
    fn splat(x: f32) -> Self::Vector;
    fn mul(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// Computes `a · b + c`.
    fn mul_add(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    fn max(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// Asks for a lane that will be read soon.
    fn prefetch(lane: &Lane);
}

#[inline(always)]
pub(super) fn fma<S: Level>(a: f32, b: f32, c: f32) -> f32 {
    if S::FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// Adds `x[i][FROM + r] · w[b][i]` over i to `acc[r][b]`: the register tile that all matrix work is made of.
///
/// `next` is what will be read after: weights come from far away, and a tile has time to fetch them.
/// Loops instead of closures: a closure that is not inlined would be compiled for another instruction set.
#[inline(always)]
pub(super) fn tile<S: Level, const X: usize, const FROM: usize, const R: usize, const B: usize>(
    x: &[[f32; X]],
    w: [&[Lane]; B],
    next: &[Lane],
    acc: &mut [[Lane; B]; R],
) {
    let mut k = x.len();
    for w in &w {
        k = k.min(w.len());
    }
    let (x, w) = (&x[..k], first_lanes(w, k));
    let mut local = load_tile::<S, R, B>(acc);
    for i in 0..k {
        let mut row = [S::load(&ZERO); B];
        for b in 0..B {
            row[b] = S::load(&w[b][i]);
        }
        for lane in next.iter().skip(i * B).take(B) {
            S::prefetch(lane);
        }
        for r in 0..R {
            for b in 0..B {
                local[r][b] = S::mul_add(S::splat(x[i][FROM + r]), row[b], local[r][b]);
            }
        }
    }
    store_tile::<S, R, B>(local, acc);
}

/// As [`tile`], from rows that lie apart.
#[inline(always)]
pub(super) fn tile_rows<S: Level, const R: usize, const B: usize>(
    x: [&[f32]; R],
    w: [&[Lane]; B],
    acc: &mut [[Lane; B]; R],
) {
    let mut k = x.iter().fold(usize::MAX, |k, x| k.min(x.len()));
    for w in &w {
        k = k.min(w.len());
    }
    let w = first_lanes(w, k);
    let mut rows = x;
    for r in 0..R {
        rows[r] = &x[r][..k];
    }
    let mut local = load_tile::<S, R, B>(acc);
    for i in 0..k {
        let mut row = [S::load(&ZERO); B];
        for b in 0..B {
            row[b] = S::load(&w[b][i]);
        }
        for r in 0..R {
            for b in 0..B {
                local[r][b] = S::mul_add(S::splat(rows[r][i]), row[b], local[r][b]);
            }
        }
    }
    store_tile::<S, R, B>(local, acc);
}

const ZERO: Lane = Lane([0.0; WIDTH]);

#[inline(always)]
fn first_lanes<const B: usize>(w: [&[Lane]; B], k: usize) -> [&[Lane]; B] {
    let mut first = w;
    for b in 0..B {
        first[b] = &w[b][..k];
    }
    first
}

#[inline(always)]
fn load_tile<S: Level, const R: usize, const B: usize>(acc: &[[Lane; B]; R]) -> [[S::Vector; B]; R] {
    let mut local = [[S::load(&ZERO); B]; R];
    for r in 0..R {
        for b in 0..B {
            local[r][b] = S::load(&acc[r][b]);
        }
    }
    local
}

#[inline(always)]
fn store_tile<S: Level, const R: usize, const B: usize>(
    local: [[S::Vector; B]; R],
    acc: &mut [[Lane; B]; R],
) {
    for r in 0..R {
        for b in 0..B {
            acc[r][b] = S::store(local[r][b]);
        }
    }
}

/// e^x to two units in the last place; 0 below -87, the largest finite power above 88.
#[inline(always)]
pub(super) fn exp<S: Level>(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    // ln 2 in two parts, so that n times the first is exact; 1.5 · 2^23 rounds to whole numbers.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const ROUND: f32 = 12_582_912.0;
    let inside = x.clamp(-87.0, 88.0);
    let shifted = fma::<S>(inside, LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = fma::<S>(n, -LN2_LOW, fma::<S>(n, -LN2_HIGH, inside));
    // Taylor series on |r| <= ln(2)/2: the first term left out is below 1e-8.
    let mut p = 1.0 / 5040.0;
    for factor in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = fma::<S>(p, r, factor);
    }
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    if x < -87.0 { 0.0 } else { p * power }
}

/// Adds the numbers of a lane in a fixed order.
#[inline(always)]
pub(super) fn sum_of(lane: Lane) -> f32 {
    let mut x = lane.0;
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            x[i] += x[i + half];
        }
    }
    x[0]
}

#[inline(always)]
fn largest_of(lane: Lane) -> f32 {
    lane.0.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

/// Writes x / √(mean(x²) + eps) · weight of each row; rows are `stride` lanes, their first `width` numbers count.
#[inline(always)]
pub(crate) fn norm_rows<S: Level>(
    x: &[Lane],
    stride: usize,
    width: usize,
    weight: &[Lane],
    eps: f32,
    out: &mut [Lane],
) {
    for (x, out) in x.chunks_exact(stride).zip(out.chunks_exact_mut(stride)) {
        // Numbers beyond the width are zero in every row.
        let mut squares = S::splat(0.0);
        for x in x {
            squares = S::mul_add(S::load(x), S::load(x), squares);
        }
        let scale = S::splat(1.0 / (sum_of(S::store(squares)) / width as f32 + eps).sqrt());
        for ((x, weight), out) in x.iter().zip(weight).zip(out) {
            *out = S::store(S::mul(S::mul(S::load(x), scale), S::load(weight)));
        }
    }
}

/// Normalises one head as [`norm_rows`] does.
#[inline(always)]
pub(crate) fn norm_head<S: Level>(head: &mut [f32], weight: &[f32], eps: f32) {
    let mut squares = Lane::default();
    for x in head.chunks(WIDTH) {
        for (sum, x) in squares.0.iter_mut().zip(x) {
            *sum = fma::<S>(*x, *x, *sum);
        }
    }
    let scale = 1.0 / (sum_of(squares) / head.len().max(1) as f32 + eps).sqrt();
    for (x, weight) in head.iter_mut().zip(weight) {
        *x = *x * scale * weight;
    }
}

/// Turns each pair (i, i + D/2) of a head by its angle.
#[inline(always)]
pub(crate) fn rotate<S: Level>(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (first, second) = head.split_at_mut(head.len() / 2);
    for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
    }
}

/// Writes exp((x - largest) / temperature) of a row of logits, and the sum of each segment of [`SEGMENT`] lanes.
#[inline(always)]
pub(crate) fn exponentials<S: Level>(
    logits: &[Lane],
    largest: f32,
    inverse_temperature: f32,
    weights: &mut [Lane],
    sums: &mut [f64],
) {
    let segments = logits.chunks(SEGMENT).zip(weights.chunks_mut(SEGMENT));
    for ((logits, weights), sum) in segments.zip(sums) {
        let mut total = S::splat(0.0);
        for (x, weight) in logits.iter().zip(weights) {
            for c in 0..WIDTH {
                weight.0[c] = exp::<S>((x.0[c] - largest) * inverse_temperature);
            }
            total = S::mul_add(S::load(weight), S::splat(1.0), total);
        }
        *sum = f64::from(sum_of(S::store(total)));
    }
}

/// Lanes whose weights are summed together.
pub(crate) const SEGMENT: usize = 4;

/// Finds the largest number; `None` when one is NaN or +inf, or all are -inf.
#[inline(always)]
pub(crate) fn largest<S: Level>(row: &[Lane]) -> Option<f32> {
    let mut most = S::splat(f32::NEG_INFINITY);
    let mut sound = true;
    for x in row {
        // False for NaN, too; the maximum would pass over it.
        for x in &x.0 {
            sound &= *x < f32::INFINITY;
        }
        most = S::max(S::load(x), most);
    }
    let most = largest_of(S::store(most));
    (sound && most > f32::NEG_INFINITY).then_some(most)
}

/// Turns scores of positions into unnormalised probabilities and returns their sum; those outside `seen` become 0.
#[inline(always)]
pub(crate) fn softmax<S: Level>(scores: &mut [Lane], seen: std::ops::Range<usize>) -> f32 {
    let all = floats_mut(scores);
    let end = seen.end.min(all.len());
    all[..seen.start.min(end)].fill(f32::NEG_INFINITY);
    all[end..].fill(f32::NEG_INFINITY);
    let mut most = S::splat(f32::NEG_INFINITY);
    for x in scores.iter() {
        most = S::max(S::load(x), most);
    }
    let most = largest_of(S::store(most));
    let mut total = S::splat(0.0);
    for x in scores {
        for c in 0..WIDTH {
            x.0[c] = exp::<S>(x.0[c] - most);
        }
        total = S::mul_add(S::load(x), S::splat(1.0), total);
    }
    sum_of(S::store(total))
}
