//! Rows as bytes: exactly what was put in comes out, numbers to the last bit.

use std::path::PathBuf;

use align_types::{Columns, Completion, FinishReason, PromptGroup, Source, TokenId};
use serde_json::{Number, Value};

/// Writes a row. The file of its source is written as its index in a list.
pub(crate) fn write(out: &mut Vec<u8>, group: &PromptGroup, files: &mut Vec<PathBuf>) {
    ids(out, &group.prompt);
    match &group.source {
        None => out.push(0),
        Some(source) => {
            let known = files.iter().position(|file| *file == source.file);
            let file = known.unwrap_or_else(|| {
                files.push(source.file.clone());
                files.len() - 1
            });
            out.push(1);
            size(out, file);
            size(out, source.row);
        }
    }
    size(out, group.completions.len());
    for completion in &group.completions {
        text(out, &completion.name);
        ids(out, &completion.token_ids);
        // One more than the number of ranges; 0 says that there is no mask.
        size(out, completion.trained.as_ref().map_or(0, |ranges| ranges.len() + 1));
        for range in completion.trained.iter().flatten() {
            size(out, range.start);
            size(out, range.end);
        }
        out.push(completion.label.map_or(2, u8::from));
        optional(out, completion.reward.map(f64::to_bits));
        optional(out, completion.ref_logprob.map(f64::to_bits));
        optional(out, completion.rank.map(u64::from));
        out.push(match completion.finish_reason {
            None => 0,
            Some(FinishReason::Stop) => 1,
            Some(FinishReason::Length) => 2,
        });
    }
    object(out, &group.columns);
}

fn size(out: &mut Vec<u8>, n: usize) {
    out.extend((n as u64).to_le_bytes());
}

fn optional(out: &mut Vec<u8>, value: Option<u64>) {
    out.push(u8::from(value.is_some()));
    out.extend(value.map(u64::to_le_bytes).into_iter().flatten());
}

fn text(out: &mut Vec<u8>, text: &str) {
    size(out, text.len());
    out.extend(text.as_bytes());
}

fn ids(out: &mut Vec<u8>, ids: &[TokenId]) {
    size(out, ids.len());
    ids.iter().for_each(|id| out.extend(id.to_le_bytes()));
}

fn object(out: &mut Vec<u8>, map: &Columns) {
    size(out, map.len());
    for (key, value) in map {
        text(out, key);
        json(out, value);
    }
}

fn json(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => out.push(0),
        Value::Bool(truth) => out.push(1 + u8::from(*truth)),
        Value::Number(n) => {
            let (tag, bits) = match (n.as_u64(), n.as_i64()) {
                (Some(n), _) => (3, n.to_le_bytes()),
                (None, Some(n)) => (4, n.to_le_bytes()),
                (None, None) => (5, n.as_f64().unwrap_or(0.0).to_le_bytes()),
            };
            out.push(tag);
            out.extend(bits);
        }
        Value::String(string) => {
            out.push(6);
            text(out, string);
        }
        Value::Array(list) => {
            out.push(7);
            size(out, list.len());
            list.iter().for_each(|item| json(out, item));
        }
        Value::Object(map) => {
            out.push(8);
            object(out, map);
        }
    }
}

/// Reads a row back; `None` where the bytes are not those of a row.
pub(crate) fn read(bytes: &[u8], files: &[PathBuf]) -> Option<PromptGroup> {
    let mut bytes = Bytes(bytes);
    let prompt = bytes.ids()?;
    let source = match bytes.byte()? {
        0 => None,
        _ => {
            let file = files.get(bytes.size()?)?.clone();
            Some(Source { file, row: bytes.size()? })
        }
    };
    let completions = (0..bytes.size()?).map(|_| bytes.completion()).collect::<Option<_>>()?;
    let columns = bytes.object()?;
    bytes.0.is_empty().then_some(PromptGroup { prompt, completions, source, columns })
}

struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn byte(&mut self) -> Option<u8> {
        self.0.split_off_first().copied()
    }

    fn number(&mut self) -> Option<[u8; 8]> {
        self.0.split_off(..8)?.try_into().ok()
    }

    fn size(&mut self) -> Option<usize> {
        usize::try_from(u64::from_le_bytes(self.number()?)).ok()
    }

    fn optional(&mut self) -> Option<Option<u64>> {
        Some(match self.byte()? {
            0 => None,
            _ => Some(u64::from_le_bytes(self.number()?)),
        })
    }

    fn text(&mut self) -> Option<String> {
        let len = self.size()?;
        String::from_utf8(self.0.split_off(..len)?.to_vec()).ok()
    }

    fn ids(&mut self) -> Option<Vec<TokenId>> {
        let len = self.size()?.checked_mul(4)?;
        let (ids, _) = self.0.split_off(..len)?.as_chunks();
        Some(ids.iter().map(|id| TokenId::from_le_bytes(*id)).collect())
    }

    fn completion(&mut self) -> Option<Completion> {
        let (name, ids) = (self.text()?, self.ids()?);
        let trained = match self.size()?.checked_sub(1) {
            None => None,
            Some(ranges) => {
                Some((0..ranges).map(|_| Some(self.size()?..self.size()?)).collect::<Option<_>>()?)
            }
        };
        let label = match self.byte()? {
            2 => None,
            truth => Some(truth == 1),
        };
        let reward = self.optional()?.map(f64::from_bits);
        let ref_logprob = self.optional()?.map(f64::from_bits);
        let rank = self.optional()?.and_then(|rank| u32::try_from(rank).ok());
        let finish_reason = match self.byte()? {
            0 => None,
            1 => Some(FinishReason::Stop),
            _ => Some(FinishReason::Length),
        };
        let known = Completion::named(name, ids);
        Some(Completion { trained, label, reward, ref_logprob, rank, finish_reason, ..known })
    }

    fn object(&mut self) -> Option<Columns> {
        (0..self.size()?).map(|_| Some((self.text()?, self.json()?))).collect()
    }

    fn json(&mut self) -> Option<Value> {
        Some(match self.byte()? {
            0 => Value::Null,
            1 => Value::Bool(false),
            2 => Value::Bool(true),
            3 => u64::from_le_bytes(self.number()?).into(),
            4 => i64::from_le_bytes(self.number()?).into(),
            5 => Value::Number(Number::from_f64(f64::from_le_bytes(self.number()?))?),
            6 => Value::String(self.text()?),
            7 => Value::Array((0..self.size()?).map(|_| self.json()).collect::<Option<_>>()?),
            _ => Value::Object(self.object()?),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::single_range_in_vec_init, reason = "a mask of one range")]

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn row(columns: Value) -> PromptGroup {
        let answer = |rank, reward, label| Completion {
            rank,
            reward,
            label,
            ..Completion::named("completion", vec![3, u32::MAX])
        };
        let answers = vec![
            answer(None, None, None),
            answer(Some(2), Some(-0.1), Some(false)),
            answer(None, Some(1e-300), Some(true)),
            Completion { trained: Some(vec![0..1]), ref_logprob: Some(-0.1), ..Completion::new(vec![1, 2]) },
            Completion { trained: Some(vec![]), ..Completion::new(vec![1]) },
            Completion { finish_reason: Some(FinishReason::Stop), ..Completion::new(vec![1]) },
            Completion { finish_reason: Some(FinishReason::Length), ..Completion::new(vec![1]) },
        ];
        PromptGroup {
            source: Some(Source { file: "b".into(), row: 7 }),
            columns: columns.as_object().cloned().unwrap_or_default(),
            ..PromptGroup::new(vec![1, 2], answers)
        }
    }

    #[test]
    fn rows_come_back_as_they_were() {
        let columns = json!({"z": null, "a": [true, false, {"x": "é", "y": []}], "n": [1, -1, u64::MAX, i64::MIN, 0.1, 5e-324, 1.0]});
        let (mut bytes, mut files) = (vec![], vec!["a".into()]);
        let row = row(columns);
        write(&mut bytes, &row, &mut files);
        let back = read(&bytes, &files).unwrap();
        assert_eq!(back, row);
        assert_eq!(back.columns.keys().collect::<Vec<_>>(), ["z", "a", "n"]);
        assert_eq!(serde_json::to_string(&back).unwrap(), serde_json::to_string(&row).unwrap());
        // Cut anywhere, or with something after it, it is no row.
        assert!((0..bytes.len()).all(|end| read(&bytes[..end], &files).is_none()));
        bytes.push(0);
        assert!(read(&bytes, &files).is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(0_u8..10, 0..200)) {
            if let Some(row) = read(&bytes, &["a".into()]) {
                let mut again = vec![];
                write(&mut again, &row, &mut vec!["a".into()]);
                prop_assert!(read(&again, &["a".into()]).is_some());
            }
        }
    }
}
