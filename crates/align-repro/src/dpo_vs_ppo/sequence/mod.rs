//! Part 3: expressions are compiled for a small stack machine, with an exact reward.
//!
//! A small GPT-2 learns from demonstrations of which 27 % overflow the stack; then every method gets the same number of
//! sampled programs and is read on held-out prompts.

pub mod arms;
pub mod curves;
pub mod feedback;
pub mod machine;
pub mod on_policy;
pub mod policy;
pub mod rounds;
mod show;
pub mod task;
pub mod vocabulary;

pub use arms::{Sequence, SequenceArm, SequenceSize};

/// Where the task departs from its plan, and what the plan left open.
pub(super) const DEVIATIONS: &[&str] = &[
    "Sequence task: biases of the policy begin at 0 and the value head as the library makes it; matrices and embeddings are drawn with \
     standard deviation 0.02.",
    "Sequence task: every number of steps of SFT that is tried is a run of its own from the same weights, whose learning rate falls \
     over its own length. The quick size has one number, 220.",
    "Sequence task: what the source of the settings leaves open was written down before the first run that counts, with a pilot run on \
     seed 1000, which is not reported. Rejection sampling has the learning rate of DPO with an SFT term, 1e-4, and 4 passes. Online DPO \
     has the settings of tuned iterative DPO in 48 rounds of 32 prompts, one reference and one optimiser, and takes the first 64 \
     pairs of a round 4 times; where there are fewer they go round. Its frozen twin reads the shared offline answers in the same slices.",
    "Sequence task: the control with labels by lot makes 2 passes where DPO makes 4. Entropy is the mean of −log π over sampled \
     tokens.",
];
