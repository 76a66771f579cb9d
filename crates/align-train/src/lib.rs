//! Optimiser, schedule, accumulation, checkpoints with exact resume and the run folder
