use super::super::{
    attend::{Many, One, Scratch},
    blocks::{Pool, Table},
    kernels::{Instructions, floats},
    lanes::{Lane, WIDTH},
    product::{Emit, Product},
    weights::Shape,
};
use super::{normals, rows, stream};

/// A row-major matrix as panels of 16 outputs, an even number of them.
fn panels(matrix: &[f32], inputs: usize) -> Vec<Lane> {
    let outputs = matrix.len() / inputs;
    let mut panels = vec![Lane::default(); outputs.div_ceil(2 * WIDTH) * 2 * inputs];
    for (i, x) in matrix.iter().enumerate() {
        let (output, input) = (i / inputs, i % inputs);
        panels[output / WIDTH * inputs + input].0[output % WIDTH] = *x;
    }
    panels
}

struct Case {
    inputs: usize,
    outputs: usize,
    x: Vec<f32>,
    w: Vec<f32>,
    bias: Vec<f32>,
}

impl Case {
    fn new(count: usize, inputs: usize, outputs: usize) -> Self {
        let mut rng = stream((count * 1_000_000 + inputs * 1000 + outputs) as u64);
        let mut numbers = |n| normals(&mut rng, n);
        Self {
            inputs,
            outputs,
            x: numbers(count * inputs),
            w: numbers(inputs * outputs),
            bias: numbers(outputs),
        }
    }

    /// The product in float64, bias included.
    fn naive(&self, row: usize, output: usize) -> f64 {
        let x = &self.x[row * self.inputs..][..self.inputs];
        let w = &self.w[output * self.inputs..][..self.inputs];
        let sum: f64 = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
        sum + f64::from(self.bias[output])
    }

    fn run(&self, set: Instructions, emit: Emit, rows_used: std::ops::Range<usize>) -> Vec<Lane> {
        let stride = self.inputs.div_ceil(WIDTH) + 1;
        let out_stride = self.outputs.div_ceil(WIDTH);
        let x =
            rows(&self.x[rows_used.start * self.inputs..rows_used.end * self.inputs], self.inputs, stride);
        let mut out = vec![Lane([3.0; WIDTH]); rows_used.len() * out_stride];
        let panels = panels(&self.w, self.inputs);
        let mut bias = rows(&self.bias, self.outputs, out_stride);
        bias.resize(panels.len() / self.inputs, Lane::default());
        set.product(Product {
            x: &x,
            stride,
            inputs: self.inputs,
            panels: &panels,
            bias: Some(&bias),
            emit,
            out: &mut out,
            out_stride,
            scratch: &mut Vec::new(),
        });
        out
    }
}

