//! Losses whose rows depend on each other.
//!
//! A sort over the batch, a baseline or a running mean belongs to the whole optimiser batch, but a loop sees it in
//! micro-batches. Such an objective ([`Objective::survey`]) is computed in two passes:
//!
//! 1. without gradient, in any cut: [`Objective::measure`] turns rows into a few numbers; then
//!    [`Objective::couple`] sees those of the whole batch at once and writes a note for each group;
//! 2. with gradient, in any other cut: [`Objective::coupled_loss`] of each micro-batch, given its notes.
//!
//! Where gradients flow through the coupling, the note holds the slope of the batch's loss with respect to the
//! numbers of the row ([`linearise`]), and the second pass uses the loss that is linear in them
//! ([`linear_terms`]): at the weights of the first pass it has the same value and the same gradient, by the chain
//! rule, so nothing depends on the cut.

use align_types::PromptGroup;
use tch::{Kind, Tensor};

use crate::{CausalLm, Error, Objective, PackedBatch, Result, expect_shape, no_grad};

/// What a coupled objective says of an optimiser batch after it has seen the numbers of all its rows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Coupling {
    /// One list per group of the batch, in its order; what the numbers mean is the objective's own affair.
    pub notes: Vec<Vec<f64>>,
    /// The state of the objective after an update with this batch, for [`Objective::restore`]; empty for one
    /// without state. An evaluation throws it away.
    pub state: Vec<f64>,
}

