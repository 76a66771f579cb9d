use align_core::{
    Result,
    tch::{Device, Kind, Tensor},
};
use serde_json::{Map, Value, json};

use crate::keys::Keys;
use crate::tail::select;

/// How rotary position embeddings are stretched beyond the length of pre-training.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum RopeScaling {
    /// Not at all.
    Default,
    /// Every frequency is divided by `factor` (position interpolation, arXiv:2306.15595).
    Linear {
        /// The divisor, ≥ 1.
        factor: f64,
    },
    /// Long wavelengths are divided by `factor`, short ones kept, those between interpolated (Llama 3.1).
    Llama3 {
        /// The divisor, ≥ 1.
        factor: f64,
        /// Wavelengths above `original_max_position_embeddings / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_position_embeddings / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// The context length of pre-training, in tokens.
        original_max_position_embeddings: usize,
    },
}

/// Rotary position embeddings as `config.json` describes them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RopeConfig {
    /// The base of the geometric series of wavelengths.
    pub theta: f64,
    /// The scaling.
    pub scaling: RopeScaling,
}

impl Default for RopeConfig {
    fn default() -> Self {
        Self { theta: 10_000.0, scaling: RopeScaling::Default }
    }
}

/// The number of dimensions of a head that are rotated, where only a part of them is.
pub(crate) fn rotated(head_dim: usize, part: f64) -> usize {
    (head_dim as f64 * part) as usize
}

const MOST_POSITIONS: usize = 1 << 30;

impl RopeConfig {
    /// Reads `rope_scaling` (older folders; it wins, as in transformers) or `rope_parameters`, with `rope_theta`
    /// inside or at top level. Heads must be rotated as a whole.
    pub(crate) fn read(keys: Keys<'_>, max_positions: usize) -> crate::Result<Self> {
        let (rope, part) = Self::read_partial(keys, max_positions, Self::default().theta, 1.0)?;
        match part == 1.0 {
            true => Ok(rope),
            false => Err(Self::holder(keys, "partial_rotary_factor")?
                .refuse("partial_rotary_factor", "1 for this architecture")),
        }
    }

    /// As [`Self::read`], with the part of each head that is rotated, above 0 and up to 1.
    pub(crate) fn read_partial(
        keys: Keys<'_>,
        max_positions: usize,
        default_theta: f64,
        default_part: f64,
    ) -> crate::Result<(Self, f64)> {
        const PART: &str = "partial_rotary_factor";
        let holder = Self::holder(keys, PART)?;
        let part = holder.positive(PART, Some(default_part))?;
        if part > 1.0 {
            return Err(holder.refuse(PART, "a number above 0 and up to 1"));
        }
        let theta = keys.positive("rope_theta", Some(default_theta))?;
        let Some(inner) = Self::inner(keys)? else {
            return Ok((Self { theta, scaling: RopeScaling::Default }, part));
        };
        let rope = Self::read_object(inner, theta, max_positions)?;
        Ok((rope, part))
    }

    /// Reads an object of the form that `rope_parameters` has.
    pub(crate) fn read_object(inner: Keys<'_>, theta: f64, max_positions: usize) -> crate::Result<Self> {
        let theta = inner.positive("rope_theta", Some(theta))?;
        Ok(Self { theta, scaling: read_scaling(inner, max_positions)? })
    }

    fn inner<'a>(keys: Keys<'a>) -> crate::Result<Option<Keys<'a>>> {
        match keys.object("rope_scaling")? {
            Some(inner) => Ok(Some(inner)),
            None => keys.object("rope_parameters"),
        }
    }

    /// The object that has the key: the inner one if it is there.
    fn holder<'a>(keys: Keys<'a>, key: &str) -> crate::Result<Keys<'a>> {
        Ok(Self::inner(keys)?.filter(|inner| inner.has(key)).unwrap_or(keys))
    }

    /// Writes the object that transformers 5 keeps under `rope_parameters`.
    pub(crate) fn to_json(self) -> Value {
        let mut map = Map::new();
        map.insert("rope_theta".into(), json!(self.theta));
        match self.scaling {
            RopeScaling::Default => map.insert("rope_type".into(), json!("default")),
            RopeScaling::Linear { factor } => {
                map.insert("factor".into(), json!(factor));
                map.insert("rope_type".into(), json!("linear"))
            }
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                map.insert("factor".into(), json!(factor));
                map.insert("low_freq_factor".into(), json!(low_freq_factor));
                map.insert("high_freq_factor".into(), json!(high_freq_factor));
                map.insert(
                    "original_max_position_embeddings".into(),
                    json!(original_max_position_embeddings),
                );
                map.insert("rope_type".into(), json!("llama3"))
            }
        };
        Value::Object(map)
    }
}

