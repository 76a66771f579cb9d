//! Attention of new rows over cached blocks of 16 positions.
//!
//! The softmax is done in two passes over scores that are kept, so that the order of every sum follows from
//! positions alone.

use std::ops::Range;

use super::kernels::{floats, floats_mut};
use super::lanes::{Lane, Level, WIDTH, exp, softmax, tile, tile_rows};

/// Positions in a block.
pub(crate) const BLOCK: usize = WIDTH;

/// The cached keys and values of one sequence, seen by one layer and one key-value head.
#[derive(Clone, Copy)]
pub(crate) struct Past<'a> {
    /// All blocks of the pool.
    pub(crate) blocks: &'a [Box<[Lane]>],
    /// The blocks of the sequence in order of positions.
    pub(crate) table: &'a [u32],
    /// Where layer and head begin in a block: keys as `[head_dim][16 positions]`, then for each 16 columns values as
    /// `[16 positions][16 columns]`.
    pub(crate) offset: usize,
    pub(crate) head_dim: usize,
}

impl<'a> Past<'a> {
    #[inline(always)]
    fn lanes(&self, block: usize, from: usize, count: usize) -> &'a [Lane] {
        let block = self.table.get(block).and_then(|id| self.blocks.get(*id as usize));
        let from = self.offset + from;
        block.and_then(|lanes| lanes.get(from..from + count)).unwrap_or_default()
    }

    #[inline(always)]
    fn keys(&self, block: usize) -> &'a [Lane] {
        self.lanes(block, 0, self.head_dim)
    }

    /// The first `count` positions of 16 columns of the values.
    #[inline(always)]
    fn values(&self, block: usize, panel: usize, count: usize) -> &'a [Lane] {
        self.lanes(block, self.head_dim + panel * BLOCK, count)
    }
}

/// Buffers that are kept from call to call.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    queries: Vec<Lane>,
    scores: Vec<Lane>,
}

/// Attention of one new position: the query heads that share a key-value head.
pub(crate) struct One<'a> {
    pub(crate) past: Past<'a>,
    /// `[heads of the group, head_dim]`.
    pub(crate) queries: &'a [f32],
    /// The positions that are seen.
    pub(crate) seen: Range<usize>,
    pub(crate) scale: f32,
    /// `[heads of the group, head_dim]`.
    pub(crate) out: &'a mut [f32],
    pub(crate) scratch: &'a mut Scratch,
}

/// Attends from one position.
#[inline(always)]
pub(crate) fn one<S: Level>(one: One<'_>) {
    let d = one.past.head_dim.max(1);
    let mut heads = one.queries.chunks(4 * d).zip(one.out.chunks_mut(4 * d));
    for (queries, out) in heads.by_ref() {
        let call = Few { past: one.past, queries, seen: one.seen.clone(), scale: one.scale };
        match queries.len() / d {
            1 => few::<S, 1>(call, out, one.scratch),
            2 => few::<S, 2>(call, out, one.scratch),
            3 => few::<S, 3>(call, out, one.scratch),
            _ => few::<S, 4>(call, out, one.scratch),
        }
    }
}

struct Few<'a> {
    past: Past<'a>,
    queries: &'a [f32],
    seen: Range<usize>,
    scale: f32,
}

