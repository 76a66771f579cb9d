use crate::{
    experiment::Size,
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

const SMOKE: &[&str] = &["smoke-sft-at-least", "smoke-sft-at-most", "smoke-ppo", "smoke-random"];

/// Whom PPO is compared with on the sequence task, by the claim's id without the metric.
const RIVALS: [(&str, &str); 6] = [
    ("ppo-over-sft", "SFT"),
    ("ppo-over-dpo-published", "offline DPO at the published beta"),
    ("ppo-over-dpo", "tuned offline DPO"),
    ("ppo-over-dpo-iterative-published", "iterative DPO at the published beta"),
    ("ppo-over-dpo-iterative", "tuned iterative DPO"),
    ("ppo-over-grpo", "GRPO"),
];

/// Says in three sentences what the verdicts mean; every word depends on them, and what was not run is not mentioned.
pub(super) fn answer(outcome: &Outcome) -> Vec<String> {
    let theory: Vec<String> = [theorem(outcome), toy(outcome)].into_iter().flatten().collect();
    let theory = (!theory.is_empty()).then(|| format!("{}.", capitalised(&theory.join("; "))));
    let rest: Vec<String> = [pairs(outcome), controls(outcome)].into_iter().flatten().collect();
    let rest = (!rest.is_empty()).then(|| format!("{}.", capitalised(&rest.join("; "))));
    [sequence(outcome), theory, rest].into_iter().flatten().collect()
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

fn was_run(outcome: &Outcome, ids: &[&str]) -> bool {
    ids.iter().any(|id| outcome.verdict(id) != Verdict::NotRun)
}

fn mean(outcome: &Outcome, id: &str) -> String {
    let evidence = outcome.claims.iter().find(|c| c.claim.id == id).and_then(|c| c.evidence);
    evidence.map_or_else(|| "–".to_owned(), |e| signed(e.estimate.mean, 3))
}

/// Says how the thresholds of the short run came out, where PPO's main arm was not run.
fn smoke(outcome: &Outcome) -> Option<String> {
    if outcome.size != Size::Quick || !was_run(outcome, &["smoke-ppo"]) {
        return None;
    }
    let kept = SMOKE.iter().all(|id| matches!(outcome.verdict(id), Verdict::Reproduced | Verdict::NotRun));
    let kept = if kept { "keeps" } else { "does NOT keep" };
    Some(format!(
        "On programs for a stack machine with an exact reward the short run {kept} the thresholds of a smoke test, with PPO at \
         {} times the sampled pass@1 of SFT, and decides nothing about the methods.",
        mean(outcome, "smoke-ppo").trim_start_matches('+')
    ))
}

/// Says where PPO stands in both metrics.
fn sequence(outcome: &Outcome) -> Option<String> {
    let Some(sampled) = standing(outcome, "") else { return smoke(outcome) };
    let greedy = standing(outcome, "-greedy").map(|text| format!("; in greedy pass@1 it ends {text}"));
    Some(format!(
        "On programs for a stack machine with an exact reward, every method with the same number of sampled answers, PPO with \
         a critic of its own ends {sampled} in sampled pass@1{}.",
        greedy.unwrap_or_default()
    ))
}

/// Sorts the rivals by the verdicts on one metric; nothing where PPO was compared with none.
fn standing(outcome: &Outcome, metric: &str) -> Option<String> {
    let of = |verdict: Verdict, word: &str| {
        let named: Vec<String> = RIVALS
            .iter()
            .map(|(id, name)| (format!("{id}{metric}"), name))
            .filter(|(id, _)| outcome.verdict(id) == verdict)
            .map(|(id, name)| format!("{name} ({})", mean(outcome, &id)))
            .collect();
        (!named.is_empty()).then(|| format!("{word} {}", named.join(", ")))
    };
    let parts = [
        of(Verdict::Reproduced, "above"),
        of(Verdict::NotReproduced, "below"),
        of(Verdict::Inconclusive, "undecided against"),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(" and "))
}

fn theorem(outcome: &Outcome) -> Option<String> {
    let text = if outcome.reproduced(THEOREM) {
        "theorem 4.1 holds where it can be computed exactly: a policy with 90 % of its mass on a response that neither data \
         nor reference show minimises DPO's loss perfectly, while PPO's objective refuses it"
    } else {
        "theorem 4.1 was NOT confirmed by the exact evaluation"
    };
    was_run(outcome, THEOREM).then(|| text.to_owned())
}

fn toy(outcome: &Outcome) -> Option<String> {
    if !was_run(outcome, TOY) {
        return None;
    }
    let whole = TOY.iter().all(|id| outcome.verdict(id) != Verdict::NotRun)
        && TOY_CONTROLS.iter().all(|id| outcome.control_verdict(id) != ControlVerdict::NotRun);
    if !whole {
        return Some("the 8 × 8 study was run in part only, which answers nothing".to_owned());
    }
    let (end, matched) = (mean(outcome, "h3-p1-end"), mean(outcome, "h3-p1-kl"));
    let shown = if outcome.reproduced(TOY) {
        "DPO ends with more probability outside the data than PPO"
    } else {
        "more probability outside the data for DPO was not shown in all required rows"
    };
    Some(format!("in the 8 × 8 study {shown} (at width 3 {end}, at equal KL {matched})"))
}

fn pairs(outcome: &Outcome) -> Option<String> {
    let trained = match outcome.verdict("pairs-accuracy") {
        Verdict::NotRun => return None,
        Verdict::Reproduced => "raises its held-out ranking accuracy over SFT",
        Verdict::NotReproduced => "lowers its held-out ranking accuracy below SFT",
        Verdict::Inconclusive => "leaves open whether it ranks held-out pairs better than SFT",
    };
    let gold = match outcome.verdict("pairs-ppo-over-dpo") {
        Verdict::NotRun => "",
        Verdict::Reproduced => ", and PPO's answers earn more gold reward than DPO's",
        Verdict::NotReproduced => ", and PPO's answers earn less gold reward than DPO's",
        Verdict::Inconclusive => ", and whose answers earn more gold reward, PPO's or DPO's, is not decided",
    };
    Some(format!("as an illustration, DPO of a small Llama {trained}{gold}"))
}

/// Says how the controls came out that decide.
fn controls(outcome: &Outcome) -> Option<String> {
    let decided = || outcome.controls.iter().filter(|c| c.decides);
    let failed: Vec<&str> =
        decided().filter(|c| c.verdict != ControlVerdict::Holds).map(|c| c.control.id.as_str()).collect();
    match (decided().count(), failed.is_empty()) {
        (0, _) => None,
        (_, true) => {
            let open = outcome.controls.iter().filter(|c| c.verdict == ControlVerdict::Inconclusive);
            let open: Vec<&str> = open.map(|c| c.control.id.as_str()).collect();
            let rest = match open.is_empty() {
                true => String::new(),
                false => format!(" (not decided at this size: {})", open.join(", ")),
            };
            Some(format!("every control that decides holds{rest}"))
        }
        (_, false) => {
            Some(format!("not every control holds ({}), so the result does not count", failed.join(", ")))
        }
    }
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
