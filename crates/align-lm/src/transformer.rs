use align_core::{
    Error, Result,
    tch::{Kind, Tensor},
};

use crate::attention::{Attention, PackedAttention, TailAttention};
use crate::config::Output;
use crate::linear::Linear;
use crate::matrix::widened;
use crate::mlp::Mlp;
use crate::norm::{Norm, NormKind};
use crate::rope::{Rope, Rotation};
use crate::self_attention::SelfAttention;
use crate::sizes::Sizes;
use crate::tail::{Tail, select};
use crate::weights::{Builder, Role};

/// A decoder as all families have it: embeddings, blocks of attention and a feed-forward layer around a residual
/// stream, a norm and an output layer. A family says which parts there are and what their tensors are called.
#[derive(Debug)]
pub(crate) struct Transformer {
    pub(crate) embedding: Embedding,
    /// The rotary embeddings that attention layers refer to.
    pub(crate) ropes: Vec<Rope>,
    pub(crate) blocks: Vec<Block>,
    pub(crate) norm: Norm,
    pub(crate) head: Head,
}

impl Transformer {
    /// Computes the hidden states after the last norm, `[T, H]`, of tokens `[T]` at positions `[T]`.
    pub(crate) fn hidden(
        &self,
        ids: &Tensor,
        positions: &Tensor,
        attention: &mut dyn Attention,
    ) -> Result<Tensor> {
        let rotations = self.rotations(positions)?;
        let mut x = self.embedding.forward(ids, positions)?;
        for (index, block) in self.blocks.iter().enumerate() {
            x = block.forward(&x, &rotations, index, attention)?;
        }
        self.norm.forward(&x)
    }

    /// As [`Self::hidden`] for the rows of a tail alone, `[K, H]`.
    pub(crate) fn hidden_tail(
        &self,
        ids: &Tensor,
        positions: &Tensor,
        attention: &mut PackedAttention,
        tail: &Tail,
    ) -> Result<Tensor> {
        let rotations = self.rotations(positions)?;
        let mut x = self.embedding.forward(ids, positions)?;
        let Some((last, blocks)) = self.blocks.split_last() else {
            return self.norm.forward(&select(&x, Some(&tail.rows))?);
        };
        for (index, block) in blocks.iter().enumerate() {
            x = block.forward(&x, &rotations, index, attention)?;
        }
        let attention = &mut TailAttention(attention);
        self.norm.forward(&last.forward_rows(&x, &rotations, blocks.len(), attention, Some(&tail.rows))?)
    }

    /// Computes the rotations of rows at positions `[T]`.
    pub(crate) fn rotations(&self, positions: &Tensor) -> Result<Vec<Rotation>> {
        self.ropes.iter().map(|rope| rope.rotation(positions)).collect()
    }

    /// Maps hidden states `[N, H]` to logits `[N, V]`.
    pub(crate) fn head(&self, hidden: &Tensor) -> Result<Tensor> {
        self.head.forward(hidden)
    }

    /// Lists the linear layers of the blocks in order: all but the output layer.
    pub(crate) fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.blocks.iter().flat_map(|block| block.attention.linears().into_iter().chain(block.mlp.linears()))
    }

    /// As [`Self::linears`].
    pub(crate) fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        self.blocks.iter_mut().flat_map(|Block { attention, mlp, .. }| {
            attention.linears_mut().into_iter().chain(mlp.linears_mut())
        })
    }

    /// Maps hidden states `[N, H]` to scores `[N]` in float32. Bounds and normalised rows belong to logits alone.
    pub(crate) fn score(&self, hidden: &Tensor) -> Result<Tensor> {
        Ok(self.head.linear()?.forward(&hidden.f_to_kind(Kind::Float)?)?.f_reshape([-1])?)
    }

    /// Gives the score head another matrix, `[1, H]`.
    pub(crate) fn replace_score(&mut self, matrix: Tensor) {
        if let Some(linear) = &mut self.head.linear {
            linear.replace(matrix);
        }
    }

    /// Builds a decoder whose tensors have the names of Llama: `model.embed_tokens`, `model.layers.0`, `model.norm`,
    /// `lm_head`. `block` builds one block from its index and prefix.
    pub(crate) fn with_common_names(
        sizes: &Sizes,
        norm: NormKind,
        ropes: Vec<Rope>,
        take: &mut Builder<'_>,
        mut block: impl FnMut(usize, &str, &mut Builder<'_>) -> crate::Result<Block>,
    ) -> crate::Result<Self> {
        let embedding = Embedding::new(sizes, "model.embed_tokens", take)?;
        let blocks = (0..sizes.num_hidden_layers)
            .map(|index| block(index, &format!("model.layers.{index}"), take))
            .collect::<crate::Result<_>>()?;
        let norm = take.norm("model.norm", sizes.hidden_size, norm)?;
        let head = Head::new(sizes, &embedding, "lm_head", take)?;
        Ok(Self { embedding, ropes, blocks, norm, head })
    }
}

