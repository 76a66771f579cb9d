use std::ops::Range;

use align_types::{Completion, PromptGroup};
use tch::{Device, Kind, Tensor};

use crate::{Error, PackedBatch, Result, TokenLogProbs, gather_log_probs};

/// Right-padded `[B, T]` rows for models that know nothing else: one row per completion, the prompt repeated.
///
/// The two directions: [`PaddedBatch::from_packed`] feeds a padded model and [`PaddedBatch::token_log_probs`]
/// brings its logits back to the flat form that the losses take; [`PaddedBatch::to_groups`] turns padded rows
/// from elsewhere into prompt groups.
#[derive(Debug)]
pub struct PaddedBatch {
    /// Tokens, `[B, T]` int64, `pad_id` after the end of each row.
    pub ids: Tensor,
    /// 1 for real tokens, `[B, T]` int64.
    pub attention_mask: Tensor,
    /// 1 for completion tokens that are trained on, `[B, T]` int64.
    pub completion_mask: Tensor,
}

impl PaddedBatch {
    /// Pads every completion of the batch, each behind its own copy of the prompt.
    ///
    /// The masks come from lengths, never from comparing tokens: `pad_id` may equal the end-of-sequence token.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn from_packed(batch: &PackedBatch, pad_id: i64, device: Device) -> Result<Self> {
        let width = batch.longest();
        let (mut ids, mut attention, mut completion) = (Vec::new(), Vec::new(), Vec::new());
        let mut offsets = batch.offsets();
        let mut lens = batch.completion_lens().iter();
        for span in batch.groups() {
            let group = batch.ids().get(span.start..span.start + span.len()).unwrap_or(&[]);
            for rows in span.completions() {
                let (prompt, answer) = (group.get(..span.prompt_len), group.get(rows));
                let (prompt, answer) = (prompt.unwrap_or(&[]), answer.unwrap_or(&[]));
                let padding = width - prompt.len() - answer.len();
                ids.extend(prompt.iter().chain(answer).copied().chain(std::iter::repeat_n(pad_id, padding)));
                attention.extend(std::iter::repeat_n(1, prompt.len() + answer.len()));
                attention.extend(std::iter::repeat_n(0, padding));
                let count = lens.next().copied().unwrap_or(0);
                let (own, rest) = offsets.split_at_checked(count).unwrap_or((offsets, &[]));
                offsets = rest;
                let mut row = vec![0i64; width];
                for offset in own {
                    row.iter_mut().skip(prompt.len() + offset).take(1).for_each(|flag| *flag = 1);
                }
                completion.append(&mut row);
            }
        }
        let size = [batch.completion_lens().len() as i64, width as i64];
        let tensor = |values: &[i64]| -> Result<Tensor> {
            Ok(PackedBatch::index_tensor(values, device)?.f_reshape(size)?)
        };
        Ok(Self {
            ids: tensor(&ids)?,
            attention_mask: tensor(&attention)?,
            completion_mask: tensor(&completion)?,
        })
    }

    /// Gathers the trained tokens' log-probabilities from padded logits `[B, T, V]`, where row t predicts
    /// token t + 1; the order is that of the packed batch.
    ///
    /// # Errors
    /// Shapes that do not fit; see [`gather_log_probs`].
    pub fn token_log_probs(&self, logits: &Tensor, temperature: f64) -> Result<TokenLogProbs> {
        let (rows, width) = self.ids.size2()?;
        let vocab = logits.size().last().copied().unwrap_or(0);
        crate::expect_shape("padded logits", logits, &[rows, width, vocab])?;
        let mask = self.completion_mask.f_slice(1, 1, width, 1)?.f_to_kind(Kind::Bool)?.f_reshape([-1])?;
        let kept = mask.f_nonzero()?.f_reshape([-1])?;
        let predicting =
            logits.f_slice(1, 0, width - 1, 1)?.f_reshape([-1, vocab])?.f_index_select(0, &kept)?;
        let targets = self.ids.f_slice(1, 1, width, 1)?.f_reshape([-1])?.f_index_select(0, &kept)?;
        let lens = self.completion_mask.f_sum_dim_intlist(1i64, false, Kind::Int64)?;
        let lens = Vec::<i64>::try_from(lens)?.into_iter().map(|n| n.max(0) as usize).collect();
        TokenLogProbs::new(gather_log_probs(&predicting, &targets, temperature)?, lens)
    }

    /// Reads the rows back as prompt groups of one completion each: it begins at the first token of the completion
    /// mask, and what the mask leaves out after that is not trained on.
    ///
    /// # Errors
    /// [`Error::Input`] names a row without a token in the completion mask.
    pub fn to_groups(&self) -> Result<Vec<PromptGroup>> {
        let rows = |tensor: &Tensor| -> Result<Vec<Vec<i64>>> { Ok(Vec::try_from(tensor)?) };
        let (ids, attention) = (rows(&self.ids)?, rows(&self.attention_mask)?);
        let completion = rows(&self.completion_mask)?;
        let mut groups = Vec::with_capacity(ids.len());
        for (index, ((ids, attention), completion)) in ids.iter().zip(&attention).zip(&completion).enumerate()
        {
            // Left padding is allowed: only the real tokens count.
            let real: Vec<(i64, i64)> = (ids.iter().zip(completion).zip(attention))
                .filter(|(_, a)| **a != 0)
                .map(|((id, c), _)| (*id, *c))
                .collect();
            let split = real.iter().position(|(_, c)| *c != 0).unwrap_or(real.len());
            let (prompt, answer) = real.split_at(split);
            if answer.is_empty() {
                let why = "the completion mask has no token";
                return Err(Error::input(format!("padded row {index}"), why));
            }
            let tokens = |part: &[(i64, i64)]| {
                part.iter()
                    .map(|(id, _)| u32::try_from(*id))
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(|_| Error::input(format!("padded row {index}"), "a token id is negative"))
            };
            let completion = Completion { trained: runs(answer), ..Completion::new(tokens(answer)?) };
            groups.push(PromptGroup::new(tokens(prompt)?, vec![completion]));
        }
        Ok(groups)
    }
}

