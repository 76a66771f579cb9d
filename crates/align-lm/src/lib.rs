//! Decoder-only transformers from Hugging Face folders: packed forward, key-value cache, saving.
//!
//! [`Model`] loads a folder, implements [`align_core::CausalLm`] for training and scoring over packed prompt groups
//! and [`align_core::CachedLm`] for sampling, and saves a folder that transformers loads. [`SequenceClassifier`] is the
//! same transformer with one score per completion (a reward model), [`ValueNetwork`] and [`PolicyWithValue`] have a value
//! for every token (the critic of PPO). [`Model::add_adapter`] freezes a model and trains a low-rank adapter instead. An
//! architecture is one file over shared parts; [`SUPPORTED_FAMILIES`] lists those that are built.
//!
//! There is no loss here, no optimiser and no tokenizer.

mod adapter;
mod attention;
mod baichuan;
mod bloom;
mod cache;
mod calls;
mod chatglm;
mod checkpoint;
mod classifier;
mod config;
mod error;
mod gemma;
mod gemma2;
mod gemma3;
mod glm;
mod gpt2;
mod gpt_neox;
mod keys;
mod linear;
mod llama;
mod matrix;
mod memory;
mod mistral;
mod mlp;
mod model;
mod nf4;
mod norm;
mod phi3;
mod plain;
mod qwen2;
mod qwen3;
mod recompute;
mod rope;
mod save;
mod self_attention;
mod sizes;
mod tail;
mod transformer;
mod value;
mod value_head;
mod weights;

pub use adapter::{AdapterOptions, LinearLayer};
pub use baichuan::BaichuanConfig;
pub use bloom::BloomConfig;
pub use chatglm::ChatGlmConfig;
pub use classifier::SequenceClassifier;
pub use config::{FamilyConfig, ModelConfig, SUPPORTED_FAMILIES};
pub use error::{Error, Result};
pub use gemma::GemmaConfig;
pub use gemma2::Gemma2Config;
pub use gemma3::Gemma3Config;
pub use glm::GlmConfig;
pub use gpt_neox::GptNeoxConfig;
pub use gpt2::Gpt2Config;
pub use llama::LlamaConfig;
pub use memory::MemoryEstimate;
pub use mistral::MistralConfig;
pub use mlp::Activation;
pub use model::{FrozenStorage, LoadOptions, Model, Trainable};
pub use phi3::Phi3Config;
pub use plain::{PlainDecoder, PlainLayer, PlainLinear};
pub use qwen2::Qwen2Config;
pub use qwen3::Qwen3Config;
pub use rope::{RopeConfig, RopeScaling};
pub use save::{Companions, SaveDtype, interrupted_save};
pub use sizes::Sizes;
pub use value::{PolicyWithValue, ValueNetwork};
