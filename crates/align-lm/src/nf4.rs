use align_core::{
    Error, Result,
    tch::{Device, Kind, Tensor},
};

/// Numbers that share a scale.
const BLOCK: i64 = 64;

/// Scales that share a step of the second quantisation.
const GROUP: i64 = 256;

/// Numbers that are quantised at once, so that what that takes besides does not grow with the matrix.
const PIECE: i64 = 1 << 16;

/// The probability at the ends of the levels (QLoRA, appendix E): the mean of 1 − 1/30 and 1 − 1/32, because 15
/// quantiles on one side and 16 on the other would each leave half a step outside.
const OFFSET: f64 = 0.9677083;

/// Computes the 16 levels of NF4 (QLoRA, arXiv:2305.14314, section 3 and appendix E): quantiles of the standard normal
/// distribution at evenly spaced probabilities between 1/2 and [`OFFSET`], eight above zero, seven below, zero itself;
/// divided by the largest.
fn levels() -> Result<[f32; 16]> {
    let spaced = |count: usize| {
        let step = (OFFSET - 0.5) / count as f64;
        (0..count).map(move |i| OFFSET - step * i as f64)
    };
    let probabilities: Vec<f64> = spaced(7).map(|p| 1.0 - p).chain([0.5]).chain(spaced(8)).collect();
    let quantiles = Tensor::f_from_slice(&probabilities)?.f_mul_scalar(2.0)?.f_sub_scalar(1.0)?.f_erfinv()?;
    let quantiles = Vec::<f64>::try_from(quantiles)?;
    let largest = quantiles.iter().fold(0.0f64, |most, x| most.max(*x));
    let mut levels: Vec<f32> = quantiles.iter().map(|x| (x / largest) as f32).collect();
    levels.sort_by(f32::total_cmp);
    levels.try_into().map_err(|_| Error::input("nf4", "its levels are not 16"))
}

/// The levels in the forms that packing and unpacking need, on one device; shared by all matrices of a model.
#[derive(Debug)]
pub(crate) struct Codebook {
    /// Where one level gives way to the next, `[15]`.
    midpoints: Tensor,
    /// The two numbers of each byte, `[256, 2]`.
    pairs: Tensor,
}

impl Codebook {
    pub(crate) fn new(device: Device) -> Result<Self> {
        let levels = levels()?;
        let middle = |(a, b): (&f32, &f32)| ((f64::from(*a) + f64::from(*b)) / 2.0) as f32;
        let midpoints: Vec<f32> = levels.iter().zip(levels.iter().skip(1)).map(middle).collect();
        let pairs: Vec<f32> =
            levels.iter().flat_map(|high| levels.map(|low| [*high, low])).flatten().collect();
        Ok(Self {
            midpoints: Tensor::f_from_slice(&midpoints)?.f_to_device(device)?,
            pairs: Tensor::f_from_slice(&pairs)?.f_view([256, 2])?.f_to_device(device)?,
        })
    }

    fn shallow_clone(&self) -> Self {
        Self { midpoints: self.midpoints.shallow_clone(), pairs: self.pairs.shallow_clone() }
    }
}

/// A matrix in 4-bit NormalFloat with double quantisation (QLoRA, arXiv:2305.14314): blocks of 64 numbers in the order
/// of storage, each number the nearest of 16 levels times the largest magnitude of its block.
///
/// Those scales, one per block, have their mean taken off and are stored in 8 bits: groups of 256 are multiples of
/// largest magnitude / 127 (equation 1 of the paper; its own implementation takes 8-bit floats there, which are finer
/// near zero and coarser at the ends). With c a number's level, s its block's scale and g the largest magnitude of its
/// group, |number − read| ≤ s · (half the distance to the next level) + |c| · g / 254.
#[derive(Debug)]
pub(crate) struct Nf4 {
    /// Two levels per byte, the first in the high bits, `[blocks · 32]` uint8. The last block is filled up with zeros.
    codes: Tensor,
    /// `[blocks]` int8.
    scales: Tensor,
    /// `[groups]` float32.
    steps: Tensor,
    mean: f64,
    shape: Vec<i64>,
    book: Codebook,
}

