//! Sampling from causal language models: key-value cache, continuous slots, one random stream per sample
