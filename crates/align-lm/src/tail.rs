use align_core::{
    Error, PackedBatch, Result,
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
    /// The place among them of each row that predicts, `[N]`.
    pub(crate) predict: Tensor,
}

impl Tail {
    pub(crate) fn new(batch: &PackedBatch, device: Device) -> Result<Self> {
        let (rows, predict) = places(batch)?;
        Ok(Self {
            rows: PackedBatch::index_tensor(&rows, device)?,
            predict: PackedBatch::index_tensor(&predict, device)?,
        })
    }
}

fn places(batch: &PackedBatch) -> Result<(Vec<i64>, Vec<i64>)> {
    let spans = batch.groups().iter();
    let rows: Vec<i64> = spans
        .flat_map(|span| span.start + span.prompt_len.saturating_sub(1)..span.start + span.len())
        .map(|row| row as i64)
        .collect();
    let place = |row: &i64| {
        let found = rows.binary_search(row).map(|place| place as i64);
        found.map_err(|_| Error::input("batch", format!("row {row} predicts a token inside a prompt")))
    };
    let predict = batch.predict_rows().iter().map(place).collect::<Result<_>>()?;
    Ok((rows, predict))
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
        let (rows, predict) = places(&batch).unwrap();
        assert_eq!(rows, [2, 3, 4, 5, 6, 7]);
        assert_eq!(predict, [0, 1, 0, 4]);
        let stream: Vec<i64> = predict.iter().map(|place| rows[*place as usize]).collect();
        assert_eq!(stream, batch.predict_rows());
    }
}
