//! Reading a tensor piece by piece.

use std::io::{Read, Seek, SeekFrom};

use align_core::tch::{Device, Kind, Tensor};

use super::{Entry, Shard};
use crate::{Error, Result};

/// Bytes of a tensor that are in memory besides the tensor itself while it is read. Larger pieces leave holes in the heap
/// that add up to a quarter of a model.
const CHUNK: usize = 256 << 10;

/// Reads a tensor into a number format, its rows one after the other however they lie in the file.
pub(super) fn read(shard: &mut Shard, entry: &Entry, kind: Kind, options: (Kind, Device)) -> Result<Tensor> {
    let shape: Vec<i64> = entry.shape.iter().map(|n| *n as i64).collect();
    let out = Tensor::f_empty(&shape, options)?;
    if out.numel() == 0 {
        return Ok(out);
    }
    // Dimensions in the order in which they lie in the file: the longest step first. A dimension of size 1 makes none.
    let step = |dim: usize| match entry.shape.get(dim) {
        Some(1) => 0,
        _ => entry.strides.get(dim).copied().unwrap_or(0),
    };
    let mut order: Vec<usize> = (0..shape.len()).collect();
    order.sort_by_key(|dim| std::cmp::Reverse(step(*dim)));
    let dims: Vec<Dim> = (order.iter())
        .map(|dim| Dim { size: entry.shape.get(*dim).copied().unwrap_or(1), step: step(*dim) })
        .collect();
    let order: Vec<i64> = order.iter().map(|dim| *dim as i64).collect();
    let mut reader = Reader { shard, kind, buffer: Vec::new() };
    reader.fill(&out.f_permute(&order)?, &dims, entry.start)?;
    Ok(out)
}

/// A dimension as it lies in the file, in numbers.
#[derive(Debug, Clone, Copy)]
struct Dim {
    size: usize,
    step: usize,
}

struct Reader<'a> {
    shard: &'a mut Shard,
    kind: Kind,
    buffer: Vec<u8>,
}

impl Reader<'_> {
    /// Fills `out`, whose dimensions are `dims`, with the numbers from byte `start` on.
    ///
    /// As many indices of the first dimension as fit into a piece are read at once, with whatever lies between their
    /// numbers; where not even one fits, its inner dimensions are read by themselves.
    fn fill(&mut self, out: &Tensor, dims: &[Dim], start: u64) -> Result<()> {
        let width = self.kind.elt_size_in_bytes();
        let most = CHUNK / width;
        let place = |index: usize, step: usize| start + (index as u64) * (step as u64) * (width as u64);
        let Some((first, inner)) = dims.split_first() else {
            let number = self.numbers(start, 1)?;
            out.f_view([1i64])?.f_copy_(&number)?;
            return Ok(());
        };
        let reach = inner.iter().fold(1usize, |reach, dim| {
            reach.saturating_add(dim.size.saturating_sub(1).saturating_mul(dim.step))
        });
        if reach > most {
            for index in 0..first.size {
                self.fill(&out.f_select(0, index as i64)?, inner, place(index, first.step))?;
            }
            return Ok(());
        }
        let at_once = (most - reach).checked_div(first.step).map_or(first.size, |more| more + 1);
        let mut sizes: Vec<i64> = dims.iter().map(|dim| dim.size as i64).collect();
        let steps: Vec<i64> = dims.iter().map(|dim| dim.step as i64).collect();
        for index in (0..first.size).step_by(at_once.max(1)) {
            let count = at_once.min(first.size - index);
            let piece = self.numbers(place(index, first.step), (count - 1) * first.step + reach)?;
            if let Some(size) = sizes.first_mut() {
                *size = count as i64;
            }
            let piece = piece.f_as_strided(&sizes, &steps, None)?;
            out.f_narrow(0, index as i64, count as i64)?.f_copy_(&piece)?;
        }
        Ok(())
    }

    fn numbers(&mut self, start: u64, count: usize) -> Result<Tensor> {
        let (path, file) = (&self.shard.path, &mut self.shard.file);
        let length = count * self.kind.elt_size_in_bytes();
        if self.buffer.len() < length {
            self.buffer.resize(length, 0);
        }
        let bytes = self.buffer.get_mut(..length).unwrap_or_default();
        file.seek(SeekFrom::Start(start)).map_err(Error::io(path, "cannot be read"))?;
        file.read_exact(bytes).map_err(Error::io(path, "cannot be read"))?;
        Ok(Tensor::f_from_data_size(bytes, &[count as i64], self.kind)?)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Write;

    use super::*;

    /// A file of 20 MB of numbers that differ, and whole-file reading to compare with.
    #[test]
    fn pieces_are_the_whole_however_a_tensor_lies() {
        const COUNT: usize = 5_000_000;
        let numbers: Vec<f32> = (0..COUNT).map(|n| n as f32).collect();
        let mut file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        file.write_all(&bytes).unwrap();
        let mut shard =
            Shard { path: "x".into(), file, tensors: BTreeMap::new(), length: bytes.len() as u64 };
        let all = Tensor::from_slice(&numbers);
        let cases: [(&[usize], &[usize], usize); 10] = [
            (&[5, 1_000_000], &[1_000_000, 1], 0),
            // Rows longer than a piece.
            (&[2, 2_500_000], &[2_500_000, 1], 0),
            (&[2_500_000, 2], &[1, 2_500_000], 0),
            // Columns of a block; the first dimension steps over everything.
            (&[1000, 30], &[5000, 1], 77),
            (&[30, 1000], &[1, 5000], 77),
            (&[3, 1000, 400], &[1, 5000, 12], 5),
            (&[4_999_999], &[1], 1),
            (&[2], &[4_999_998], 1),
            // A step along a dimension of size 1 means nothing.
            (&[1, 7, 1], &[usize::MAX / 16, 3, 9], 2),
            (&[], &[], 4_321_000),
        ];
        for (shape, strides, offset) in cases {
            let start = 4 * offset as u64;
            let (shape, strides) = (shape.to_vec(), strides.to_vec());
            let entry = Entry { shard: 0, kind: None, dtype: String::new(), shape, strides, start };
            let read = read(&mut shard, &entry, Kind::Float, (Kind::Float, Device::Cpu)).unwrap();
            let longs = |list: &[usize]| list.iter().map(|n| *n as i64).collect::<Vec<_>>();
            let (sizes, mut steps) = (longs(&entry.shape), longs(&entry.strides));
            steps.iter_mut().zip(&sizes).for_each(|(step, size)| *step *= i64::from(*size != 1));
            let whole = all.as_strided(&sizes, &steps, offset as i64);
            assert!(read.equal(&whole) && read.is_contiguous(), "{sizes:?} {steps:?}");
        }
    }
}
