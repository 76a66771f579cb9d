//! The objectives that a training loop takes, over the pure functions of this crate.

mod actor_critic;
mod critic;
mod online_dpo;
mod policy;
mod references;
mod rows;

pub use actor_critic::ActorCriticObjective;
pub use critic::CriticObjective;
pub use online_dpo::OnlineDpoObjective;
pub use policy::PolicyObjective;
pub use references::References;