#[inline(always)]
fn few<S: Level, const R: usize>(call: Few<'_>, out: &mut [f32], scratch: &mut Scratch) {
    let Few { past, queries, seen, scale } = call;
    let d = past.head_dim;
    let blocks = seen.start / BLOCK..seen.end.div_ceil(BLOCK);
    let count = blocks.len();
    scratch.queries.resize(scratch.queries.len().max((d * R).div_ceil(WIDTH)), Lane::default());
    scratch.scores.resize(scratch.scores.len().max(count * R), Lane::default());
    let (mixed, _) = floats_mut(&mut scratch.queries).as_chunks_mut::<R>();
    for (r, query) in queries.chunks_exact(d).enumerate().take(R) {
        for (mixed, x) in mixed.iter_mut().zip(query) {
            mixed[r] = x * scale;
        }
    }
    let mixed = mixed.get(..d).unwrap_or_default();
    let scores = scratch.scores.get_mut(..count * R).unwrap_or_default();
    let mut at = 0;
    while at < count {
        // Four blocks keep enough sums in flight to hide the latency of an addition.
        if S::ROWS == 12 && at + 4 <= count {
            let keys = std::array::from_fn(|b| past.keys(blocks.start + at + b));
            score::<S, R, 4>(mixed, keys, scores, count, at);
            at += 4;
        } else {
            score::<S, R, 1>(mixed, [past.keys(blocks.start + at)], scores, count, at);
            at += 1;
        }
    }
    let first = blocks.start * BLOCK;
    let mut shares = [0.0; R];
    for (share, scores) in shares.iter_mut().zip(scores.chunks_exact_mut(count)) {
        *share = 1.0 / softmax::<S>(scores, seen.start - first..seen.end - first);
    }
    let mut rows = scores.chunks_exact(count).map(floats);
    let rows: [&[f32]; R] = std::array::from_fn(|_| rows.next().unwrap_or_default());
    let panels = d.div_ceil(WIDTH);
    let mut panel = 0;
    while panel < panels {
        let read = Read { past, blocks: blocks.clone(), end: seen.end, panel };
        if panel + 4 <= panels && S::ROWS == 12 {
            mix::<S, R, 4>(read, rows, &shares, out);
            panel += 4;
        } else if panel + 2 <= panels && S::ROWS > 1 {
            mix::<S, R, 2>(read, rows, &shares, out);
            panel += 2;
        } else {
            mix::<S, R, 1>(read, rows, &shares, out);
            panel += 1;
        }
    }
}

#[inline(always)]
fn score<S: Level, const R: usize, const B: usize>(
    mixed: &[[f32; R]],
    keys: [&[Lane]; B],
    scores: &mut [Lane],
    stride: usize,
    at: usize,
) {
    let mut acc = [[Lane::default(); B]; R];
    tile::<S, R, 0, R, B>(mixed, keys, &[], &mut acc);
    for (scores, acc) in scores.chunks_exact_mut(stride).zip(&acc) {
        for (score, acc) in scores.iter_mut().skip(at).zip(acc) {
            *score = *acc;
        }
    }
}

/// Which values are read.
struct Read<'a> {
    past: Past<'a>,
    blocks: Range<usize>,
    /// One past the last position.
    end: usize,
    panel: usize,
}

/// Sums the values of 16 · B columns, weighted by the rows.
#[inline(always)]
fn mix<S: Level, const R: usize, const B: usize>(
    read: Read<'_>,
    rows: [&[f32]; R],
    shares: &[f32; R],
    out: &mut [f32],
) {
    let d = read.past.head_dim;
    let mut acc = [[Lane::default(); B]; R];
    for (index, block) in read.blocks.clone().enumerate() {
        let count = (read.end - block * BLOCK).min(BLOCK);
        let x = rows.map(|row| row.get(index * BLOCK..index * BLOCK + count).unwrap_or_default());
        let values = std::array::from_fn(|b| read.past.values(block, read.panel + b, count));
        tile_rows::<S, R, B>(x, values, &mut acc);
    }
    for ((out, acc), share) in out.chunks_exact_mut(d).zip(&acc).zip(shares) {
        for (out, acc) in out.chunks_mut(WIDTH).skip(read.panel).zip(acc) {
            for (out, acc) in out.iter_mut().zip(&acc.0) {
                *out = acc * share;
            }
        }
    }
}

/// Attention of up to 16 rows of one sequence, a row being a query head of a new position.
pub(crate) struct Many<'a> {
    pub(crate) past: Past<'a>,
    /// Where each row's query begins in `source`, and the positions it sees.
    pub(crate) rows: &'a [(usize, Range<usize>)],
    pub(crate) source: &'a [f32],
    pub(crate) scale: f32,
    /// For each 16 columns of the values, `[16 rows][16 columns]`.
    pub(crate) out: &'a mut [Lane],
    pub(crate) scratch: &'a mut Scratch,
}

