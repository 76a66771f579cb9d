use align_core::align_types::{Purpose, RngStream};

use super::SIZE;
use crate::dpo_vs_ppo::Tamper;

/// A number for each prompt and response.
pub type Cells<T> = [[T; SIZE]; SIZE];

/// One preference: the indices of a prompt and of its chosen and rejected response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preference {
    /// The prompt.
    pub prompt: usize,
    /// The better response.
    pub chosen: usize,
    /// The other response.
    pub rejected: usize,
}

/// The utilities and the preference data of one seed.
#[derive(Debug, Clone, PartialEq)]
pub struct Instance {
    /// True utility of each cell.
    pub gold: Cells<f64>,
    /// The pairs, in the order of the prompts.
    pub preferences: Vec<Preference>,
    /// Whether a cell occurs in a pair.
    pub covered: Cells<bool>,
}

impl Instance {
    /// Draws utilities and pairs.
    ///
    /// The utility of cell (i, j) is uniform in [0, `gold_below`), on the diagonal 1. The first pair of a prompt
    /// is the diagonal against a random other response, further ones are random; the better one is chosen. Rows
    /// with the same number of pairs see the same data.
    pub fn draw(seed: u64, pairs: usize, gold_below: f64, tamper: Tamper) -> Self {
        let mut random = RngStream::new(seed, Purpose::Synthetic, pairs as u64, 1);
        let mut gold = [[0.0; SIZE]; SIZE];
        for (i, row) in gold.iter_mut().enumerate() {
            for (j, cell) in row.iter_mut().enumerate() {
                let drawn = gold_below * random.uniform();
                *cell = if i == j { 1.0 } else { drawn };
            }
        }
        let mut preferences = Vec::with_capacity(SIZE * pairs);
        let mut covered = [[false; SIZE]; SIZE];
        for (prompt, (utilities, covered)) in gold.iter().zip(&mut covered).enumerate() {
            for pair in 0..pairs {
                let first = if pair == 0 { prompt } else { random.below(SIZE) };
                // Adding 1 to SIZE − 1 reaches every response but the first.
                let second = (first + 1 + random.below(SIZE - 1)) % SIZE;
                let utility = |response: usize| utilities.get(response).copied().unwrap_or(0.0);
                let swap = match tamper {
                    Tamper::ShuffleLabels => random.uniform() < 0.5,
                    _ => utility(second) > utility(first),
                };
                let (chosen, rejected) = if swap { (second, first) } else { (first, second) };
                preferences.push(Preference { prompt, chosen, rejected });
                for response in [first, second] {
                    if let Some(cell) = covered.get_mut(response) {
                        *cell = true;
                    }
                }
            }
        }
        Self { gold, preferences, covered }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_keep_their_rule() {
        for seed in 0..20 {
            let instance = Instance::draw(seed, 3, 0.8, Tamper::None);
            assert_eq!(instance.preferences.len(), 24);
            for p in &instance.preferences {
                assert_ne!(p.chosen, p.rejected);
                assert!(instance.gold[p.prompt][p.chosen] > instance.gold[p.prompt][p.rejected]);
            }
            for (i, row) in instance.gold.iter().enumerate() {
                assert!(row.iter().enumerate().all(|(j, g)| if i == j { *g == 1.0 } else { *g < 0.8 }));
                // The first pair of a prompt holds the diagonal, and the diagonal wins.
                assert_eq!(instance.preferences[3 * i].chosen, i);
                assert!(instance.covered[i][i]);
            }
        }
    }

    #[test]
    fn shuffled_labels_lose_the_rule() {
        let wins = |tamper| {
            let right = |p: &&Preference| p.chosen == p.prompt;
            let drawn = (0..50).map(|seed| Instance::draw(seed, 1, 0.8, tamper));
            drawn.map(|i| i.preferences.iter().filter(right).count()).sum::<usize>()
        };
        assert_eq!(wins(Tamper::None), 400);
        // 400 fair coins: 200 +- 10.
        assert!((150..250).contains(&wins(Tamper::ShuffleLabels)));
    }
}
