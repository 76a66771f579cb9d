//! On-policy alignment: PPO as the papers practise it, RLOO, GRPO and their relatives.
