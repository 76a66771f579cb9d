//! The plans of the experiments that train on their own samples.
#![allow(clippy::unwrap_used, reason = "a test fails by a panic")]

use align_repro::{
    abstain::{self, Abstain},
    on_policy::study::{MethodStudy, Options},
};

#[test]
fn plans_that_do_not_fit_are_refused() {
    for (from, to, word) in [
        ("dpo-both = { kind", "dpo-bot = { kind", "dpo-both has no settings"),
        ("of = \"ppo-free\"", "of = \"ppo-fre\"", "ppo-fre, which does not exist"),
        ("taught = { metric", "taugh = { metric", "taught has no figure"),
        ("num_ppo_epochs", "num_ppo_epoch", "num_ppo_epoch"),
    ] {
        let plan = abstain::TEXTS.plan.replace(from, to);
        assert_ne!(plan, abstain::TEXTS.plan);
        let error =
            MethodStudy::<Abstain>::new(abstain::TEXTS, Options { plan: Some(plan), ..Default::default() })
                .unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
}