fn read_scaling(keys: Keys<'_>, max_positions: usize) -> crate::Result<RopeScaling> {
    let text = "a text";
    let kind = match keys.get::<String>("rope_type", text)? {
        Some(kind) => Some(kind),
        None => keys.get("type", text)?,
    };
    let factor = || match keys.positive("factor", None)? {
        factor if factor >= 1.0 => Ok(factor),
        _ => Err(keys.refuse("factor", "a number of at least 1")),
    };
    match kind.as_deref() {
        None | Some("default") => Ok(RopeScaling::Default),
        Some("linear") => Ok(RopeScaling::Linear { factor: factor()? }),
        Some("llama3") => {
            let low_freq_factor = keys.positive("low_freq_factor", None)?;
            let high_freq_factor = keys.positive("high_freq_factor", None)?;
            if high_freq_factor <= low_freq_factor {
                return Err(keys.refuse("high_freq_factor", "a number above low_freq_factor"));
            }
            let original =
                keys.size("original_max_position_embeddings", MOST_POSITIONS, Some(max_positions))?;
            Ok(RopeScaling::Llama3 {
                factor: factor()?,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings: original,
            })
        }
        Some(other) => Err(crate::Error::Unsupported {
            path: keys.path().to_owned(),
            what: format!("rope scaling {other:?}"),
            supported: "default, linear, llama3".into(),
        }),
    }
}

/// Which dimensions of a head are rotated together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pairs {
    /// i and i + W/2, where W dimensions are rotated: the convention of most Hugging Face models.
    Halves,
    /// 2i and 2i + 1, as in the paper (GLM).
    Neighbours,
}

/// Rotary position embeddings (RoFormer, arXiv:2104.09864): pair i of the first W dimensions of a head is rotated by
/// the angle position · θ^(−2i/W); the other dimensions stay.
#[derive(Debug)]
pub(crate) struct Rope {
    frequencies: Tensor,
    pairs: Pairs,
}

/// The cosines and sines of a stream of positions, `[T, 1, W/2]` each; made once per batch, used by every layer.
#[derive(Debug)]
pub(crate) struct Rotation {
    cos: Tensor,
    sin: Tensor,
    pairs: Pairs,
}

impl Rope {
    /// Computes the frequencies `[W/2]` for W rotated dimensions, in float32 as transformers does: at positions in
    /// the thousands the last bits of a frequency are visible.
    pub(crate) fn new(config: &RopeConfig, width: usize, pairs: Pairs, device: Device) -> Result<Self> {
        let exponents: Vec<f32> = (0..width).step_by(2).map(|i| i as f32 / width as f32).collect();
        let plain = Tensor::f_pow_scalar(config.theta, &Tensor::f_from_slice(&exponents)?)?.f_reciprocal()?;
        let scaled: Vec<f32> =
            Vec::<f32>::try_from(plain)?.into_iter().map(|f| scaled(f, &config.scaling)).collect();
        Ok(Self { frequencies: Tensor::f_from_slice(&scaled)?.f_to_device(device)?, pairs })
    }

    /// Returns the angle per position of each pair, `[D/2]`.
    pub(crate) fn frequencies(&self) -> Result<Vec<f32>> {
        Ok(Vec::try_from(&self.frequencies)?)
    }

    /// Computes the rotation of each row from its position, `[T]` int64.
    pub(crate) fn rotation(&self, positions: &Tensor) -> Result<Rotation> {
        let angles = positions.f_to_kind(Kind::Float)?.f_unsqueeze(-1)?.f_mul(&self.frequencies)?;
        let angles = angles.f_unsqueeze(1)?;
        Ok(Rotation { cos: angles.f_cos()?, sin: angles.f_sin()?, pairs: self.pairs })
    }
}

fn scaled(frequency: f32, scaling: &RopeScaling) -> f32 {
    match *scaling {
        RopeScaling::Default => frequency,
        RopeScaling::Linear { factor } => frequency / factor as f32,
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => {
            let context = original_max_position_embeddings as f64;
            let wavelength = std::f32::consts::TAU / frequency;
            if wavelength > (context / low_freq_factor) as f32 {
                return frequency / factor as f32;
            }
            if wavelength < (context / high_freq_factor) as f32 {
                return frequency;
            }
            let smooth = (context as f32 / wavelength - low_freq_factor as f32)
                / (high_freq_factor - low_freq_factor) as f32;
            (1.0 - smooth) * frequency / factor as f32 + smooth * frequency
        }
    }
}

impl Rotation {
    /// The rotation of some of the rows; of all if none are named.
    pub(crate) fn of_rows(&self, rows: Option<&Tensor>) -> Result<Self> {
        Ok(Self { cos: select(&self.cos, rows)?, sin: select(&self.sin, rows)?, pairs: self.pairs })
    }