#[test]
fn products_are_those_of_three_loops() {
    let sizes = [(1, 1, 1), (2, 3, 17), (5, 64, 33), (12, 7, 16), (13, 31, 130), (32, 40, 96), (57, 33, 100)];
    for set in Instructions::available() {
        for (count, inputs, outputs) in sizes {
            let case = Case::new(count, inputs, outputs);
            for (emit, before) in [(Emit::Store, 0.0), (Emit::Add, 3.0)] {
                let out = case.run(set, emit, 0..count);
                for row in 0..count {
                    let got = floats(&out[row * outputs.div_ceil(WIDTH)..][..outputs.div_ceil(WIDTH)]);
                    for (output, got) in got[..outputs].iter().enumerate() {
                        let expected = case.naive(row, output) + before;
                        // Rounding grows with the number of terms; each is about one.
                        let most = 1e-6 * (inputs as f64).max(4.0);
                        assert!(
                            (f64::from(*got) - expected).abs() < most,
                            "{} {count}x{inputs}x{outputs} [{row}, {output}]: {got} against {expected}",
                            set.name()
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn gates_are_silu_times_up() {
    for set in Instructions::available() {
        let case = Case::new(7, 19, 64);
        let out = case.run(set, Emit::Gate, 0..7);
        for row in 0..7 {
            for output in 0..32 {
                // Panels 0 and 2 are gates, 1 and 3 are ups.
                let gate = case.naive(row, output / 16 * 32 + output % 16);
                let up = case.naive(row, output / 16 * 32 + 16 + output % 16);
                let expected = gate / (1.0 + (-gate).exp()) * up;
                let got = f64::from(out[row * 4 + output / 16].0[output % 16]);
                assert!((got - expected).abs() < 1e-4, "{}: {got} against {expected}", set.name());
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_alone_and_among_others() {
    let case = Case::new(41, 70, 90);
    for set in Instructions::available() {
        let all = case.run(set, Emit::Store, 0..41);
        for range in [0..1, 3..5, 7..20, 0..32, 40..41, 9..41] {
            assert_eq!(
                case.run(set, Emit::Store, range.clone()),
                all[range.start * 6..range.end * 6],
                "{}",
                set.name()
            );
        }
    }
}

fn shape(head_dim: usize) -> Shape {
    Shape {
        vocab: 1,
        hidden: 1,
        inner: 1,
        heads: 1,
        key_value_heads: 2,
        head_dim,
        context: 1000,
        eps: 0.0,
        window: None,
        layers: 3,
    }
}

/// Keys and values of `len` positions in unit 3 (layer 1, head 1), and the same in a pool among other sequences.
fn cached(head_dim: usize, len: usize) -> (Pool, Table, Vec<f32>, Vec<f32>) {
    let mut rng = stream((head_dim * 1000 + len) as u64);
    let (keys, values) = (normals(&mut rng, len * head_dim), normals(&mut rng, len * head_dim));
    let mut pool = Pool::new(&shape(head_dim));
    let (mut table, mut other) = (Table::default(), Table::default());
    for position in 0..len {
        pool.extend(&mut table, 1);
        pool.extend(&mut other, 1);
        let (from, to) = (position * head_dim, (position + 1) * head_dim);
        // What must not be seen: another sequence, other units, and what a block held before.
        let garbage = vec![f32::NAN; head_dim];
        for unit in [2, 4] {
            pool.write(&table, position, unit, &garbage, &garbage);
        }
        pool.write(&other, position, 3, &garbage, &garbage);
        pool.write(&table, position, 3, &keys[from..to], &values[from..to]);
    }
    (pool, table, keys, values)
}

/// Softmax attention of one query in float64.
fn naive(query: &[f32], keys: &[f32], values: &[f32], seen: std::ops::Range<usize>, scale: f64) -> Vec<f64> {
    let d = query.len();
    let dot = |j: usize| -> f64 {
        query.iter().zip(&keys[j * d..]).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum::<f64>() * scale
    };
    let scores: Vec<f64> = seen.clone().map(dot).collect();
    let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
    let total: f64 = weights.iter().sum();
    (0..d)
        .map(|i| {
            seen.clone().zip(&weights).map(|(j, w)| w * f64::from(values[j * d + i])).sum::<f64>() / total
        })
        .collect()
}

fn close(got: &[f32], expected: &[f64], what: &str) {
    for (got, expected) in got.iter().zip(expected) {
        // Scores reach 15, where a float32 has steps of 1e-6: so much is a weight wrong, and a value as large as 4.
        assert!((f64::from(*got) - expected).abs() < 1e-5, "{what}: {got} against {expected}");
    }
}

#[test]
fn attention_of_one_position_is_the_naive_one() {
    for set in Instructions::available() {
        for (d, group, len) in
            [(2, 1, 1), (8, 2, 16), (20, 3, 17), (32, 2, 100), (64, 5, 65), (80, 4, 33), (128, 8, 200)]
        {
            let (pool, table, keys, values) = cached(d, len);
            let queries = normals(&mut stream(1), group * d);
            for seen in [0..len, len.saturating_sub(37)..len, len - 1..len] {
                let mut out = vec![f32::NAN; group * d];
                let scratch = &mut Scratch::default();
                let past = pool.past(&table, 1, 1);
                set.one(One {
                    past,
                    queries: &queries,
                    seen: seen.clone(),
                    scale: 0.3,
                    out: &mut out,
                    scratch,
                });
                for (query, out) in queries.chunks(d).zip(out.chunks(d)) {
                    let what = format!("{} d {d} group {group} seen {seen:?}", set.name());
                    close(out, &naive(query, &keys, &values, seen.clone(), 0.3), &what);
                }
            }
        }
    }
}

#[test]
fn attention_of_many_rows_is_the_naive_one() {
    for set in Instructions::available() {
        for (d, group, len, new, window) in [
            (2, 1, 1, 1, 100),
            (8, 2, 16, 8, 100),
            (20, 3, 17, 5, 4),
            (32, 2, 100, 7, 100),
            (64, 1, 65, 16, 20),
            (128, 8, 90, 2, 33),
        ] {
            let (pool, table, keys, values) = cached(d, len);
            let queries = normals(&mut stream(2), new * group * d);
            let places: Vec<_> = (0..new * group)
                .map(|r| {
                    let end = len - new + r / group + 1;
                    (r * d, end.saturating_sub(window)..end)
                })
                .collect();
            let lanes = d.div_ceil(WIDTH);
            let mut out = vec![Lane::default(); lanes * WIDTH];
            let scratch = &mut Scratch::default();
            let past = pool.past(&table, 1, 1);
            set.many(Many { past, rows: &places, source: &queries, scale: 0.3, out: &mut out, scratch });
            for (r, (at, seen)) in places.iter().enumerate() {
                let got: Vec<f32> = (0..lanes).flat_map(|panel| out[panel * WIDTH + r].0).collect();
                let expected = naive(&queries[*at..at + d], &keys, &values, seen.clone(), 0.3);
                close(&got, &expected, &format!("{} d {d} row {r}", set.name()));
            }
        }
    }
}

/// Two units in the last place of a float32 are 2.4e-7 of the number at most.
#[test]
fn exponentials_are_exact_to_two_units() {
    let xs: Vec<f32> = (0..16_000).map(|i| -86.9 * i as f32 / 16_000.0).chain([0.0; 64]).collect();
    let logits = rows(&xs, xs.len(), xs.len() / WIDTH);
    for set in Instructions::available() {
        let mut weights = vec![Lane::default(); logits.len()];
        let mut sums = vec![0.0; logits.len().div_ceil(4)];
        set.exponentials(&logits, 0.0, 1.0, &mut weights, &mut sums);
        for (x, got) in xs.iter().zip(floats(&weights)) {
            let expected = f64::from(*x).exp();
            assert!((f64::from(*got) / expected - 1.0).abs() < 2.4e-7, "{}: exp({x}) = {got}", set.name());
        }
        let total: f64 = xs.iter().map(|x| f64::from(*x).exp()).sum();
        assert!((sums.iter().sum::<f64>() / total - 1.0).abs() < 1e-6);
        let far = [Lane([
            -1e4,
            -88.0,
            f32::NEG_INFINITY,
            0.0,
            -87.5,
            0.0,
            0.0,
            0.0,
            0.0,
            0.0,
            0.0,
            0.0,
            0.0,
            0.0,
            0.0,
            0.0,
        ])];
        set.exponentials(&far, 0.0, 1.0, &mut weights, &mut sums);
        assert_eq!(weights[0].0[..5], [0.0, 0.0, 0.0, 1.0, 0.0]);
    }
}

#[test]
fn norms_and_rotations_are_the_naive_ones() {
    for set in Instructions::available() {
        let mut rng = stream(3);
        let (x, weight) = (normals(&mut rng, 3 * 40), normals(&mut rng, 40));
        let mut out = vec![Lane::default(); 9];
        set.norm_rows(&rows(&x, 40, 3), 3, 40, &rows(&weight, 40, 3), 1e-3, &mut out);
        for (x, out) in x.chunks(40).zip(out.chunks(3)) {
            let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / 40.0;
            let scale = 1.0 / (mean + 1e-3).sqrt();
            let expected: Vec<f64> =
                x.iter().zip(&weight).map(|(x, w)| f64::from(*x) * scale * f64::from(*w)).collect();
            close(&floats(out)[..40], &expected, set.name());
            assert_eq!(floats(out)[40..], [0.0; 8]);
            let mut head = x.to_vec();
            set.norm_head(&mut head, &weight, 1e-3);
            close(&head, &expected, set.name());
            let (cos, sin) = ([0.6; 20], [0.8; 20]);
            let mut turned = x.to_vec();
            set.rotate(&mut turned, &cos, &sin);
            let pair = |i: usize| (f64::from(x[i]), f64::from(x[i + 20]));
            let first = (0..20).map(|i| 0.6 * pair(i).0 - 0.8 * pair(i).1);
            let second = (0..20).map(|i| 0.6 * pair(i).1 + 0.8 * pair(i).0);
            close(&turned, &first.chain(second).collect::<Vec<_>>(), set.name());
        }
    }
}
