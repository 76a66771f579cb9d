//! The environment STYLE: short texts on request, a hidden gold reward, noisy feedback, and a small policy.
//!
//! A prompt names two topics to write about and one to avoid; an answer has 20 tokens. The gold reward is a
//! deterministic rule ([`gold`]) that training sees through feedback with stated noise only ([`feedback`]). The
//! policy is a small Llama that is fine-tuned on the writing of people of all skills ([`policy`]); every arm starts
//! there, sweeps the same grid and is chosen on validation requests ([`sweep`]). Experiments are plans whose arms
//! are data ([`study`]).

mod baseline;
pub mod feedback;
pub mod gold;
pub mod policy;
mod show;
pub mod study;
pub mod sweep;
pub mod words;