    /// Rotates queries or keys, `[T, heads, D]`, D ≥ W.
    pub(crate) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let last = |x: &Tensor| x.size().last().copied().unwrap_or(0);
        let (width, size) = (2 * last(&self.cos), last(x));
        if width == size {
            return self.rotate(x);
        }
        let mut parts = x.f_split_with_sizes([width, size - width], -1)?.into_iter();
        match (parts.next(), parts.next()) {
            (Some(turned), Some(kept)) => Ok(Tensor::f_cat(&[self.rotate(&turned)?, kept], -1)?),
            _ => Err(align_core::Error::input(
                "rotary embedding",
                "heads are narrower than their rotated part",
            )),
        }
    }

    fn rotate(&self, x: &Tensor) -> Result<Tensor> {
        let pairs = match self.pairs {
            Pairs::Halves => x.f_chunk(2, -1)?,
            Pairs::Neighbours => x.f_unflatten(-1, [-1, 2])?.f_unbind(-1)?,
        };
        let [first, second] = pairs.as_slice() else {
            return Err(align_core::Error::input("rotary embedding", "the head size is not even"));
        };
        let rotated = [
            first.f_mul(&self.cos)?.f_sub(&second.f_mul(&self.sin)?)?,
            second.f_mul(&self.cos)?.f_add(&first.f_mul(&self.sin)?)?,
        ];
        let whole = match self.pairs {
            Pairs::Halves => Tensor::f_cat(&rotated, -1)?,
            Pairs::Neighbours => Tensor::f_stack(&rotated, -1)?.f_flatten(-2, -1)?,
        };
        // Angles are float32, and so are products with rows of 16 bits until here.
        Ok(whole.f_to_kind(x.kind())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Wavelengths 2π/f against the bands of the definition: context 64, low 1, high 4 → below 16 kept, above 64
    /// divided, and at wavelength 32 exactly smooth = (64/32 − 1)/3 = 1/3.
    #[test]
    fn the_three_bands_of_llama_3() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 64,
        };
        let at = |wavelength: f32| std::f32::consts::TAU / wavelength;
        assert_eq!(scaled(at(10.0), &scaling), at(10.0));
        assert_eq!(scaled(at(100.0), &scaling), at(100.0) / 8.0);
        let middle = at(32.0) * (2.0 / 3.0 / 8.0 + 1.0 / 3.0);
        assert!((scaled(at(32.0), &scaling) - middle).abs() < 1e-6);
        assert_eq!(scaled(0.5, &RopeScaling::Linear { factor: 4.0 }), 0.125);
    }

    /// D = 2 has the single frequency 1: the pair (1, 0) at position p becomes (cos p, sin p).
    #[test]
    fn positions_are_angles() {
        let rope = Rope::new(&RopeConfig::default(), 2, Pairs::Halves, Device::Cpu).unwrap();
        let rotation = rope.rotation(&Tensor::from_slice(&[0i64, 1, 5])).unwrap();
        let x = Tensor::from_slice(&[1.0f32, 0.0, 1.0, 0.0, 1.0, 0.0]).reshape([3, 1, 2]);
        let got = Vec::<f64>::try_from(rotation.apply(&x).unwrap().reshape([-1])).unwrap();
        let expected = [0.0f64, 1.0, 5.0].map(|p| [p.cos(), p.sin()]).concat();
        for (g, e) in got.iter().zip(&expected) {
            assert!((g - e).abs() < 1e-6, "{got:?} against {expected:?}");
        }
    }

    /// W = 4 of D = 6, θ = 100: the angles at position 3 are 3 and 0.3. Pairs are (0, 2), (1, 3) or (0, 1), (2, 3);
    /// dimensions 4 and 5 stay.
    #[test]
    fn pairs_are_rotated_in_both_conventions() {
        let config = RopeConfig { theta: 100.0, scaling: RopeScaling::Default };
        let x = [1.0f64, 2.0, 3.0, 4.0, 5.0, 6.0];
        for (pairs, indices) in [(Pairs::Halves, [(0, 2), (1, 3)]), (Pairs::Neighbours, [(0, 1), (2, 3)])] {
            let mut expected = x;
            for ((a, b), angle) in indices.into_iter().zip([3.0f64, 0.3]) {
                expected[a] = x[a] * angle.cos() - x[b] * angle.sin();
                expected[b] = x[b] * angle.cos() + x[a] * angle.sin();
            }
            let rope = Rope::new(&config, 4, pairs, Device::Cpu).unwrap();
            let rows = Tensor::from_slice(&x).reshape([1, 1, 6]);
            let got = rope.rotation(&Tensor::from_slice(&[3i64])).unwrap().apply(&rows).unwrap();
            let got = Vec::<f64>::try_from(got.reshape([-1])).unwrap();
            for (g, e) in got.iter().zip(&expected) {
                assert!((g - e).abs() < 1e-6, "{pairs:?}: {got:?} against {expected:?}");
            }
        }
    }
}
