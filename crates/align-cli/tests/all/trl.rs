//! Three full-batch steps of every loss of rows in TRL 1.16; fixtures/trl/three_steps.py made the numbers. What TRL has
//! and is not here stands in the README of align-losses.

use crate::support;

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use align_data::ShuffledRows;
use align_testkit::fixture;
use align_types::PromptGroup;
use serde_json::Value;
use support::{align, copy_of_tiny_llama, json_lines, reward_model, tiny_llama};

/// Relative difference that is allowed.
const TOLERANCE: f64 = 1e-3;

/// A case of the fixture and how `align` is asked for the same.
struct Case {
    /// Its name in three_steps.json.
    name: &'static str,
    /// Command, rows and flags.
    line: &'static str,
    /// What TRL logs and is not compared, with the reason.
    except: &'static [(&'static str, &'static str)],
}

const fn case(name: &'static str, line: &'static str) -> Case {
    Case { name, line, except: &[] }
}

/// A loss of the policy alone has no implicit reward: `align` logs β log π under `reference_free/`.
const SFT: &[(&str, &str)] = &[("rewards/", "TRL runs a reference for rewards that the loss does not see")];

const NLL: (&str, &str) = ("nll_loss", "a summand of the loss, which is compared");

const CPO: &[(&str, &str)] = &[NLL];

const MEANS: (&str, &str) = ("logps/", "TRL logs averages per token under this name, `align` always sums");

const AVERAGES: &[(&str, &str)] = &[MEANS, NLL];

/// TRL logs the bent scores as rewards; their order is that of the averages, so that accuracies are compared.
const ALPHAPO: &[(&str, &str)] = &[
    ("rewards/chosen", "TRL bends it, `align` logs β times the average"),
    ("rewards/rejected", "TRL bends it, `align` logs β times the average"),
    ("rewards/margins", "of two numbers that TRL bends"),
    MEANS,
    NLL,
];

const ORPO: &[(&str, &str)] =
    &[MEANS, ("log_odds_chosen", "an inner number of the loss, which is compared"), NLL];

/// TRL's ORPO averages the likelihood over prompt and answer, `align` over the answer as the paper has it: other losses
/// and other updates. The odds do not see the difference, nor do rewards before the first update; `orpo` of the
/// fixture is TRL's trainer with the likelihood of the answer.
const ORPO_OF_TRL: &[(&str, &str)] = &[
    ("loss", "averages over prompts too"),
    ("grad_norm", "averages over prompts too"),
    ("logps/", "averages per token"),
    ("log_odds_chosen", "an inner number of the loss"),
    NLL,
];

/// KTO has no pairs, so that no margin or accuracy of a pair is logged.
const LABELS: &[(&str, &str)] = &[("rewards/margins", "the difference of two numbers that are compared")];

