use align_core::{
    Result,
    tch::{Device, Kind, Tensor},
};
use serde_json::{Map, Value, json};

use crate::keys::Keys;

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

const MOST_POSITIONS: usize = 1 << 30;

impl RopeConfig {
    /// Reads `rope_scaling` (older folders; it wins, as in transformers) or `rope_parameters`, with `rope_theta`
    /// inside or at top level.
    pub(crate) fn read(keys: Keys<'_>, max_positions: usize) -> crate::Result<Self> {
        let theta = keys.positive("rope_theta", Some(Self::default().theta))?;
        let scaling = keys.object("rope_scaling")?;
        let Some(inner) = (match scaling {
            Some(inner) => Some(inner),
            None => keys.object("rope_parameters")?,
        }) else {
            return Ok(Self { theta, scaling: RopeScaling::Default });
        };
        let theta = inner.positive("rope_theta", Some(theta))?;
        for keys in [keys, inner] {
            if keys.positive("partial_rotary_factor", Some(1.0))? != 1.0 {
                return Err(keys.refuse("partial_rotary_factor", "1 for this architecture"));
            }
        }
        Ok(Self { theta, scaling: read_scaling(inner, max_positions)? })
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

/// Rotary position embeddings (RoFormer, arXiv:2104.09864), in the half-split convention of Hugging Face: dimension
/// i is rotated together with dimension i + D/2 by the angle position · θ^(−2i/D).
#[derive(Debug)]
pub(crate) struct Rope {
    frequencies: Tensor,
}

/// The cosines and sines of a stream of positions, `[T, 1, D/2]` each; made once per batch, used by every layer.
#[derive(Debug)]
pub(crate) struct Rotation {
    cos: Tensor,
    sin: Tensor,
}

impl Rope {
    /// Computes the frequencies `[D/2]` of heads of `head_dim` dimensions, in float32 as transformers does: at
    /// positions in the thousands the last bits of a frequency are visible.
    pub(crate) fn new(config: &RopeConfig, head_dim: usize, device: Device) -> Result<Self> {
        let exponents: Vec<f32> = (0..head_dim).step_by(2).map(|i| i as f32 / head_dim as f32).collect();
        let plain = Tensor::f_pow_scalar(config.theta, &Tensor::f_from_slice(&exponents)?)?.f_reciprocal()?;
        let scaled: Vec<f32> =
            Vec::<f32>::try_from(plain)?.into_iter().map(|f| scaled(f, &config.scaling)).collect();
        Ok(Self { frequencies: Tensor::f_from_slice(&scaled)?.f_to_device(device)? })
    }

    /// Returns the angle per position of each pair, `[D/2]`.
    pub(crate) fn frequencies(&self) -> Result<Vec<f32>> {
        Ok(Vec::try_from(&self.frequencies)?)
    }

    /// Computes the rotation of each row from its position, `[T]` int64.
    pub(crate) fn rotation(&self, positions: &Tensor) -> Result<Rotation> {
        let angles = positions.f_to_kind(Kind::Float)?.f_unsqueeze(-1)?.f_mul(&self.frequencies)?;
        let angles = angles.f_unsqueeze(1)?;
        Ok(Rotation { cos: angles.f_cos()?, sin: angles.f_sin()? })
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
    /// Rotates queries or keys, `[T, heads, D]`.
    pub(crate) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let mut halves = x.f_chunk(2, -1)?.into_iter();
        let (Some(first), Some(second)) = (halves.next(), halves.next()) else {
            return Err(align_core::Error::input("rotary embedding", "the head size is not even"));
        };
        let rotated = [
            first.f_mul(&self.cos)?.f_sub(&second.f_mul(&self.sin)?)?,
            second.f_mul(&self.cos)?.f_add(&first.f_mul(&self.sin)?)?,
        ];
        Ok(Tensor::f_cat(&rotated, -1)?)
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
        let rope = Rope::new(&RopeConfig::default(), 2, Device::Cpu).unwrap();
        let rotation = rope.rotation(&Tensor::from_slice(&[0i64, 1, 5])).unwrap();
        let x = Tensor::from_slice(&[1.0f32, 0.0, 1.0, 0.0, 1.0, 0.0]).reshape([3, 1, 2]);
        let got = Vec::<f64>::try_from(rotation.apply(&x).unwrap().reshape([-1])).unwrap();
        let expected = [0.0f64, 1.0, 5.0].map(|p| [p.cos(), p.sin()]).concat();
        for (g, e) in got.iter().zip(&expected) {
            assert!((g - e).abs() < 1e-6, "{got:?} against {expected:?}");
        }
    }
}