/// Finds the runs of tokens whose flag is set; `None` when all are.
fn runs(answer: &[(i64, i64)]) -> Option<Vec<Range<usize>>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (index, _) in answer.iter().enumerate().filter(|(_, (_, flag))| *flag != 0) {
        match runs.last_mut() {
            Some(run) if run.end == index => run.end += 1,
            _ => runs.push(index..index + 1),
        }
    }
    let all = runs.first().is_some_and(|run| run.len() == answer.len());
    (!all).then_some(runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed() -> PackedBatch {
        let completions = vec![Completion::new(vec![3, 4]), Completion::new(vec![5])];
        let groups = [
            PromptGroup::new(vec![1, 2], completions),
            PromptGroup::new(vec![6], vec![Completion::new(vec![7, 7, 7])]),
        ];
        PackedBatch::new(&groups).unwrap()
    }

    #[test]
    fn rows_repeat_the_prompt_and_pad_on_the_right() {
        let padded = PaddedBatch::from_packed(&packed(), 7, Device::Cpu).unwrap();
        let rows = Vec::<Vec<i64>>::try_from(&padded.ids).unwrap();
        assert_eq!(rows, [[1, 2, 3, 4], [1, 2, 5, 7], [6, 7, 7, 7]]);
        let mask = Vec::<Vec<i64>>::try_from(&padded.completion_mask).unwrap();
        // The pad token equals an answer token: only lengths can tell them apart.
        assert_eq!(mask, [[0, 0, 1, 1], [0, 0, 1, 0], [0, 1, 1, 1]]);
    }

    #[test]
    fn padded_logits_come_back_in_the_packed_order() {
        let padded = PaddedBatch::from_packed(&packed(), 0, Device::Cpu).unwrap();
        // Row t gives token (t + 1) the logit 10 and all others 0, whatever the text.
        let logits = Tensor::zeros([3, 4, 8], (Kind::Float, Device::Cpu));
        let expected = padded.token_log_probs(&logits, 1.0).unwrap();
        assert_eq!(expected.lens(), [2, 1, 3]);
        let uniform = Vec::<f32>::try_from(expected.values()).unwrap();
        assert!(uniform.iter().all(|lp| (lp + 8f32.ln()).abs() < 1e-6));
    }

    #[test]
    fn padded_rows_become_groups_wherever_the_padding_is() {
        let ids = Tensor::from_slice(&[0i64, 1, 2, 3, 4, 5, 6, 0]).reshape([2, 4]);
        let attention_mask = Tensor::from_slice(&[0i64, 1, 1, 1, 1, 1, 1, 0]).reshape([2, 4]);
        let completion_mask = Tensor::from_slice(&[0i64, 0, 0, 1, 0, 1, 1, 0]).reshape([2, 4]);
        let groups = PaddedBatch { ids, attention_mask, completion_mask }.to_groups().unwrap();
        assert_eq!(groups[0].prompt, [1, 2]);
        assert_eq!(groups[0].completions[0].token_ids, [3]);
        assert_eq!(groups[1].prompt, [4]);
        assert_eq!(groups[1].completions[0].token_ids, [5, 6]);
    }
}