/// Maps tokens to the residual stream.
#[derive(Debug)]
pub(crate) struct Embedding {
    pub(crate) tokens: Tensor,
    /// Learned positions, `[positions, H]`.
    pub(crate) positions: Option<Tensor>,
    pub(crate) scale: f64,
    pub(crate) norm: Option<Norm>,
    /// The number format of the residual stream; that of the tables if absent.
    pub(crate) kind: Option<Kind>,
}

impl Embedding {
    /// Takes `{name}.weight`.
    pub(crate) fn new(sizes: &Sizes, name: &str, take: &mut Builder<'_>) -> crate::Result<Self> {
        let shape = [sizes.vocab_size, sizes.hidden_size];
        let tokens = take.take(format!("{name}.weight"), &shape, Role::Matrix)?;
        Ok(Self { tokens, positions: None, scale: 1.0, norm: None, kind: None })
    }

    pub(crate) fn forward(&self, ids: &Tensor, positions: &Tensor) -> Result<Tensor> {
        // Rounded where they are used, as matrices are; sums and products are formed in float32.
        let rows = |table: &Tensor, index: &Tensor| -> Result<Tensor> {
            widened(&self.in_kind(&Tensor::f_embedding(table, index, -1, false, false)?)?)
        };
        let mut x = rows(&self.tokens, ids)?;
        if self.scale != 1.0 {
            x = x.f_mul_scalar(self.scale)?;
        }
        if let Some(table) = &self.positions {
            x = x.f_add(&rows(table, positions)?)?;
        }
        if let Some(norm) = &self.norm {
            x = norm.forward(&x)?;
        }
        self.in_kind(&x)
    }

    fn in_kind(&self, x: &Tensor) -> Result<Tensor> {
        Ok(self.kind.map_or_else(|| Ok(x.shallow_clone()), |kind| x.f_to_kind(kind))?)
    }
}

/// Maps the last hidden states to logits, or to one score.
#[derive(Debug)]
pub(crate) struct Head {
    /// None on a model that ends in hidden states.
    linear: Option<Linear>,
    /// Logits are bent below this bound: cap · tanh(logit / cap).
    pub(crate) cap: Option<f64>,
    /// Whether the rows of the matrix are scaled to length 1.
    pub(crate) normalised: bool,
}

impl Head {
    /// Takes `{name}.weight`, or the embedding where it is tied; for a score `score.weight`.
    pub(crate) fn new(
        sizes: &Sizes,
        embedding: &Embedding,
        name: &str,
        take: &mut Builder<'_>,
    ) -> crate::Result<Self> {
        let linear = match take.output {
            Output::Vocabulary if sizes.tie_word_embeddings => Some(Linear::tied(&embedding.tokens)),
            Output::Vocabulary => Some(take.output_layer(name, sizes.hidden_size, sizes.vocab_size)?),
            Output::Score => Some(take.output_layer("score", sizes.hidden_size, 1)?),
            Output::None => None,
        };
        Ok(Self { linear, cap: None, normalised: false })
    }