const CASES: &[Case] = &[
    case("sigmoid", "dpo pairs"),
    case("hinge", "dpo pairs --loss-type hinge"),
    case("ipo", "dpo pairs --loss-type ipo"),
    case("exo_pair", "dpo pairs --loss-type exo_pair --label-smoothing 1e-3"),
    case("nca_pair", "dpo pairs --loss-type nca_pair"),
    case("robust", "dpo pairs --loss-type robust --label-smoothing 0.1"),
    case("bco_pair", "dpo pairs --loss-type bco_pair"),
    case("sppo_hard", "dpo pairs --loss-type sppo_hard"),
    case("aot", "dpo pairs --loss-type aot"),
    case("aot, smoothed", "dpo pairs --loss-type aot --label-smoothing 0.1"),
    case("aot_unpaired", "dpo pairs --loss-type aot_unpaired"),
    case("aot_unpaired, smoothed", "dpo pairs --loss-type aot_unpaired --label-smoothing 0.1"),
    case("apo_zero", "dpo pairs --loss-type apo_zero"),
    case("apo_down", "dpo pairs --loss-type apo_down"),
    case("discopop", "dpo pairs --loss-type discopop"),
    case("discopop, tau 0.5", "dpo pairs --loss-type discopop --discopop-tau 0.5"),
    Case { name: "sft", line: "dpo pairs --loss-type sft", except: SFT },
    case("sigmoid_norm", "dpo pairs --loss-type sigmoid_norm"),
    case("beta 0.5", "dpo pairs --beta 0.5"),
    case("rpo", "dpo pairs --loss-type sigmoid --loss-type sft --loss-weights 1 --loss-weights 0.2"),
    case(
        "mpo",
        "dpo pairs --loss-type sigmoid --loss-type bco_pair --loss-type sft --loss-weights 0.8 --loss-weights 0.2 \
         --loss-weights 1",
    ),
    case("aot and ipo", "dpo pairs --loss-type aot --loss-type ipo --loss-weights 1 --loss-weights 0.01"),
    case("forward_kl", "dpo pairs --f-divergence-type forward_kl"),
    case("js_divergence", "dpo pairs --f-divergence-type js_divergence"),
    case("alpha_divergence", "dpo pairs --f-divergence-type alpha_divergence --f-alpha-divergence-coef 0.3"),
    case("ipo of forward_kl", "dpo pairs --loss-type ipo --f-divergence-type forward_kl"),
    case("hinge of js_divergence", "dpo pairs --loss-type hinge --f-divergence-type js_divergence"),
    case("ld_alpha", "dpo pairs --ld-alpha 0.5"),
    case("ld_alpha 0 with sft", "dpo pairs --loss-type sigmoid --loss-type sft --ld-alpha 0"),
    case("use_weighting", "dpo pairs --use-weighting"),
    case("ipo with use_weighting", "dpo pairs --loss-type ipo --use-weighting"),
    case("precompute_ref_log_probs", "dpo pairs --precompute-ref-log-probs"),
    case("sync_ref_model", "dpo pairs --sync-ref-model --ref-model-mixup-alpha 0.6 --ref-model-sync-steps 1"),
    Case { name: "cpo", line: "dpo pairs --loss-type cpo", except: CPO },
    Case {
        name: "cpo, smoothed",
        line: "dpo pairs --loss-type cpo --label-smoothing 0.1 --cpo-alpha 0.5",
        except: CPO,
    },
    Case { name: "simpo", line: "dpo pairs --loss-type simpo --beta 2 --simpo-gamma 1", except: AVERAGES },
    Case {
        name: "cpo-simpo",
        line: "dpo pairs --loss-type simpo --loss-type sft --loss-weights 1 --loss-weights 0.5",
        except: AVERAGES,
    },
    Case {
        name: "cpo, hinge",
        line: "dpo pairs --loss-type hinge --loss-type sft --reference-free",
        except: CPO,
    },
    Case {
        name: "cpo, ipo",
        line: "dpo pairs --loss-type ipo --loss-type sft --loss-weights 1,0.5 --reference-free",
        except: AVERAGES,
    },
    Case {
        name: "alphapo",
        line: "dpo pairs --loss-type simpo --beta 2 --simpo-gamma 0.1 --simpo-alpha 0.25",
        except: ALPHAPO,
    },
    case("tpo", "dpo pairs --loss-type cpo"),
    case("tpo, hinge", "dpo pairs --loss-type hinge --loss-type sft --loss-weights 1,0.5 --reference-free"),
    Case { name: "tpo, ipo", line: "dpo pairs --loss-type ipo --reference-free", except: &[MEANS] },
    Case {
        name: "tpo-l",
        line: "dpo pairs --loss-type simpo --loss-type sft --beta 2 --simpo-gamma 1 --label-smoothing 0.1",
        except: &[MEANS],
    },
    Case { name: "orpo", line: "dpo pairs --loss-type orpo", except: ORPO },
    Case { name: "orpo of trl", line: "dpo pairs --loss-type orpo", except: ORPO_OF_TRL },
    Case { name: "kto", line: "kto labels", except: LABELS },
    Case {
        name: "kto, weighted",
        line: "kto labels --desirable-weight 1.5 --undesirable-weight 0.5",
        except: LABELS,
    },
    Case { name: "kto, mostly praise", line: "kto praise", except: LABELS },
    Case { name: "kto, mostly praise, beta 1", line: "kto praise --beta 1", except: LABELS },
    Case { name: "apo_zero_unpaired", line: "kto labels --loss-type apo_zero_unpaired", except: LABELS },
    case("nll", "sft answers"),
    case("nll of texts", "sft texts"),
    case("nll of what the assistant says", "sft chats --train-on assistant"),
    case("dft", "sft answers --loss-type dft"),
    case("dft of texts", "sft texts --loss-type dft"),
    case("reward", "reward pairs"),
    case("reward with margins", "reward margins"),
    case("reward, centred", "reward pairs --center-rewards-coefficient 0.01"),
    case("reward with margins, centred", "reward margins --center-rewards-coefficient 0.1"),
];

/// Returns the name that a number of TRL's log has here, without a reference and with one.
fn names(key: &str) -> [String; 2] {
    let name = match key {
        "accuracy" => "rewards/accuracies",
        "margin" => "rewards/margins",
        "mean_reward" => "rewards/mean",
        other => other,
    };
    [name.replace("rewards/", "reference_free/"), name.to_owned()]
}

/// The models that the cases begin with, those of fixtures/trl/three_steps.py.
struct Models {
    /// Answers rows.
    plain: PathBuf,
    /// Says in its template what the assistant wrote.
    chat: PathBuf,
    /// Scores answers.
    reward: PathBuf,
}

impl Models {
    fn make(folder: &Path) -> Self {
        let chat = copy_of_tiny_llama(folder, "chat");
        std::fs::copy(fixture("trl/chats.jinja"), chat.join("chat_template.jinja")).unwrap();
        Self { plain: tiny_llama(), chat, reward: reward_model(folder, "reward") }
    }

