//! Checks of a run: said once, in the summary, the same after a resume, and without effect on what is learned.

use crate::common;

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use align_core::align_types::{HealthCheck, Rule};
use align_train::{Hooks, Progress};
use common::{Setup, final_weights, summary};

/// Keeps warnings.
struct Heard(Rc<RefCell<Vec<String>>>);

impl Progress for Heard {
    fn warn(&mut self, text: &str) {
        self.0.borrow_mut().push(text.to_owned());
    }
}

fn checks() -> Vec<HealthCheck> {
    // A mean over blocks of steps that end between checkpoints.
    let positive = Rule::Outside { metric: "loss", low: f64::NEG_INFINITY, high: 0.0, steps: 14 };
    let no_gradient = Rule::Stuck { metric: "grad_norm", value: 0.0, steps: 1 };
    let always = Rule::Always { metric: "margins", value: 7.5, steps: 1 };
    [("positive", positive), ("no-gradient", no_gradient), ("always", always)]
        .map(|(name, rule)| HealthCheck { name, rule, meaning: "as it should" })
        .into()
}

fn run(
    setup: &Setup,
    folder: &Path,
    save: impl Fn(&common::TinyLm, &Path) -> Result<(), align_train::BoxError>,
) -> Vec<String> {
    let heard = Rc::new(RefCell::new(Vec::new()));
    let hooks = |hooks: &mut Hooks<'_>| {
        hooks.checks = checks();
        hooks.progress = Box::new(Heard(Rc::clone(&heard)));
    };
    // A run that cannot save ends in an error.
    let _ = setup.run_with(folder, save, hooks);
    heard.take()
}

#[test]
fn warnings_are_said_once_and_listed_and_a_resume_does_not_repeat_them() {
    let setup = Setup { steps: 60, ..Setup::default() };
    let straight = tempfile::tempdir().unwrap();
    let said = run(&setup, straight.path(), |model, folder| model.save(folder));
    let [warning] = said.as_slice() else { panic!("{said:?}") };
    let listed = summary(straight.path())["warnings"].clone();
    let step = listed[0]["step"].as_u64().unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert_eq!(listed[0]["check"], "positive");
    assert_eq!(step, 14);
    let message = listed[0]["message"].as_str().unwrap();
    assert_eq!(*warning, format!("step {step}: {message}"));
    assert!(message.starts_with("loss is ") && message.ends_with(": as it should"), "{message}");

    // Torn before the warning and after it: said by the process that does the step, and in the summary once.
    for torn in [step - step % 5, step + 10 - step % 5] {
        let folder = tempfile::tempdir().unwrap();
        let name = format!(".tmp-step-{torn}/model");
        let fails = |model: &common::TinyLm, to: &Path| {
            if to.ends_with(&name) { Err("no more".into()) } else { model.save(to) }
        };
        let before = run(&setup, folder.path(), fails);
        let after = run(&setup, folder.path(), |model, folder| model.save(folder));
        let known = torn - 5 >= step;
        assert_eq!(
            (before.len(), after.len()),
            (usize::from(torn >= step), usize::from(!known)),
            "torn at {torn}"
        );
        assert_eq!(summary(folder.path())["warnings"], listed);
        assert_eq!(final_weights(folder.path()), final_weights(straight.path()));
    }
}

#[test]
fn a_run_without_checks_has_the_same_bits_and_an_empty_list() {
    let setup = Setup::default();
    let [checked, plain] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    run(&setup, checked.path(), |model, folder| model.save(folder));
    setup.run(plain.path(), |_| {}).unwrap();
    assert_eq!(final_weights(checked.path()), final_weights(plain.path()));
    assert_eq!(summary(plain.path())["warnings"], serde_json::json!([]));
}