impl Nf4 {
    /// Quantises a tensor of any shape and number format.
    ///
    /// # Errors
    /// [`Error::Input`] for numbers that are not finite.
    pub(crate) fn quantise(tensor: &Tensor, book: &Codebook) -> Result<Self> {
        let flat = tensor.f_detach()?.f_contiguous()?.f_view([-1])?;
        let count = flat.numel() as i64;
        let blocks = (count + BLOCK - 1) / BLOCK;
        let codes = Tensor::f_empty([blocks * BLOCK / 2], (Kind::Uint8, flat.device()))?;
        let largest = Tensor::f_empty([blocks], (Kind::Float, flat.device()))?;
        for start in (0..count).step_by(PIECE as usize) {
            let len = PIECE.min(count - start);
            let (piece, its_largest) = quantise_blocks(&flat.f_narrow(0, start, len)?, book)?;
            codes.f_narrow(0, start / 2, piece.numel() as i64)?.f_copy_(&piece)?;
            largest.f_narrow(0, start / BLOCK, its_largest.numel() as i64)?.f_copy_(&its_largest)?;
        }
        let mean = if blocks > 0 { largest.f_mean(Kind::Float)?.f_double_value(&[])? } else { 0.0 };
        if !mean.is_finite() {
            return Err(Error::input("nf4", "a weight is not finite"));
        }
        let centred = filled_up(&largest.f_sub_scalar(mean)?, GROUP)?;
        let steps = centred.f_abs()?.f_amax([1], true)?.f_div_scalar(127.0)?;
        let scales = centred.f_div(&steps.f_clamp_min(f64::from(f32::MIN_POSITIVE))?)?.f_round()?;
        let scales = scales.f_clamp(-127.0, 127.0)?.f_to_kind(Kind::Int8)?.f_view([-1])?;
        Ok(Self {
            codes,
            scales: copied(&scales.f_narrow(0, 0, blocks)?)?,
            steps: steps.f_view([-1])?,
            mean,
            shape: tensor.size(),
            book: book.shallow_clone(),
        })
    }

    /// Computes the numbers in float32.
    pub(crate) fn read(&self) -> Result<Tensor> {
        let bytes = self.book.pairs.f_index_select(0, &self.codes.f_to_kind(Kind::Int)?)?;
        let numbers = bytes.f_view([-1, BLOCK])?.f_mul(&self.largest()?.f_unsqueeze(1)?)?;
        let count: i64 = self.shape.iter().product();
        Ok(numbers.f_view([-1])?.f_narrow(0, 0, count)?.f_view(self.shape.as_slice())?)
    }

    /// Computes the scale of each block, `[blocks]`.
    fn largest(&self) -> Result<Tensor> {
        let steps = self.steps.f_unsqueeze(1)?.f_expand([-1, GROUP], false)?.f_reshape([-1])?;
        let blocks = self.scales.numel() as i64;
        let scales = self.scales.f_to_kind(Kind::Float)?.f_mul(&steps.f_narrow(0, 0, blocks)?)?;
        Ok(scales.f_add_scalar(self.mean)?)
    }

    pub(crate) fn shape(&self) -> &[i64] {
        &self.shape
    }

    /// Counts the bytes that are held, without the levels that all matrices share.
    pub(crate) fn bytes(&self) -> usize {
        [&self.codes, &self.scales, &self.steps].map(bytes_of).iter().sum::<usize>() + size_of::<f64>()
    }

    /// Returns the same numbers over the same storage, which nothing writes to.
    pub(crate) fn shallow_clone(&self) -> Self {
        Self {
            codes: self.codes.shallow_clone(),
            scales: self.scales.shallow_clone(),
            steps: self.steps.shallow_clone(),
            mean: self.mean,
            shape: self.shape.clone(),
            book: self.book.shallow_clone(),
        }
    }
}