    fn of(&self, command: &str, rows: &str) -> &Path {
        match (command, rows) {
            ("reward", _) => &self.reward,
            (_, "chats") => &self.chat,
            _ => &self.plain,
        }
    }
}

/// The batches of three epochs of `rows` rows, as a run with seed 0 takes them.
fn orders(rows: usize) -> Vec<Vec<usize>> {
    let groups = vec![PromptGroup::new(vec![1], Vec::new()); rows];
    let mut source = ShuffledRows::new(groups, rows, 0, 3).unwrap();
    (0..3).map(|step| source.indices(step)).collect()
}

#[test]
fn the_orders_that_trl_was_given_are_those_of_our_runs() {
    let fixture = read();
    for (rows, orders_of_trl) in fixture["orders"].as_object().unwrap() {
        let ours = serde_json::to_value(orders(rows.parse().unwrap())).unwrap();
        assert_eq!(
            &ours, orders_of_trl,
            "write these orders of {rows} rows into fixtures/trl/three_steps.py"
        );
    }
}

/// A difference of a run from the fixture.
fn differences(case: &Case, run: &Value, fixture: &Value) -> Vec<String> {
    let (mut found, mut compared) = (Vec::new(), 0);
    let steps = fixture["cases"][case.name]["steps"].as_array().unwrap();
    let run = run.as_array().unwrap();
    assert_eq!(run.len(), steps.len(), "{}", case.name);
    for (ours, theirs) in run.iter().zip(steps) {
        // Rewards after an update that is not the same are not comparable.
        let updated = ours["step"] != 1 && case.except.iter().any(|(key, _)| *key == "loss");
        for (key, value) in theirs.as_object().unwrap() {
            let left_out = case.except.iter().any(|(except, _)| key.starts_with(except));
            if left_out || (updated && key != "learning_rate") {
                continue;
            }
            let number = names(key).iter().find_map(|name| ours.get(name)).and_then(Value::as_f64);
            let trl = value.as_f64().unwrap();
            compared += 1;
            // The floor is for zeros: margins before the first update are exactly 0 in both programs.
            if number.is_none_or(|number| (number - trl).abs() > (TOLERANCE * trl.abs()).max(1e-6)) {
                found.push(format!(
                    "{}, step {}: {key} is {number:?}, TRL has {trl}",
                    case.name, ours["step"]
                ));
            }
        }
    }
    assert!(compared >= 7, "{}: {compared} numbers are compared", case.name);
    found
}

#[test]
fn three_full_batch_steps_follow_trl() {
    let fixture_of_trl = read();
    let settings = &fixture_of_trl["settings"];
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let models = Models::make(folder);
    let run = |(index, case): (usize, &Case)| {
        let (command, rest) = case.line.split_once(' ').unwrap();
        let (rows, flags) = rest.split_once(' ').unwrap_or((rest, ""));
        let model = models.of(command, rows);
        let rows = fixture(&format!("trl/{rows}.jsonl"));
        let count = std::fs::read_to_string(&rows).unwrap().lines().count();
        let line = format!(
            "{command} --model {} --data {} --output-dir {{{index}}} --batch-size {count} --max-steps {} \
             --learning-rate {} --max-grad-norm {} --lr-scheduler {} --log-every 1 --samples 0 --save-every 0 \
             --threads 1 {flags}",
            model.display(),
            rows.display(),
            settings["steps"],
            settings["learning_rate"],
            settings["max_grad_norm"],
            settings["lr_scheduler"].as_str().unwrap(),
        );
        align(folder, &line).ok();
        let run = json_lines(&folder.join(index.to_string()).join("metrics.jsonl"));
        differences(case, &run.into(), &fixture_of_trl)
    };
    let waiting = Mutex::new(CASES.iter().enumerate());
    let found = Mutex::new(Vec::new());
    let work = || {
        while let Some(case) = { waiting.lock().unwrap().next() } {
            let differences = run(case);
            found.lock().unwrap().extend(differences);
        }
    };
    // This is among the last tests, when nothing else is left for the other core.
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(work);
        }
    });
    let found = found.into_inner().unwrap();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// A case that the fixture has and no run follows, or a deviation without effect, would be a hole in the comparison.
#[test]
fn every_case_of_the_fixture_is_followed() {
    let fixture = read();
    let of_trl: Vec<&str> = fixture["cases"].as_object().unwrap().keys().map(String::as_str).collect();
    let ours: Vec<&str> = CASES.iter().map(|case| case.name).collect();
    assert_eq!(ours, of_trl);
    for case in CASES {
        let steps = fixture["cases"][case.name]["steps"].as_array().unwrap();
        for (key, why) in case.except {
            let logged =
                steps.iter().any(|step| step.as_object().unwrap().keys().any(|k| k.starts_with(key)));
            assert!(logged && !why.is_empty(), "{}: TRL logs no {key}", case.name);
        }
    }
}

fn read() -> Value {
    serde_json::from_slice(&std::fs::read(fixture("trl/three_steps.json")).unwrap()).unwrap()
}
