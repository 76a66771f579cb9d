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
    "Sequence task: the paper trains code models of 7 and 34 billion parameters on competition problems; here a policy of 0.4 million \
     parameters writes programs of at most ten tokens for a stack machine, with hidden tests as reward. Greedy and sampled \
     pass@1 are both primary, were both fixed before the run and are both printed.",
    "Sequence task: settings come from a prototype with seeds of its own, where 23 settings of DPO and 20 of PPO were tried on one \
     seed, on validation prompts. There the critic of its own became the main arm, and sampled pass@1 the second primary metric, \
     after two more seeds had been seen; three further seeds, with nothing changed, gave the same verdicts.",
    "Sequence task: every method has the same number of sampled answers. Training compute is reported beside it and not \
     equalised: the arms of DPO take more passes over their answers than PPO does.",
    "Sequence task: an answer without END has the reward 0 and no value is put in its place. Ablations are made on the PPO \
     whose critic shares the policy's transformer, one at a time. Where rewards are 0 or 10 and not whitened, the KL \
     weight is ten times as large and values are normalised by a running mean and deviation.",
    "Sequence task: the control with random reward must not rise; it does not stay where it was, because whitening turns noise \
     into steps of full size.",
    "Sequence task: k1 in the loss, whose gradient is 0 in expectation, is no arm: `align` refuses it. The arms of k2 and k3 are \
     compared where they end, with whitened advantages, which scale the KL in the reward and not that in the loss: they \
     show whether the choice matters here, not that gradients are equal.",
    "Sequence task: biases of the policy begin at 0, matrices and embeddings are drawn with standard deviation 0.02, and weight decay \
     spares norms and biases. The value head begins at 0.",
    "Sequence task: every number of steps of SFT that is tried is a run of its own from the same weights, whose learning rate falls \
     over its own length. The quick size had 220 alone at first; the plan says why it has the rule of the others.",
    "Sequence task: what the source of the settings leaves open was written down before the first run that counts, with a pilot run on \
     seed 1000, which is not reported. Rejection sampling has the learning rate of DPO with an SFT term, 1e-4, and 4 passes. Online DPO \
     has the settings of tuned iterative DPO in 48 rounds of 32 prompts, one reference and one optimiser, and takes the first 64 \
     pairs of a round 4 times; where there are fewer they go round. Its frozen twin reads the shared offline answers in the same slices, \
     so that its prompts are others. These four arms were not tuned: a gap against them is weaker evidence than one against tuned arms.",
    "Sequence task: the control with labels by lot makes 2 passes where DPO makes 4. Entropy is the mean of −log π over sampled \
     tokens. Controls with rewards of unit scale and with a reference that equals the policy were not run.",
];