/// Counts the bytes that a matrix of so many numbers takes.
pub(crate) fn bytes_for(count: usize) -> usize {
    let blocks = count.div_ceil(BLOCK as usize);
    let steps = blocks.div_ceil(GROUP as usize) * size_of::<f32>();
    blocks * BLOCK as usize / 2 + blocks + steps + size_of::<f64>()
}

/// Counts the bytes of a tensor's numbers.
pub(crate) fn bytes_of(tensor: &Tensor) -> usize {
    tensor.numel() * tensor.kind().elt_size_in_bytes()
}

/// Packs whole blocks, the last filled up; returns bytes and the largest magnitude of each block.
fn quantise_blocks(flat: &Tensor, book: &Codebook) -> Result<(Tensor, Tensor)> {
    let blocks = filled_up(&flat.f_to_kind(Kind::Float)?, BLOCK)?;
    let largest = blocks.f_abs()?.f_amax([1], true)?;
    let scaled = blocks.f_div(&largest.f_clamp_min(f64::from(f32::MIN_POSITIVE))?)?;
    let codes = scaled.f_bucketize(&book.midpoints, true, false)?.f_view([-1, 2])?;
    let bytes = codes.f_select(1, 0)?.f_mul_scalar(16)?.f_add(&codes.f_select(1, 1)?)?;
    Ok((bytes.f_to_kind(Kind::Uint8)?, largest.f_view([-1])?))
}

/// Cuts a flat tensor into rows of `width`, the last filled up with zeros.
fn filled_up(flat: &Tensor, width: i64) -> Result<Tensor> {
    let missing = (-(flat.numel() as i64)).rem_euclid(width);
    let whole = if missing == 0 { flat.shallow_clone() } else { flat.f_constant_pad_nd([0, missing])? };
    Ok(whole.f_view([-1, width])?)
}

