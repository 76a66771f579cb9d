//! Adding up the gradients of compute threads.

use align_core::{
    no_grad,
    storage::{f32_slice, f32_slice_mut, is_plain_f32},
    tch::Tensor,
};

use crate::{Result, parallel};

/// Numbers that a thread adds at a time; small enough to share work out evenly.
const CHUNK: usize = 1 << 16;
/// Below this many numbers a second thread costs more than it saves.
const WORTH_A_THREAD: usize = 1 << 18;

/// Adds lists of gradients of the same parameters into the first, in their order; one that is absent counts as 0.
///
/// Every number is added by itself, so the bits do not depend on the number of threads.
pub(crate) fn merge(
    lists: impl IntoIterator<Item = Vec<Option<Tensor>>>,
    threads: usize,
) -> Result<Vec<Option<Tensor>>> {
    let _guard = no_grad();
    let mut lists = lists.into_iter();
    let mut merged = lists.next().unwrap_or_default();
    lists.try_for_each(|list| add(&mut merged, &list, threads))?;
    Ok(merged)
}

fn add(merged: &mut [Option<Tensor>], list: &[Option<Tensor>], threads: usize) -> Result<()> {
    let mut chunks: Vec<(&mut [f32], &[f32])> = Vec::new();
    let mut numbers = 0;
    for (sum, gradient) in merged.iter_mut().zip(list) {
        match (sum, gradient) {
            (_, None) => {}
            (sum @ None, Some(gradient)) => *sum = Some(gradient.shallow_clone()),
            (Some(sum), Some(gradient)) if !(is_plain_f32(sum) && is_plain_f32(gradient)) => {
                let _ = sum.f_add_(gradient)?;
            }
            (Some(sum), Some(gradient)) => {
                // SAFETY: gradients of one parameter each, which only a backward pass writes, and none runs here. They
                // belong to leaves of different threads, so the two do not overlap.
                let (sum, gradient) = unsafe { (f32_slice_mut(sum)?, f32_slice(gradient)?) };
                numbers += sum.len();
                chunks.extend(sum.chunks_mut(CHUNK).zip(gradient.chunks(CHUNK)));
            }
        }
    }
    let threads = if numbers < WORTH_A_THREAD { 1 } else { threads };
    parallel::map(parallel::deal(chunks, threads), |run| {
        for (sum, gradient) in run {
            sum.iter_mut().zip(gradient).for_each(|(sum, number)| *sum += number);
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_are_added_whatever_their_kind() {
        let floats = |numbers: &[f32]| Some(Tensor::from_slice(numbers));
        let first =
            vec![floats(&[1.0, 2.0]), None, floats(&[5.0]), Some(Tensor::from_slice(&[1.5f64])), None];
        let second =
            vec![floats(&[10.0, 20.0]), floats(&[3.0]), None, Some(Tensor::from_slice(&[2.0f64])), None];
        let merged = merge([first, second], 2).unwrap();
        let numbers: Vec<Option<Vec<f64>>> =
            merged.into_iter().map(|sum| sum.map(|sum| Vec::try_from(sum).unwrap())).collect();
        assert_eq!(
            numbers,
            [Some(vec![11.0, 22.0]), Some(vec![3.0]), Some(vec![5.0]), Some(vec![3.5]), None]
        );
        assert!(merge([], 2).unwrap().is_empty());
    }

    #[test]
    fn threads_do_not_change_the_bits() {
        let wave =
            |step: f32| -> Vec<f32> { (0..WORTH_A_THREAD + 3).map(|i| (i as f32 * step).sin()).collect() };
        let lists = || [0.1, 0.2, 0.3].map(|step| vec![Some(Tensor::from_slice(&wave(step)))]);
        let sum =
            |threads| Vec::<f32>::try_from(merge(lists(), threads).unwrap().remove(0).unwrap()).unwrap();
        let expected: Vec<f32> =
            wave(0.1).iter().zip(wave(0.2)).zip(wave(0.3)).map(|((a, b), c)| (a + b) + c).collect();
        for threads in 1..4 {
            assert_eq!(sum(threads), expected);
        }
    }
}