/// Runs the first pass over a whole batch, `rows` surveyed groups at a time; `None` for an objective whose rows do
/// not depend on each other.
///
/// This is what a training loop does before its first micro-batch; one with several threads shares the surveyed
/// groups out and puts the measures back in their order before it calls [`Objective::couple`].
///
/// # Errors
/// A group that the objective or the model cannot take; measures or notes that are too few.
pub fn couple_batch(
    objective: &dyn Objective,
    model: &(dyn CausalLm + 'static),
    groups: &[PromptGroup],
    rows: usize,
) -> Result<Option<Coupling>> {
    let Some(surveyed) = objective.survey(groups)? else { return Ok(None) };
    let mut measures = Vec::with_capacity(surveyed.len());
    {
        let _guard = no_grad();
        for part in surveyed.chunks(rows.max(1)) {
            let measured = objective.measure(model, &PackedBatch::new(part)?, part)?;
            expect_count("measures", measured.len(), part.len())?;
            measures.extend(measured);
        }
    }
    let coupling = objective.couple(groups, &measures)?;
    expect_count("notes", coupling.notes.len(), groups.len())?;
    Ok(Some(coupling))
}

fn expect_count(what: &str, got: usize, expected: usize) -> Result<()> {
    if got == expected {
        return Ok(());
    }
    Err(Error::input(what, format!("the objective gave {got} for {expected} groups")))
}

/// Writes a loss of the whole batch as one that is linear in numbers of its rows.
///
/// * `terms` of any shape: the loss is their sum, in whatever way it depends on the numbers;
/// * `numbers`: leaves `[R]` in float64 that require gradient, each with one number per row.
///
/// Returns one list per row: its share of the value (Σ terms / R), then the slope with respect to each of its
/// numbers. Slopes are 0 where gradients are not recorded: nothing is trained there.
///
/// # Errors
/// [`Error::Shape`] when the numbers differ in length; libtorch refuses.
pub fn linearise(terms: &Tensor, numbers: &[&Tensor]) -> Result<Vec<Vec<f64>>> {
    let rows = numbers.first().map_or(0, |first| first.numel());
    for leaf in numbers {
        expect_shape("numbers of the rows", leaf, &[rows as i64])?;
    }
    let loss = terms.f_sum(Kind::Double)?;
    let share = loss.f_detach()?.f_double_value(&[])? / (rows.max(1) as f64);
    let mut notes = vec![vec![share]; rows];
    let gradients = if loss.requires_grad() {
        Tensor::f_run_backward(&[&loss], numbers, true, false)?
    } else {
        Vec::new()
    };
    for (index, leaf) in numbers.iter().enumerate() {
        let slopes = match gradients.get(index) {
            Some(gradient) if gradient.defined() => {
                Vec::<f64>::try_from(gradient.f_to_kind(Kind::Double)?.f_contiguous()?)?
            }
            _ => vec![0.0; leaf.numel()],
        };
        notes.iter_mut().zip(slopes).for_each(|(note, slope)| note.push(slope));
    }
    Ok(notes)
}

/// Computes the terms of some rows from what [`linearise`] wrote: share + Σ slope · (number − its value).
///
/// The value of a term is the row's share, its gradient that of the batch's loss. `notes` has one list per row as
/// [`linearise`] returned it; `numbers` are `[R]`, computed again with gradient. Returns `[R]` in float64.
///
/// # Errors
/// [`Error::Input`] for a note of another length, [`Error::Shape`] for numbers of another length.
pub fn linear_terms(notes: &[&[f64]], numbers: &[&Tensor]) -> Result<Tensor> {
    if let Some(note) = notes.iter().find(|note| note.len() != numbers.len() + 1) {
        let why = format!("{} numbers in a note, expected {}", note.len(), numbers.len() + 1);
        return Err(Error::input("coupled loss", why));
    }
    let column =
        |index: usize| -> Vec<f64> { notes.iter().filter_map(|note| note.get(index).copied()).collect() };
    let device = numbers.first().map_or(tch::Device::Cpu, |first| first.device());
    let mut terms = Tensor::f_from_slice(&column(0))?.f_to_device(device)?;
    for (index, number) in numbers.iter().enumerate() {
        expect_shape("numbers of the rows", number, &[notes.len() as i64])?;
        let slope = Tensor::f_from_slice(&column(index + 1))?.f_to_device(device)?;
        // 0 in value, the slope in gradient.
        let moved = number.f_sub(&number.f_detach()?)?.f_to_kind(Kind::Double)?;
        terms = terms.f_add(&slope.f_mul(&moved)?)?;
    }
    Ok(terms)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Loss = (Σ a)² + Σ a b over three rows: slopes 2 Σ a + b and a; cut after any row the parts add up to it.
    #[test]
    fn a_linear_loss_has_the_value_and_the_gradient_of_the_one_it_stands_for() {
        let leaf = |values: &[f64]| Tensor::from_slice(values).set_requires_grad(true);
        let loss = |a: &Tensor, b: &Tensor| a.sum(Kind::Double).square() + (a * b).sum(Kind::Double);
        let (a, b) = (leaf(&[1.0, -2.0, 4.0]), leaf(&[0.5, 3.0, -1.0]));
        let notes = linearise(&loss(&a, &b), &[&a, &b]).unwrap();
        let value = loss(&a, &b).double_value(&[]);
        assert_eq!(value, 9.0 + 0.5 - 6.0 - 4.0);
        let slopes: Vec<(f64, f64)> = notes.iter().map(|note| (note[1], note[2])).collect();
        assert_eq!(slopes, [(6.5, 1.0), (9.0, -2.0), (5.0, 4.0)]);
        for cut in 0..=3i64 {
            let (a, b) = (leaf(&[1.0, -2.0, 4.0]), leaf(&[0.5, 3.0, -1.0]));
            let mut total = 0.0;
            for (start, len) in [(0, cut), (cut, 3 - cut)] {
                let rows: Vec<&[f64]> =
                    notes[start as usize..(start + len) as usize].iter().map(Vec::as_slice).collect();
                let (part_a, part_b) = (a.narrow(0, start, len), b.narrow(0, start, len));
                let terms = linear_terms(&rows, &[&part_a, &part_b]).unwrap().sum(Kind::Double);
                total += terms.double_value(&[]);
                terms.backward();
            }
            assert!((total - value).abs() < 1e-12);
            assert_eq!(Vec::<f64>::try_from(a.grad()).unwrap(), [6.5, 9.0, 5.0]);
            assert_eq!(Vec::<f64>::try_from(b.grad()).unwrap(), [1.0, -2.0, 4.0]);
        }
    }

    #[test]
    fn notes_of_another_length_are_refused() {
        let a = Tensor::from_slice(&[1.0]);
        assert!(linear_terms(&[&[1.0]], &[&a]).is_err());
        assert!(linear_terms(&[&[1.0, 2.0], &[1.0, 2.0]], &[&a]).is_err());
    }

    #[test]
    fn without_recording_there_is_a_value_and_no_slope() {
        let a = Tensor::from_slice(&[1.0, 2.0]);
        assert_eq!(linearise(&a.square(), &[&a]).unwrap(), [[2.5, 0.0], [2.5, 0.0]]);
    }
}
