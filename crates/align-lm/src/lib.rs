//! Decoder-only transformers from Hugging Face folders: packed forward, key-value cache, saving.
//!
//! [`Model`] loads a folder, implements [`align_core::CausalLm`] for training and scoring over packed prompt groups
//! and [`align_core::CachedLm`] for sampling, and saves a folder that transformers loads. An architecture is one
//! file over shared parts; [`SUPPORTED_FAMILIES`] lists those that are built.
//!
//! There is no loss here, no optimiser and no tokenizer.

mod attention;
mod cache;
mod checkpoint;
mod config;
mod error;
mod keys;
mod llama;
mod memory;
mod model;
mod plain;
mod rope;
mod save;
mod weights;

pub use config::{FamilyConfig, LlamaConfig, ModelConfig, SUPPORTED_FAMILIES, stop_token_ids};
pub use error::{Error, Result};
pub use memory::MemoryEstimate;
pub use model::{LoadOptions, Model, Trainable};
pub use plain::{PlainDecoder, PlainLayer, PlainLinear};
pub use rope::{RopeConfig, RopeScaling};
pub use save::SaveDtype;
