//! Completions that are JSON.

use align_types::RewardItem;
use serde_json::Value;

use super::{Rule, verdict};

/// 1 where the completion is one JSON value, 0 elsewhere; with keys, one object that has them all.
///
/// White space around it does not count, and it may stand in one code block of Markdown. What JSON does not know (NaN,
/// comments, a comma before a closing bracket, text around the value) is no JSON; neither is what is nested more than
/// 127 deep, because readers refuse it.
#[derive(Debug, Clone, Default)]
pub struct Json {
    /// Keys that the object must have.
    pub keys: Vec<String>,
}

impl Rule for Json {
    fn score(&self, item: &RewardItem<'_>) -> Result<Option<f64>, String> {
        let value = serde_json::from_str::<Value>(without_fence(item.completion.trim()));
        verdict(match value {
            Ok(Value::Object(object)) => self.keys.iter().all(|key| object.contains_key(key)),
            Ok(_) => self.keys.is_empty(),
            Err(_) => false,
        })
    }
}

/// Takes the fence of a code block off, where the text is one.
fn without_fence(text: &str) -> &str {
    let inside = text.strip_prefix("```").and_then(|rest| rest.strip_suffix("```"));
    inside.map_or(text, |inside| inside.strip_prefix("json").unwrap_or(inside))
}
