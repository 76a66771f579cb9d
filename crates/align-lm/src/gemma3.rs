use align_core::tch::Device;

use crate::gemma2::{Usual, build_like};
use crate::keys::Keys;
use crate::rope::{Pairs, Rope, RopeConfig};
use crate::sizes::most;
use crate::transformer::Transformer;
use crate::weights::Builder;
use crate::{Gemma2Config, Result};

/// What the text model of a Gemma 3 looks like.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Gemma3Config {
    /// What Gemma 2 has as well; its rotary position embeddings are those of layers that see everything.
    pub base: Gemma2Config,
    /// Rotary position embeddings of layers with a window.
    pub local_rope: RopeConfig,
}

impl Gemma3Config {
    pub(crate) fn read(keys: Keys<'_>) -> Result<Self> {
        let usual = Usual { positions: 131_072, scores: None, logits: None };
        let every = keys.size("sliding_window_pattern", most::LAYERS, Some(6))?;
        let slides = |layer: usize| !(layer + 1).is_multiple_of(every);
        let mut local_rope = RopeConfig::default();
        let rope = |positions| {
            let (global, local) = read_ropes(keys, positions)?;
            local_rope = local;
            Ok(global)
        };
        let base = Gemma2Config::read_like(keys, &usual, rope, slides)?;
        Ok(Self { base, local_rope })
    }
}

/// Reads the embeddings of layers without and with a window: an object for each in `rope_parameters`, or the older
/// `rope_theta` and `rope_scaling` for the first and `rope_local_base_freq` for the second.
fn read_ropes(keys: Keys<'_>, positions: usize) -> Result<(RopeConfig, RopeConfig)> {
    const GLOBAL: &str = "full_attention";
    const LOCAL: &str = "sliding_attention";
    let theta = keys.positive("rope_theta", Some(1e6))?;
    let local_theta = keys.positive("rope_local_base_freq", Some(1e4))?;
    let nested = keys.object("rope_parameters")?;
    let inner = |name| nested.map_or(Ok(None), |nested: Keys<'_>| nested.object(name));
    let read = |object: Option<Keys<'_>>, theta| match object {
        Some(object) => RopeConfig::read_object(object, theta, positions),
        None => Ok(RopeConfig { theta, ..RopeConfig::default() }),
    };
    let global = match keys.object("rope_scaling")? {
        Some(scaling) => Some(scaling),
        None => inner(GLOBAL)?,
    };
    Ok((read(global, theta)?, read(inner(LOCAL)?, local_theta)?))
}

/// Builds the text model of Gemma 3 (arXiv:2503.19786): Gemma 2 with norms of query and key heads instead of bounds,
/// and rotary embeddings of their own for layers with a window.
pub(crate) fn build(config: &Gemma3Config, device: Device, take: &mut Builder<'_>) -> Result<Transformer> {
    let Gemma3Config { base, local_rope } = config;
    let rope = |rope: &RopeConfig| Rope::new(rope, base.sizes.head_dim, Pairs::Halves, device);
    let ropes = vec![rope(&base.rope)?, rope(local_rope)?];
    build_like(base, ropes, take, |attention, name, take| {
        let mut attention = attention.with_head_norms(name, base.norm(), take)?;
        attention.rope = Some(usize::from(attention.scores.window.is_some()));
        Ok(attention)
    })
}
