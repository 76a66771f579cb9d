use proptest::prelude::*;

use super::super::{
    blocks::{Pool, Table},
    kernels::floats,
    weights::Shape,
};

fn pool() -> Pool {
    Pool::new(&Shape {
        vocab: 1,
        hidden: 1,
        inner: 1,
        heads: 1,
        key_value_heads: 1,
        head_dim: 2,
        context: 1000,
        eps: 0.0,
        window: None,
        layers: 1,
    })
}

/// A sequence in the pool and the numbers that were written to it.
struct Known {
    table: Table,
    written: Vec<f32>,
}

/// Reads the first number of each key back.
fn held(pool: &Pool, known: &Known) -> Vec<f32> {
    let past = pool.past(&known.table, 0, 0);
    (0..known.table.len())
        .map(|position| {
            let block = past.table[position / 16] as usize;
            floats(&past.blocks[block][..1])[position % 16]
        })
        .collect()
}

proptest! {
    /// Whatever is extended, forked and released in whatever order: every sequence keeps its own numbers, and all
    /// blocks are free at the end.
    #[test]
    fn sequences_keep_their_past_and_no_block_is_lost(steps in prop::collection::vec((0usize..3, 0usize..8, 1usize..40), 1..60)) {
        let mut pool = pool();
        let mut all: Vec<Known> = Vec::new();
        let mut number = 0.0;
        for (what, which, count) in steps {
            let which = which % all.len().max(1);
            match what {
                0 if all.len() < 8 => all.push(Known { table: Table::default(), written: Vec::new() }),
                1 if !all.is_empty() && all.len() < 8 => {
                    let (table, written) = (pool.fork(&all[which].table), all[which].written.clone());
                    all.push(Known { table, written });
                }
                2 if !all.is_empty() => {
                    if count > 30 {
                        pool.release(all.swap_remove(which).table);
                        continue;
                    }
                    let known = &mut all[which];
                    for _ in 0..count {
                        pool.extend(&mut known.table, 1);
                        number += 1.0;
                        pool.write(&known.table, known.written.len(), 0, &[number, 0.0], &[number, 0.0]);
                        known.written.push(number);
                    }
                }
                _ => {}
            }
            for known in &all {
                prop_assert_eq!(&held(&pool, known), &known.written);
            }
        }
        for known in all {
            pool.release(known.table);
        }
        prop_assert_eq!(pool.in_use(), 0);
    }
}

#[test]
fn a_prompt_of_forty_tokens_is_shared_but_for_its_last_block() {
    let mut pool = pool();
    let mut prompt = Table::default();
    pool.extend(&mut prompt, 40);
    assert_eq!(pool.in_use(), 3);
    let samples: Vec<Table> = (0..8).map(|_| pool.fork(&prompt)).collect();
    // Two full blocks once, and eight copies of the third beside the prompt's own.
    assert_eq!(pool.in_use(), 3 + 8);
    pool.release(prompt);
    assert_eq!(pool.in_use(), 2 + 8);
    samples.into_iter().for_each(|table| pool.release(table));
    assert_eq!(pool.in_use(), 0);
}