/// Attends from up to 16 rows side by side in a lane: keys and values are read once for all of them.
#[inline(always)]
pub(crate) fn many<S: Level>(many: Many<'_>) {
    let Many { past, rows, source, scale, out, scratch } = many;
    let d = past.head_dim;
    let start = rows.iter().map(|(_, seen)| seen.start).min().unwrap_or(0);
    let end = rows.iter().map(|(_, seen)| seen.end).max().unwrap_or(0);
    let blocks = start / BLOCK..end.div_ceil(BLOCK);
    let first = blocks.start * BLOCK;
    scratch.queries.resize(scratch.queries.len().max(d), Lane::default());
    scratch.scores.resize(scratch.scores.len().max(blocks.len() * BLOCK), Lane::default());
    let queries = scratch.queries.get_mut(..d).unwrap_or_default();
    queries.fill(Lane::default());
    let (mut from, mut to) = ([0i32; WIDTH], [0i32; WIDTH]);
    for (r, (at, seen)) in rows.iter().enumerate().take(WIDTH) {
        (from[r], to[r]) = ((seen.start - first) as i32, (seen.end - first) as i32);
        for (lane, x) in queries.iter_mut().zip(source.get(*at..*at + d).unwrap_or_default()) {
            lane.0[r] = x * scale;
        }
    }
    let scores = scratch.scores.get_mut(..blocks.len() * BLOCK).unwrap_or_default();
    for (scores, block) in scores.chunks_exact_mut(BLOCK).zip(blocks.clone()) {
        let keys = floats(past.keys(block)).as_chunks::<BLOCK>().0;
        let mut acc = [[Lane::default(); 1]; BLOCK];
        square::<S>(keys, queries, &mut acc);
        for (score, [acc]) in scores.iter_mut().zip(&acc) {
            *score = *acc;
        }
    }
    let scores = scores.get_mut(..end - first).unwrap_or_default();
    let shares = softmax_of_columns::<S>(scores, from, to);
    for (panel, out) in out.chunks_exact_mut(WIDTH).enumerate() {
        let mut acc = [[Lane::default(); 1]; WIDTH];
        for (scores, block) in scores.chunks(BLOCK).zip(blocks.clone()) {
            let values = past.values(block, panel, scores.len());
            square::<S>(floats(scores).as_chunks::<WIDTH>().0, values, &mut acc);
        }
        for ((out, [acc]), share) in out.iter_mut().zip(&acc).zip(shares.0) {
            for c in 0..WIDTH {
                out.0[c] = acc.0[c] * share;
            }
        }
    }
}

/// A tile of 16 rows by one lane, in parts that fit the registers.
#[inline(always)]
fn square<S: Level>(x: &[[f32; WIDTH]], w: &[Lane], acc: &mut [[Lane; 1]; WIDTH]) {
    if S::ROWS == 12 {
        tile::<S, WIDTH, 0, WIDTH, 1>(x, [w], &[], acc);
    } else {
        let (parts, _) = acc.as_chunks_mut::<4>();
        if let [a, b, c, d] = parts {
            tile::<S, WIDTH, 0, 4, 1>(x, [w], &[], a);
            tile::<S, WIDTH, 4, 4, 1>(x, [w], &[], b);
            tile::<S, WIDTH, 8, 4, 1>(x, [w], &[], c);
            tile::<S, WIDTH, 12, 4, 1>(x, [w], &[], d);
        }
    }
}

/// Turns scores `[positions][16 rows]` into unnormalised probabilities; returns one over the sum of each row.
#[inline(always)]
fn softmax_of_columns<S: Level>(scores: &mut [Lane], from: [i32; WIDTH], to: [i32; WIDTH]) -> Lane {
    // A finite start keeps lanes without a row from making NaN.
    let mut most = S::splat(f32::MIN);
    for (j, score) in scores.iter_mut().enumerate() {
        let j = j as i32;
        for c in 0..WIDTH {
            let seen = (j >= from[c]) & (j < to[c]);
            score.0[c] = if seen { score.0[c] } else { f32::NEG_INFINITY };
        }
        most = S::max(S::load(score), most);
    }
    let most = S::store(most);
    let mut total = S::splat(0.0);
    for score in scores {
        for c in 0..WIDTH {
            score.0[c] = exp::<S>(score.0[c] - most.0[c]);
        }
        total = S::mul_add(S::load(score), S::splat(1.0), total);
    }
    let mut total = S::store(total);
    for x in &mut total.0 {
        *x = 1.0 / *x;
    }
    total
}
