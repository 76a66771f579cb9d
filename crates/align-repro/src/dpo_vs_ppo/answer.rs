use crate::{
    outcome::Outcome,
    report::signed,
    verdict::{ControlVerdict, Verdict},
};

const THEOREM: &[&str] = &[
    "dpo-minimum",
    "ppo-solution-is-dpo-minimum",
    "ppo-refuses",
    "ppo-subset",
    "transient-peak",
    "transient-falls",
    "transient-never",
    "abstain-optimum",
    "answer-threshold",
];
const TOY: &[&str] = &["h3-p1-end", "h8-p1-end", "h3-p1-kl", "h3-p1-order", "h8-p1-order"];
const TOY_CONTROLS: &[&str] = &["h32-p1-end", "h3-p1-uniform-end", "h8-p3-uniform-end", "h32-p3-uniform-end"];

/// Says in three sentences what the verdicts mean; every word depends on them.
pub(super) fn answer(outcome: &Outcome) -> Vec<String> {
    vec![theorem(outcome), toy(outcome), pairs(outcome)]
}

fn not_run(outcome: &Outcome, ids: &[&str]) -> bool {
    ids.iter().all(|id| outcome.verdict(id) == Verdict::NotRun)
}

fn theorem(outcome: &Outcome) -> String {
    let text = if not_run(outcome, THEOREM) {
        "The theorem was not evaluated in this run."
    } else if outcome.reproduced(THEOREM) {
        "Theorem 4.1 holds where it can be computed exactly: a policy with 90 % of its mass on a response that \
         neither data nor reference show is a perfect minimiser of DPO's loss, while PPO's objective refuses it, and \
         every PPO solution is a DPO minimiser too."
    } else {
        "Theorem 4.1 was NOT confirmed by the exact evaluation; the table shows where."
    };
    text.to_owned()
}

fn mean(outcome: &Outcome, id: &str) -> String {
    let evidence = outcome.claims.iter().find(|c| c.claim.id == id).and_then(|c| c.evidence);
    evidence.map_or_else(|| "–".to_owned(), |e| signed(e.estimate.mean, 3))
}

fn toy(outcome: &Outcome) -> String {
    if not_run(outcome, TOY) {
        return "The 8 × 8 study was not run.".to_owned();
    }
    let whole = TOY.iter().all(|id| outcome.verdict(id) != Verdict::NotRun)
        && TOY_CONTROLS.iter().all(|id| outcome.control_verdict(id) != ControlVerdict::NotRun);
    if !whole {
        return "The 8 × 8 study was run in part only, which answers nothing.".to_owned();
    }
    let controls = if TOY_CONTROLS.iter().all(|id| outcome.control_verdict(id) == ControlVerdict::Holds) {
        "and the controls (wide network, near-uniform reference) behave as they must"
    } else {
        "but not every control behaved, so the study does not count"
    };
    let end = mean(outcome, "h3-p1-end");
    let matched = mean(outcome, "h3-p1-kl");
    if outcome.reproduced(TOY) {
        format!(
            "In the 8 × 8 study with a narrow network and a fine-tuned reference DPO ends with more probability \
             outside the data than PPO ({end} at width 3); at equal KL less of it is left ({matched}), {controls}."
        )
    } else {
        format!(
            "In the 8 × 8 study the expected excess of DPO outside the data was not shown in all required rows \
             (at width 3: {end} at the end, {matched} at equal KL), {controls}."
        )
    }
}

fn pairs(outcome: &Outcome) -> String {
    let trained = match outcome.verdict("pairs-accuracy") {
        Verdict::NotRun => "The small Llama was not trained in this run",
        Verdict::Reproduced => {
            "DPO of a small Llama raises its held-out ranking accuracy over SFT, as an illustration"
        }
        Verdict::NotReproduced => "DPO of a small Llama lowered its held-out ranking accuracy below SFT",
        Verdict::Inconclusive => {
            "For the small Llama it is not decided whether DPO ranks held-out pairs better than SFT"
        }
    };
    format!(
        "{trained}; which of the two methods makes the better language model is not decided by this version, \
         which trains no PPO on sequences."
    )
}

/// Where the experiment departs from the paper and from the plan, whatever is run.
pub(super) fn deviations() -> Vec<String> {
    let texts = [
        "The paper compares language models of 7 to 34 billion parameters on dialogue, safety and code. Nothing of \
         that is run here: direction only, no statement about the size of any effect in a language model.",
        "Layer sizes, optimiser, steps and number of pairs of the paper's 8 × 8 example are not published. Ours \
         are in the plan; the first pair of a prompt always holds the best response.",
        "The paper shows one example of the 8 × 8 setting. We report the mean over prompts and many seeds, because \
         single cells that rise are easy to find under any method.",
        "Two methods are compared at equal KL too, which the paper does not do: most of the raw difference is that \
         DPO walks further from the reference at the same beta.",
        "PPO in the 8 × 8 study maximises the exact expectation of its objective; clipping, critic and sampling \
         are left out on purpose.",
        "Control of the wide network: a margin of .02 in mass counts as nothing; it was fixed before the run.",
        "Mass outside the data does not depend on which side of a pair is called chosen, so two claims ask whether DPO \
         orders its pairs rightly. They were added to the plan after a first run of two rows (toy-h3-p1, toy-h32-p1) and only make \
         the verdict stricter.",
        "No correction for the number of comparisons was made.",
    ];
    texts.map(str::to_owned).to_vec()
}
