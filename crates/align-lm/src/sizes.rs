use crate::Result;
use crate::keys::Keys;

/// Upper bounds beyond which a number in `config.json` is a mistake, not a model.
pub(crate) mod most {
    pub(crate) const WIDTH: usize = 1 << 20;
    pub(crate) const LAYERS: usize = 1 << 12;
    /// Heads, and the width of one.
    pub(crate) const HEADS: usize = 1 << 14;
    pub(crate) const VOCABULARY: usize = 1 << 24;
    pub(crate) const POSITIONS: usize = 1 << 30;
}

/// The sizes that every decoder has.
#[derive(Debug, Clone, PartialEq)]
pub struct Sizes {
    /// Tokens of the vocabulary.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Transformer blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key-value heads; divides `num_attention_heads`.
    pub num_key_value_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Longest sequence, in tokens.
    pub max_position_embeddings: usize,
    /// Whether the output matrix is the embedding.
    pub tie_word_embeddings: bool,
    /// Standard deviation of random initial weights.
    pub initializer_range: f64,
}

/// What transformers takes for keys that a `config.json` leaves out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Defaults {
    /// As many as query heads if absent.
    pub(crate) key_value_heads: Option<usize>,
    /// `hidden_size / num_attention_heads` if absent.
    pub(crate) head_dim: Option<usize>,
    pub(crate) positions: usize,
    pub(crate) tied: bool,
}

impl Sizes {
    /// Reads the keys that most families have, under the names of Llama.
    pub(crate) fn read(keys: Keys<'_>, defaults: Defaults) -> Result<Self> {
        let hidden_size = keys.size("hidden_size", most::WIDTH, None)?;
        let heads = keys.size("num_attention_heads", most::HEADS, None)?;
        let key_value_heads = Self::read_key_value_heads(keys, heads, defaults.key_value_heads)?;
        let head_dim = match keys.get::<usize>("head_dim", "a whole number")?.or(defaults.head_dim) {
            Some(head_dim) => keys.size("head_dim", most::HEADS, Some(head_dim))?,
            None => Self::head_dim(keys, "num_attention_heads", "hidden_size", hidden_size, heads)?,
        };
        Ok(Self {
            vocab_size: keys.size("vocab_size", most::VOCABULARY, None)?,
            hidden_size,
            intermediate_size: keys.size("intermediate_size", most::WIDTH, None)?,
            num_hidden_layers: keys.size("num_hidden_layers", most::LAYERS, None)?,
            num_attention_heads: heads,
            num_key_value_heads: key_value_heads,
            head_dim,
            max_position_embeddings: keys.size(
                "max_position_embeddings",
                most::POSITIONS,
                Some(defaults.positions),
            )?,
            tie_word_embeddings: keys.flag_or("tie_word_embeddings", defaults.tied)?,
            initializer_range: keys.positive("initializer_range", Some(0.02))?,
        })
    }

    /// Refuses a residual stream that heads cannot share evenly, for families that demand it whatever `head_dim` says.
    pub(crate) fn check_even_heads(keys: Keys<'_>) -> Result<()> {
        let hidden_size = keys.size("hidden_size", most::WIDTH, None)?;
        let heads = keys.size("num_attention_heads", most::HEADS, None)?;
        Self::head_dim(keys, "num_attention_heads", "hidden_size", hidden_size, heads).map(|_| ())
    }

    /// Refuses a number of rotated dimensions that is not even.
    pub(crate) fn check_rotary(&self, keys: Keys<'_>, rotated: usize) -> Result<()> {
        match rotated.is_multiple_of(2) && rotated > 0 {
            true => Ok(()),
            false if rotated == self.head_dim => {
                Err(keys.refuse("head_dim", "an even number: rotary embeddings turn pairs"))
            }
            false => {
                let expected =
                    format!("a factor of the head size {} that gives an even number", self.head_dim);
                Err(keys.refuse("partial_rotary_factor", &expected))
            }
        }
    }

    /// The width of heads that share the residual stream evenly.
    pub(crate) fn head_dim(
        keys: Keys<'_>,
        heads_key: &str,
        width_key: &str,
        width: usize,
        heads: usize,
    ) -> Result<usize> {
        match width.is_multiple_of(heads) {
            true => Ok(width / heads),
            false => Err(keys.refuse(heads_key, &format!("a divisor of {width_key} ({width})"))),
        }
    }

    fn read_key_value_heads(keys: Keys<'_>, heads: usize, default: Option<usize>) -> Result<usize> {
        const KEY: &str = "num_key_value_heads";
        let key_value_heads = keys.size(KEY, heads, Some(default.unwrap_or(heads)))?;
        match heads.is_multiple_of(key_value_heads) {
            true => Ok(key_value_heads),
            false => Err(keys.refuse(KEY, &format!("a divisor of num_attention_heads ({heads})"))),
        }
    }

    /// Width of all query heads together.
    pub(crate) fn queries(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Width of all key heads together.
    pub(crate) fn keys(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }
}

/// Reads the window of each layer: `layer_types` names those that slide; without it `slides` says so.
pub(crate) fn read_windows(
    keys: Keys<'_>,
    layers: usize,
    window: Option<usize>,
    slides: impl Fn(usize) -> bool,
) -> Result<Vec<Option<usize>>> {
    const KEY: &str = "layer_types";
    let expected = format!("{layers} times \"full_attention\" or \"sliding_attention\"");
    let Some(types) = keys.get::<Vec<String>>(KEY, &expected)? else {
        return Ok((0..layers).map(|layer| window.filter(|_| slides(layer))).collect());
    };
    if types.len() != layers {
        return Err(keys.refuse(KEY, &expected));
    }
    let of_layer = |name: &String| match (name.as_str(), window) {
        ("full_attention", _) => Ok(None),
        ("sliding_attention", Some(window)) => Ok(Some(window)),
        ("sliding_attention", None) => Err(keys.refuse("sliding_window", "the width of the sliding layers")),
        _ => Err(keys.refuse(KEY, &expected)),
    };
    types.iter().map(of_layer).collect()
}
