use align_core::{
    PackedBatch, Result,
    tch::{Device, Tensor},
};

/// The rows of a batch from the last token of each prompt on: all that predict a token of a completion.
///
/// What the last block adds to the other rows is read by nobody, so it is not computed: with long prompts that is most
/// of a block, forward and backward.
#[derive(Debug)]
pub(crate) struct Tail {
    /// The rows in the stream, `[K]`.
    pub(crate) rows: Tensor,
    /// The place among them of each row that predicts, or is wanted for something else, `[N]`.
    pub(crate) predict: Tensor,
}

impl Tail {
    /// Finds the wanted rows; `None` where one of them lies inside a prompt.
    pub(crate) fn with(batch: &PackedBatch, wanted: &[i64], device: Device) -> Result<Option<Self>> {
        let rows = kept(batch);
        let Some(predict) = places(&rows, wanted) else { return Ok(None) };
        Ok(Some(Self {
            rows: PackedBatch::index_tensor(&rows, device)?,
            predict: PackedBatch::index_tensor(&predict, device)?,
        }))
    }
}

fn kept(batch: &PackedBatch) -> Vec<i64> {
    let spans = batch.groups().iter();
    spans
        .flat_map(|span| span.start + span.prompt_len.saturating_sub(1)..span.start + span.len())
        .map(|row| row as i64)
        .collect()
}

fn places(rows: &[i64], wanted: &[i64]) -> Option<Vec<i64>> {
    wanted.iter().map(|row| rows.binary_search(row).ok().map(|place| place as i64)).collect()
}

/// Takes some rows of `[T, ..]`; all of them if none are named.
pub(crate) fn select(x: &Tensor, rows: Option<&Tensor>) -> Result<Tensor> {
    Ok(match rows {
        Some(rows) => x.f_index_select(0, rows)?,
        None => x.shallow_clone(),
    })
}

#[cfg(test)]
mod tests {
    use align_core::align_types::{Completion, PromptGroup};

    use super::*;

    /// The stream is 10 11 12 | 20 21 | 30, then 13 | 40: rows 2 to 5 of the first group and both of the second.
    #[test]
    fn rows_that_predict_are_found_among_those_that_are_kept() {
        let groups = [
            PromptGroup::new(vec![10, 11, 12], [vec![20, 21], vec![30]].map(Completion::new).to_vec()),
            PromptGroup::new(vec![13], vec![Completion::new(vec![40])]),
        ];
        let batch = PackedBatch::new(&groups).unwrap();
        let rows = kept(&batch);
        let predict = places(&rows, batch.predict_rows()).unwrap();
        assert_eq!(rows, [2, 3, 4, 5, 6, 7]);
        assert_eq!(predict, [0, 1, 0, 4]);
        let stream: Vec<i64> = predict.iter().map(|place| rows[*place as usize]).collect();
        assert_eq!(stream, batch.predict_rows());
        assert_eq!(places(&rows, &[7, 4]), Some(vec![5, 2]));
        assert_eq!(places(&rows, &[7, 1]), None, "row 1 lies inside a prompt");
    }
}
