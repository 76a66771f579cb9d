//! Kernels against naive loops, the forward against the training forward, blocks and rows by themselves.

mod blocks;
mod forward;
mod kernels;
mod row;

use align_core::align_types::{Purpose, RngStream};

use super::lanes::{Lane, WIDTH};

fn stream(rank: u64) -> RngStream {
    RngStream::new(9, Purpose::Synthetic, 0, rank)
}

fn normals(rng: &mut RngStream, count: usize) -> Vec<f32> {
    (0..count).map(|_| rng.normal() as f32).collect()
}

/// Lays rows of `width` numbers out in `stride` lanes each, zeros behind them.
fn rows(numbers: &[f32], width: usize, stride: usize) -> Vec<Lane> {
    let mut lanes = vec![Lane::default(); numbers.len() / width * stride];
    for (lanes, numbers) in lanes.chunks_mut(stride).zip(numbers.chunks(width)) {
        for (lane, numbers) in lanes.iter_mut().zip(numbers.chunks(WIDTH)) {
            lane.0[..numbers.len()].copy_from_slice(numbers);
        }
    }
    lanes
}