/// A part of a larger tensor as one of its own, so that the larger one can be freed.
fn copied(part: &Tensor) -> Result<Tensor> {
    let copy = Tensor::f_empty(part.size().as_slice(), (part.kind(), part.device()))?;
    copy.shallow_clone().f_copy_(part)?;
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use align_testkit::assert_close;
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    /// The 16 values that appendix E of arXiv:2305.14314 prints.
    const PRINTED: [f64; 16] = [
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ];

    fn quantised(numbers: &[f32], shape: &[i64]) -> Nf4 {
        let book = Codebook::new(Device::Cpu).unwrap();
        Nf4::quantise(&Tensor::from_slice(numbers).reshape(shape), &book).unwrap()
    }

    fn numbers(tensor: &Tensor) -> Vec<f64> {
        Vec::try_from(tensor.to_kind(Kind::Double).reshape([-1])).unwrap()
    }

    /// The code of each number, those that fill up the last block included.
    fn codes(packed: &Nf4) -> Vec<u8> {
        let bytes = Vec::<u8>::try_from(&packed.codes).unwrap();
        bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).collect()
    }

    /// The printed values are quantiles in float32, of which the last two bits are rounding.
    #[test]
    fn levels_are_those_the_paper_prints() {
        let levels = levels().unwrap().map(f64::from);
        assert_close(&levels, &PRINTED, 2e-7);
        assert_eq!((levels[0], levels[7], levels[15]), (-1.0, 0.0, 1.0));
    }

    #[derive(Deserialize)]
    struct Reference {
        shape: Vec<i64>,
        numbers: Vec<f32>,
        codes: String,
        scales: Vec<f64>,
    }

    /// Against `fixtures/nf4/make_nf4.py`, which has the formulas in numpy.
    #[test]
    fn codes_and_scales_are_those_of_the_formulas() {
        let text = std::fs::read(align_testkit::fixture("nf4/reference.json")).unwrap();
        let expected: Reference = serde_json::from_slice(&text).unwrap();
        let packed = quantised(&expected.numbers, &expected.shape);
        let hex: String = codes(&packed).iter().map(|code| format!("{code:x}")).collect();
        assert!(hex == expected.codes, "codes differ");
        assert_close(&numbers(&packed.largest().unwrap()), &expected.scales, 1e-6);
        assert_eq!(packed.read().unwrap().size(), expected.shape);
    }

    /// All blocks have the same largest magnitude, so that nothing is lost of it.
    #[test]
    fn levels_are_read_back_exactly() {
        let levels = levels().unwrap();
        let row: Vec<f32> = levels.iter().cycle().take(3 * 64).map(|level| level * 0.75).collect();
        let packed = quantised(&row, &[3, 64]);
        assert_eq!(Vec::<f32>::try_from(packed.read().unwrap().reshape([-1])).unwrap(), row);
        assert!(codes(&packed).iter().enumerate().all(|(i, code)| usize::from(*code) == i % 16));
    }

    #[test]
    fn zeros_stay_zeros_and_nothing_is_nothing() {
        let mut row = vec![0.0f32; 64];
        row.extend((0..64).map(|i| if i % 3 == 0 { 0.0 } else { i as f32 }));
        let read = numbers(&quantised(&row, &[2, 64]).read().unwrap());
        assert!(read.iter().zip(&row).all(|(read, x)| *x != 0.0 || *read == 0.0));
        assert_eq!(quantised(&[], &[0, 8]).read().unwrap().size(), [0, 8]);
    }

    #[test]
    fn numbers_that_are_none_are_refused() {
        let book = Codebook::new(Device::Cpu).unwrap();
        for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let tensor = Tensor::from_slice(&[1.0, wrong, 2.0]);
            assert!(Nf4::quantise(&tensor, &book).unwrap_err().to_string().contains("not finite"));
        }
    }

    /// Larger than what is quantised at once, and no multiple of anything.
    #[test]
    fn pieces_meet_without_a_seam() {
        let count = PIECE + 12_345;
        let tensor = Tensor::arange(count, (Kind::Float, Device::Cpu)).sin();
        let packed = Nf4::quantise(&tensor, &Codebook::new(Device::Cpu).unwrap()).unwrap();
        let off = (packed.read().unwrap() - &tensor).abs().max().double_value(&[]);
        // Half the widest gap of a block that reaches 1, and the second quantisation of scales that are all near 1.
        assert!(off < 0.16, "{off}");
        assert_eq!(packed.bytes(), bytes_for(count as usize));
        // A code is half a byte, a scale one for 64 numbers, a step four for 16384: 0.516 bytes of 4.
        let share = packed.bytes() as f64 / (4.0 * count as f64);
        assert!((share - 0.129).abs() < 1e-3, "{share}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// The bound that the type states, for every number of any matrix.
        #[test]
        fn errors_stay_within_half_a_gap_and_half_a_step(
            blocks in prop::collection::vec((-6.0f32..3.0, prop::collection::vec(-1.0f32..1.0, 64)), 1..9),
            cut in 0usize..63,
            copies in 1usize..60,
        ) {
            let block = |(size, block): &(f32, Vec<f32>)| -> Vec<f32> {
                block.iter().map(|x| x * 10f32.powf(*size)).collect()
            };
            let mut row: Vec<f32> = blocks.iter().flat_map(block).collect();
            row = row.iter().copied().cycle().take(row.len() * copies).collect();
            row.truncate(row.len() - cut);
            let packed = quantised(&row, &[row.len() as i64]);
            let read = numbers(&packed.read().unwrap());
            prop_assert_eq!(read.len(), row.len());
            let widest = PRINTED.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
            let steps = numbers(&packed.steps);
            for (i, (x, read)) in row.iter().zip(&read).enumerate() {
                let start = i / 64 * 64;
                let largest = row[start..row.len().min(start + 64)].iter().fold(0.0f32, |m, x| m.max(x.abs()));
                let largest = f64::from(largest);
                let bound = widest / 2.0 * largest + steps[i / 64 / 256] / 2.0;
                let off = (f64::from(*x) - read).abs();
                // The last term is rounding in float32, of scales that lie around their mean.
                let rounding = 1e-6 * (largest + packed.mean);
                prop_assert!(off <= bound + rounding, "{x} is read as {read}, bound {bound}");
            }
        }
    }
}
