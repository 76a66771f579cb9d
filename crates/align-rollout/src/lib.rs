//! Sampling from causal language models: key-value cache, continuous slots, one random stream per sample.
//!
//! [`TensorGenerator`] draws completions from any [`CachedLm`](align_core::CachedLm), [`Engine`] several times faster
//! from models of the Llama shape on a CPU, both behind the seam [`Generator`](align_core::align_types::Generator);
//! [`auto_generator`] chooses. [`sampling`] holds the arithmetic on one row of logits.
//!
//! ```
//! use align_core::align_types::{Generator, config::SamplingConfig};
//! use align_core::tch::Tensor;
//! use align_rollout::TensorGenerator;
//! use align_testkit::BigramLm;
//!
//! // Token 0 is followed by 1, 1 by 2; 2 ends a completion.
//! let table = Tensor::from_slice(&[0.0f32, 9.0, 0.0, 0.0, 0.0, 9.0, 0.0, 0.0, 9.0]).reshape([3, 3]);
//! let model = BigramLm::new(&table);
//! let mut generator = TensorGenerator::new(&model, vec![2]);
//! let config = SamplingConfig { greedy: true, ..SamplingConfig::default() };
//! let groups = generator.generate(&[vec![0]], &config, 0)?;
//! assert_eq!(groups[0].completions[0].token_ids, [1, 2]);
//! # Ok::<(), align_core::align_types::Error>(())
//! ```

mod auto;
mod door;
mod engine;
mod error;
mod generator;
pub mod sampling;
mod sequence;
mod settings;
mod slots;
mod stop;
mod tensors;
mod work;

pub use auto::{AutoGenerator, auto_generator};
pub use engine::{Engine, Instructions};
pub use error::{BoxError, Error, Result};
pub use generator::TensorGenerator;
