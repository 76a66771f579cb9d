//! Packed batches, token log-probabilities, KL estimators and the tensor traits that alignment algorithms share