    fn linear(&self) -> Result<&Linear> {
        self.linear.as_ref().ok_or_else(|| Error::input("output layer", "this model has none"))
    }

    fn forward(&self, hidden: &Tensor) -> Result<Tensor> {
        let logits = match self.normalised {
            true => self.linear()?.forward_normalised(hidden)?,
            false => self.linear()?.forward(hidden)?,
        };
        // What follows is computed in float32; logits carry the rounding of their product alone.
        let logits = widened(&logits)?;
        match self.cap {
            Some(cap) => Ok(logits.f_mul_scalar(1.0 / cap)?.f_tanh()?.f_mul_scalar(cap)?),
            None => Ok(logits),
        }
    }
}

/// One block: x + attention(norm(x)), then x + feed-forward(norm(x)).
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) attention_norm: Norm,
    pub(crate) attention: SelfAttention,
    pub(crate) mlp_norm: Norm,
    pub(crate) mlp: Mlp,
    /// Norms of what the two layers add to the stream.
    pub(crate) post_norms: Option<PostNorms>,
    /// Whether both layers read the same stream and are added at once.
    pub(crate) parallel: bool,
}

#[derive(Debug)]
pub(crate) struct PostNorms {
    pub(crate) attention: Norm,
    pub(crate) mlp: Norm,
}

impl Block {
    /// Puts a sequential block together from its layers and `input_layernorm` and `post_attention_layernorm` under a
    /// prefix.
    pub(crate) fn pre_norm(
        sizes: &Sizes,
        prefix: &str,
        kind: NormKind,
        attention: SelfAttention,
        mlp: Mlp,
        take: &mut Builder<'_>,
    ) -> crate::Result<Self> {
        let mut norm = |name: &str| take.norm(&format!("{prefix}.{name}"), sizes.hidden_size, kind);
        Ok(Self {
            attention_norm: norm("input_layernorm")?,
            attention,
            mlp_norm: norm("post_attention_layernorm")?,
            mlp,
            post_norms: None,
            parallel: false,
        })
    }

    pub(crate) fn forward(
        &self,
        x: &Tensor,
        rotations: &[Rotation],
        index: usize,
        attention: &mut dyn Attention,
    ) -> Result<Tensor> {
        self.forward_rows(x, rotations, index, attention, None)
    }

    /// As [`Self::forward`] of some of the rows, which see all of them; `attention` knows which.
    pub(crate) fn forward_rows(
        &self,
        x: &Tensor,
        rotations: &[Rotation],
        index: usize,
        attention: &mut dyn Attention,
        rows: Option<&Tensor>,
    ) -> Result<Tensor> {
        let normed = self.attention_norm.forward(x)?;
        let mut attended = self.attention.forward(&normed, rotations, index, attention, rows)?;
        if let Some(norms) = &self.post_norms {
            attended = norms.attention.forward(&attended)?;
        }
        let x = select(x, rows)?;
        let stream = x.f_add(&attended)?;
        let read = if self.parallel { &x } else { &stream };
        let mut added = self.mlp.forward(&self.mlp_norm.forward(read)?)?;
        if let Some(norms) = &self.post_norms {
            added = norms.mlp.forward(&added)?;
        }
        Ok(stream.f_add(&added)?)
    }

    /// Counts the numbers per token that autograd keeps of this block.
    ///
    /// Input, normalised rows and output of each norm; rotated queries, the attention output and its concatenation;
    /// keys and values, and again as the attention kernel repeats them; the inner rows of the feed-forward layer.
    pub(crate) fn activations(&self, sizes: &Sizes) -> usize {
        let (queries, keys) = (sizes.queries(), sizes.keys());
        let norms = if self.post_norms.is_some() { 4 } else { 2 };
        let head_norms = if self.attention.head_norms.is_some() { 2 * (queries + keys) } else { 0 };
        let inner = sizes.intermediate_size * self.mlp.activations();
        3 * norms * sizes.hidden_size + 3 * queries + 4 * keys + head_norms + inner
    }
}
