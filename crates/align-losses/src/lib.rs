//! SFT and DPO losses as pure functions over per-item terms
