//! Three full-batch steps of every offline loss of TRL 1.16; fixtures/trl/three_steps.py made the numbers.
#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code)]
mod support;

use align_data::ShuffledRows;
use align_testkit::fixture;
use align_types::PromptGroup;
use serde_json::{Map, Value};
use support::{align, json_lines, tiny_llama};

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

/// A loss that looks at the policy alone has no implicit rewards: β log π is logged under names of its own.
const SFT: &[(&str, &str)] =
    &[("rewards/", "TRL computes a reference for rewards that the loss does not see")];

const AVERAGES: &[(&str, &str)] = &[
    ("logps/", "TRL logs averages per token under this name, `align` always sums"),
    ("nll_loss", "part of the loss, which is compared"),
    ("log_odds_chosen", "part of the loss, which is compared"),
];

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
    Case { name: "orpo", line: "dpo pairs --loss-type orpo", except: AVERAGES },
    case("kto", "kto labels"),
    case("kto, weighted", "kto labels --desirable-weight 1.5 --undesirable-weight 0.5"),
    case("kto, mostly praise", "kto praise"),
    case("kto, mostly praise, beta 1", "kto praise --beta 1"),
    case("apo_zero_unpaired", "kto labels --loss-type apo_zero_unpaired"),
];

const CPO: &[(&str, &str)] = &[("nll_loss", "part of the loss, which is compared")];

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

fn read() -> Value {
    serde_json::from_slice(&std::fs::read(fixture("trl/three_steps.json")).unwrap()).unwrap()
}
