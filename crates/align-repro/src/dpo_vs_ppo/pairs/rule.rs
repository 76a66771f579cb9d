//! Preference pairs made from a rule.
//!
//! A prompt asks for things of a topic. An answer lists two to five words, each of the asked topic with
//! probability 0.6 and of another one otherwise, and ends with thanks half of the time. It scores 1 for each
//! word of the topic, −1 for each other word, and 2 for thanks. A pair is two answers with different scores;
//! the higher one is chosen. There is no label noise.

use std::collections::BTreeSet;

use align_core::align_types::{Purpose, RngStream};
use serde::Serialize;

/// The rule in one sentence, for reports.
pub const RULE: &str = "1 point for each word of the asked topic, −1 for each other word, 2 points for thanks at the \
                        end; of two answers drawn alike the one with more points is chosen, no label noise";

const TOPICS: [(&str, [&str; 8]); 8] = [
    ("animals", ["cat", "dog", "horse", "cow", "sheep", "goat", "hen", "duck"]),
    ("fruits", ["apple", "pear", "plum", "fig", "grape", "lemon", "peach", "cherry"]),
    ("tools", ["hammer", "saw", "drill", "file", "chisel", "pliers", "wrench", "level"]),
    ("clothes", ["coat", "shirt", "hat", "scarf", "glove", "sock", "belt", "shoe"]),
    ("rooms", ["kitchen", "attic", "cellar", "hall", "study", "pantry", "nursery", "porch"]),
    ("vehicles", ["bus", "tram", "train", "lorry", "van", "boat", "bicycle", "ferry"]),
    ("instruments", ["flute", "violin", "drum", "harp", "trumpet", "cello", "organ", "piano"]),
    ("plants", ["oak", "rose", "fern", "moss", "tulip", "birch", "ivy", "clover"]),
];
const NAMES: [&str; 16] = [
    "Ana", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gina", "Hugo", "Ida", "Jan", "Kim", "Leo", "Mia", "Noah",
    "Olga", "Paul",
];
const ASKS: [&str; 3] = ["name some", "list a few", "tell me some"];
const THANKS: &str = " Thank you for asking.";
const ON_TOPIC: f64 = 0.6;
const THANKED: f64 = 0.5;

/// A preference row as files have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PairRow {
    /// The prompt.
    pub prompt: String,
    /// The answer with the higher score.
    pub chosen: String,
    /// The other answer.
    pub rejected: String,
}

/// Makes training and held-out pairs; no held-out prompt occurs in training.
pub fn make(seed: u64, rows: usize, held_out: usize) -> (Vec<PairRow>, Vec<PairRow>) {
    let mut random = RngStream::new(seed, Purpose::Synthetic, 0, 2);
    let mut prompts: Vec<(usize, String)> = Vec::new();
    for (topic, (word, _)) in TOPICS.iter().enumerate() {
        for name in NAMES {
            prompts.extend(ASKS.iter().map(|ask| (topic, format!("{name} asks: {ask} {word}.\nAnswer:"))));
        }
    }
    random.shuffle(&mut prompts);
    let quarter = prompts.len() / 4;
    let rest = prompts.split_off(quarter);
    let mut draw = |prompts: &[(usize, String)], count: usize| -> Vec<PairRow> {
        (0..count).filter_map(|_| pair(&mut random, prompts)).collect()
    };
    let train = draw(&rest, rows);
    (train, draw(&prompts, held_out))
}

fn pair(random: &mut RngStream, prompts: &[(usize, String)]) -> Option<PairRow> {
    let (topic, prompt) = prompts.get(random.below(prompts.len()))?;
    loop {
        let (first, second) = (answer(random, *topic), answer(random, *topic));
        let (a, b) = (score(prompt, &first), score(prompt, &second));
        if a != b {
            let (chosen, rejected) = if a > b { (first, second) } else { (second, first) };
            return Some(PairRow { prompt: prompt.clone(), chosen, rejected });
        }
    }
}

fn answer(random: &mut RngStream, topic: usize) -> String {
    let count = 2 + random.below(4);
    let mut words: Vec<&str> = Vec::with_capacity(count);
    while words.len() < count {
        let off = 1 + random.below(TOPICS.len() - 1);
        let from = if random.uniform() < ON_TOPIC { topic } else { (topic + off) % TOPICS.len() };
        let word = TOPICS.get(from).and_then(|(_, list)| list.get(random.below(list.len())));
        words.extend(word.filter(|w| !words.contains(w)));
    }
    let thanks = if random.uniform() < THANKED { THANKS } else { "" };
    format!(" {}.{thanks}", words.join(", "))
}

/// Scores an answer under the rule; a word that comes again counts as a wrong one.
pub fn score(prompt: &str, answer: &str) -> i32 {
    let list = TOPICS.iter().find(|(topic, _)| prompt.contains(&format!(" {topic}."))).map(|(_, list)| list);
    let (words, thanks) = match answer.trim_end().strip_suffix(THANKS.trim_start()) {
        Some(words) => (words, 2),
        None => (answer, 0),
    };
    let mut seen = BTreeSet::new();
    let points = |word: &str| {
        let right = list.is_some_and(|list| list.contains(&word)) && seen.insert(word.to_owned());
        if right { 1 } else { -1 }
    };
    let words = words.split([',', '.']).map(str::trim).filter(|word| !word.is_empty());
    words.map(points).sum::<i32>() + thanks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_scored_by_the_rule() {
        let prompt = "Ana asks: name some fruits.\nAnswer:";
        for (answer, points) in [
            (" apple, pear.", 2),
            (" apple, dog.", 0),
            (" apple, pear. Thank you for asking.", 4),
            (" apple, apple.", 0),
            ("", 0),
            (" what? I do not know", -1),
        ] {
            assert_eq!(score(prompt, answer), points, "{answer:?}");
        }
    }

    #[test]
    fn pairs_follow_the_rule_and_prompts_are_held_out() {
        let (train, held_out) = make(3, 200, 100);
        assert_eq!((train.len(), held_out.len()), (200, 100));
        for row in train.iter().chain(&held_out) {
            assert!(score(&row.prompt, &row.chosen) > score(&row.prompt, &row.rejected), "{row:?}");
        }
        let prompts: BTreeSet<&str> = train.iter().map(|row| row.prompt.as_str()).collect();
        assert!(held_out.iter().all(|row| !prompts.contains(row.prompt.as_str())));
        assert_eq!(make(3, 200, 100), (train.clone(), held_out));
        assert_ne!(make(4, 200, 100).0, train);
    }
}
