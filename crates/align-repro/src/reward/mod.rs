//! Reward models of the environment STYLE: comparisons of answers with a hidden gold reward, small reward models trained
//! on them, and what they are good for.
//!
//! Answers come from writers of all skills and, now and then, from one who says two pleasing words over and over
//! ([`world`]); gold punishes repetition, and few comparisons show it. A reward model is a small Llama with a score head
//! ([`model`]) that learns from rankings or pairs ([`data`]). It is judged by fresh pairs and by best-of-n
//! ([`best_of_n`]); an experiment may train policies on the rewards as well ([`policy`]). Experiments are plans whose arms are data ([`study`]).

pub mod best_of_n;
mod combine;
pub mod data;
pub mod figure;
pub mod model;
pub mod policy;
mod proxy;
pub mod settings;
mod show;
pub mod study;
mod trial;
pub mod world;
