//! Figures of held-out rows against the losses of training and against numbers by hand.

use align_core::align_types::{Completion, PromptGroup};
use align_core::evaluation::{PairAgreement, Prompts};
use align_core::intervals::Estimate;
use align_core::tch::Tensor;
use align_losses::{
    AnswerLogProbs, DpoConfig, DpoInputs, DpoLossType, HeldOut, HeldOutMethod, KtoConfig, KtoInputs,
    KtoLossType, PairLengths, UnaConfig, dpo_loss, held_out, kto_loss,
};

fn answer(policy: f64, reference: f64, tokens: usize) -> AnswerLogProbs {
    AnswerLogProbs { policy, reference: Some(reference), tokens }
}

/// What a method finds, with its figures over rows that have prompts of their own.
struct Found {
    rows: HeldOut,
    figures: Vec<(&'static str, Estimate)>,
    prompts: Prompts,
}

fn find(groups: &[PromptGroup], logps: &[Vec<AnswerLogProbs>], method: &HeldOutMethod) -> Found {
    let rows = held_out(groups, logps, method).unwrap();
    let prompts = Prompts::of(groups);
    Found { figures: prompts.figures(&rows.values, 0).unwrap(), rows, prompts }
}

fn figure(found: &Found, name: &str) -> f64 {
    found
        .figures
        .iter()
        .find(|(n, _)| *n == name)
        .unwrap_or_else(|| panic!("{name}: {:?}", found.figures))
        .1
        .mean
}

/// Rows with prompts of their own, and answers made by a function of (row, answer).
fn rows(count: u32, answers: usize, make: impl Fn(usize, usize) -> Completion) -> Vec<PromptGroup> {
    let row = |row: u32| {
        let answers = (0..answers).map(|answer| make(row as usize, answer)).collect();
        PromptGroup::new(vec![1, row], answers)
    };
    (0..count).map(row).collect()
}

fn plain(_: usize, _: usize) -> Completion {
    Completion::new(vec![7, 2])
}

const CHOSEN: [(f64, f64, usize); 4] =
    [(-10.0, -10.5, 5), (-20.0, -18.0, 9), (-7.0, -7.0, 3), (-30.0, -36.0, 12)];
const REJECTED: [(f64, f64, usize); 4] =
    [(-11.0, -10.5, 4), (-19.0, -18.5, 9), (-8.0, -8.0, 5), (-25.0, -24.0, 8)];

fn pair_logps() -> Vec<Vec<AnswerLogProbs>> {
    let one = |(policy, reference, tokens)| answer(policy, reference, tokens);
    CHOSEN.iter().zip(REJECTED).map(|(chosen, rejected)| vec![one(*chosen), one(rejected)]).collect()
}

/// Every loss with one term per pair gives what the loss function of training gives on the same pairs.
#[test]
fn pairs_have_the_loss_and_the_metrics_of_training() {
    let column = |sides: &[(f64, f64, usize)], of: fn(&(f64, f64, usize)) -> f64| {
        Tensor::from_slice(&sides.iter().map(of).collect::<Vec<f64>>())
    };
    let tensors = |sides: &[(f64, f64, usize)]| {
        (column(sides, |s| s.0), column(sides, |s| s.1), column(sides, |s| s.2 as f64))
    };
    let (chosen, ref_chosen, n_chosen) = tensors(&CHOSEN);
    let (rejected, ref_rejected, n_rejected) = tensors(&REJECTED);
    for loss in [DpoLossType::Sigmoid, DpoLossType::Hinge, DpoLossType::Ipo, DpoLossType::Aot] {
        let config = DpoConfig::of(loss);
        let inputs = DpoInputs {
            ref_chosen: Some(&ref_chosen),
            ref_rejected: Some(&ref_rejected),
            lengths: config
                .uses_lengths()
                .then_some(PairLengths { chosen: &n_chosen, rejected: &n_rejected }),
            ..DpoInputs::new(&chosen, &rejected)
        };
        let trained = dpo_loss(&inputs, &config).unwrap();
        let method = HeldOutMethod::Dpo(config);
        let found = find(&rows(4, 2, plain), &pair_logps(), &method);
        let mean = trained.mean().unwrap().double_value(&[]);
        assert!((figure(&found, "loss") - mean).abs() < 1e-12, "{loss:?}");
        let items = found.rows.items.iter().map(|item| item.loss).sum::<f64>() / 4.0;
        assert!((items - mean).abs() < 1e-12);
        for metric in &trained.metrics {
            let expected = metric.sum / metric.count;
            assert!((figure(&found, metric.name) - expected).abs() < 1e-12, "{}", metric.name);
        }
    }
}

/// Margins 1, −1.5, 0, 7 (times β); lengths 1, 0, −2, 4: two of four are right and one is a tie, two of four chosen
/// answers are longer and one pair is of equal length.
#[test]
fn ties_and_lengths_are_counted() {
    let method = HeldOutMethod::Dpo(DpoConfig::default());
    let found = find(&rows(4, 2, plain), &pair_logps(), &method);
    let pairs = PairAgreement::of(&found.rows.margins, &found.prompts, 0).unwrap();
    assert_eq!((pairs.accuracy.mean, pairs.ties), (2.5 / 4.0, 1));
    assert_eq!((pairs.chosen_longer.mean, pairs.equal_lengths), (2.5 / 4.0, 1));
    assert_eq!(pairs.above_length.mean, 0.0);
    assert_eq!(figure(&found, "rewards/accuracies"), 0.5, "a tie is not right under the strict count");
}

#[test]
fn una_on_pairs_is_dpo_to_the_last_bit() {
    let (pairs, logps) = (rows(4, 2, plain), pair_logps());
    let una = UnaConfig { beta: 0.2, ..Default::default() };
    let dpo = DpoConfig { beta: 0.2, ..Default::default() };
    let una = find(&pairs, &logps, &HeldOutMethod::Una(una));
    let dpo = find(&pairs, &logps, &HeldOutMethod::Dpo(dpo));
    assert_eq!(una.rows.items, dpo.rows.items);
    assert_eq!(figure(&una, "loss"), figure(&dpo, "loss"));
}

#[test]
fn labels_have_the_loss_of_training_and_an_accuracy_around_the_baseline() {
    let labels = [true, false, true, false];
    let groups = rows(4, 1, |row, _| Completion { label: Some(labels[row]), ..plain(row, 0) });
    // h = 0.5, −0.5, 0.1, 0.4 around z0 = 0.2: right, right, wrong, wrong.
    let logps = [(-1.0, -1.5), (-2.0, -1.5), (-3.0, -3.1), (-4.0, -4.4)];
    let lists: Vec<_> =
        logps.iter().map(|(policy, reference)| vec![answer(*policy, *reference, 3)]).collect();
    let method = HeldOutMethod::Kto { config: KtoConfig::default(), baseline: 0.2 };
    let found = find(&groups, &lists, &method);
    let policy = Tensor::from_slice(&logps.map(|(policy, _)| policy));
    let reference = Tensor::from_slice(&logps.map(|(_, reference)| reference));
    let inputs = KtoInputs { policy: &policy, reference: &reference, desirable: &labels };
    let trained = kto_loss(&inputs, 0.2, &KtoConfig::default()).unwrap();
    assert!((figure(&found, "loss") - trained.mean().unwrap().double_value(&[])).abs() < 1e-12);
    // How far on the right side is watched over in training alone.
    for metric in trained.metrics.iter().filter(|metric| metric.name != "labels/margins") {
        assert!((figure(&found, metric.name) - metric.sum / metric.count).abs() < 1e-12, "{}", metric.name);
    }
    assert_eq!(figure(&found, "labels/accuracies"), 0.5);
    assert_eq!(figure(&found, "kl"), 0.2);
}

/// Two labelled answers share each row. At the reference β h = 0, so every term of BCO is ln 2 times the balance of its
/// class, which averages to 2 ln 2.
#[test]
fn bco_takes_all_rows_as_one_batch() {
    let groups = rows(3, 2, |_, answer| Completion { label: Some(answer == 0), ..plain(0, 0) });
    let lists = vec![vec![answer(-1.0, -1.0, 2), answer(-2.0, -2.0, 2)]; 3];
    let config = KtoConfig { loss_type: KtoLossType::Bco, ..Default::default() };
    let found = find(&groups, &lists, &HeldOutMethod::Kto { config, baseline: 0.0 });
    assert!((figure(&found, "loss") - 2.0 * 2f64.ln()).abs() < 1e-12);
    assert_eq!(found.rows.items.iter().map(|item| (item.row, item.answer)).nth(3), Some((1, Some(1))));
}

/// Scores 1 and 5 of a scale from 1 to 5 are targets 0 and 1; at the reference the prediction is 1/2.
#[test]
fn scores_are_scaled_and_refused_outside_their_range() {
    let groups = rows(2, 1, |row, _| Completion { reward: Some([1.0, 5.0][row]), ..plain(0, 0) });
    let lists = vec![vec![answer(-1.0, -1.0, 2)]; 2];
    let config = UnaConfig { score_min: Some(1.0), score_max: Some(5.0), ..Default::default() };
    let found = find(&groups, &lists, &HeldOutMethod::Una(config));
    assert_eq!((figure(&found, "loss"), figure(&found, "una/target")), (0.25, 0.5));
    let error = held_out(&groups, &lists, &HeldOutMethod::Una(UnaConfig::default())).unwrap_err().to_string();
    assert!(error.contains("group 1") && error.contains("score-min"), "{error}");
}

/// Token mean (4 + 5) / (2 + 4) = 1.5; against a reference with 5 + 7 the difference is −3 / 6.
#[test]
fn likelihood_is_averaged_over_tokens() {
    let groups = rows(2, 1, plain);
    let lists = [vec![answer(-4.0, -5.0, 2)], vec![answer(-5.0, -7.0, 4)]];
    let found = find(&groups, &lists, &HeldOutMethod::Sft);
    assert_eq!(figure(&found, "loss"), 1.5);
    assert!((figure(&found, "perplexity") - 1.5f64.exp()).abs() < 1e-12);
    assert_eq!(figure(&found, "logps/completion"), -4.5);
    assert_eq!((figure(&found, "reference/loss"), figure(&found, "reference/difference")), (2.0, -0.5));
    let alone: Vec<Vec<AnswerLogProbs>> =
        lists.iter().map(|list| vec![AnswerLogProbs { reference: None, ..list[0] }]).collect();
    let found = find(&groups, &alone, &HeldOutMethod::Sft);
    assert!(
        found.figures.iter().all(|(name, _)| !name.starts_with("reference/"))
            && found.rows.margins.is_empty()
    );
}

/// Five copies of one row are one prompt: no interval, however many rows there are.
#[test]
fn rows_of_one_prompt_are_not_independent() {
    let same = vec![rows(1, 2, plain).remove(0); 5];
    let logps = vec![pair_logps().remove(0); 5];
    let found = find(&same, &logps, &HeldOutMethod::Dpo(DpoConfig::default()));
    let (_, loss) = found.figures[0];
    assert_eq!((loss.count, loss.interval), (1, None));
    let own = find(&rows(5, 2, plain), &logps, &HeldOutMethod::Dpo(DpoConfig::default()));
    assert_eq!(own.figures[0].1.count, 5);
}

#[test]
fn rows_that_a_method_cannot_take_are_named() {
    let method = HeldOutMethod::Dpo(DpoConfig::default());
    let told = |groups: &[PromptGroup], logps: &[Vec<AnswerLogProbs>], method: &HeldOutMethod| {
        held_out(groups, logps, method).unwrap_err().to_string()
    };
    assert!(told(&rows(1, 1, plain), &[vec![answer(-1.0, -1.0, 1)]], &method).contains("group 0"));
    assert!(
        told(&rows(1, 2, plain), &[vec![answer(-1.0, -1.0, 1)]], &method)
            .contains("1 log-probabilities for 2")
    );
    assert!(told(&rows(2, 2, plain), &[], &method).contains("of 0 rows for 2"));
    let broken = vec![answer(f64::NAN, -1.0, 1), answer(-1.0, -1.0, 1)];
    assert!(told(&rows(1, 2, plain), &[broken], &method).contains("not finite"));
    let alone = AnswerLogProbs { reference: None, ..answer(-1.0, 0.0, 1) };
    assert!(told(&rows(1, 2, plain), &[vec![alone; 2]], &method).contains("reference"));
    let kto = HeldOutMethod::Kto { config: KtoConfig::default(), baseline: 0.0 };
    assert!(told(&rows(1, 2, plain), &[vec![answer(-1.0, -1.0, 1); 2]], &kto).contains("without labels"));
    let sft = HeldOutMethod::Dpo(DpoConfig::of(DpoLossType::Orpo));
    assert!(told(&rows(1, 2, plain), &[vec![answer(-1.0, -1.0, 2); 2]], &sft).contains("likelihood"));
}
