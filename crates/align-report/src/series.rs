//! Long curves made short without losing what the eye would see.

/// Averages the values around an index: `window` of them, fewer at the ends and never lopsided; `None` beyond the end.
///
/// A value that is not finite stays as it is and is left out of its neighbours' means.
///
/// ```
/// let values = [1.0, 2.0, 6.0];
/// let means: Vec<f64> = (0..3).filter_map(|index| align_report::mean_around(&values, index, 3)).collect();
/// assert_eq!(means, [1.0, 3.0, 6.0]);
/// ```
pub fn mean_around(values: &[f64], index: usize, window: usize) -> Option<f64> {
    let value = *values.get(index)?;
    let reach = (window.max(1) / 2).min(index).min(values.len() - 1 - index);
    let around = values.get(index - reach..=index + reach).unwrap_or_default();
    let finite = around.iter().filter(|v| v.is_finite());
    let (sum, count) = finite.fold((0.0, 0.0), |(sum, count), v| (sum + v, count + 1.0));
    Some(if value.is_finite() { sum / count } else { value })
}

/// Keeps at most about `2 * buckets` of the points, given as (x, y) in the order of x: the lowest and the highest of
/// every stretch of x, the first and the last of all, and one that is not finite wherever a stretch has one.
///
/// A peak of a single step among a hundred thousand is still drawn.
pub fn thin(points: &[(f64, f64)], buckets: usize) -> Vec<(f64, f64)> {
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return Vec::new() };
    let buckets = buckets.max(1);
    if points.len() <= 2 * buckets || last.0 <= first.0 {
        return points.to_vec();
    }
    let bucket_of = |x: f64| ((x - first.0) / (last.0 - first.0) * buckets as f64) as usize;
    let mut kept = Vec::with_capacity(2 * buckets + 2);
    kept.push(*first);
    for stretch in points.chunk_by(|a, b| bucket_of(a.0) == bucket_of(b.0)) {
        let finite = || stretch.iter().enumerate().filter(|(_, p)| p.1.is_finite());
        let lowest = finite().min_by(|a, b| a.1.1.total_cmp(&b.1.1));
        let highest = finite().max_by(|a, b| a.1.1.total_cmp(&b.1.1));
        let gap = stretch.iter().enumerate().find(|(_, p)| !p.1.is_finite());
        let mut chosen: Vec<(usize, &(f64, f64))> = [lowest, highest, gap].into_iter().flatten().collect();
        chosen.sort_unstable_by_key(|(index, _)| *index);
        chosen.dedup_by_key(|(index, _)| *index);
        kept.extend(chosen.into_iter().map(|(_, point)| *point));
    }
    kept.push(*last);
    kept.dedup();
    kept
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn moving_mean(values: &[f64], window: usize) -> Vec<f64> {
        (0..=values.len()).filter_map(|index| mean_around(values, index, window)).collect()
    }

    #[test]
    fn gaps_stay_gaps() {
        let mean = moving_mean(&[1.0, f64::NAN, 3.0, 5.0, 7.0], 3);
        assert!(mean[1].is_nan());
        assert_eq!([mean[0], mean[2], mean[3], mean[4]], [1.0, 4.0, 5.0, 7.0]);
        assert_eq!(moving_mean(&[], 5), [0.0; 0]);
        assert_eq!(moving_mean(&[2.0, 4.0], 0), [2.0, 4.0]);
        let mut points: Vec<(f64, f64)> = (0..1000).map(|i| (f64::from(i), 1.0)).collect();
        points[500].1 = f64::NAN;
        assert_eq!(thin(&points, 20).iter().filter(|p| p.1.is_nan()).count(), 1);
    }

    proptest! {
        /// A straight line is its own moving mean.
        #[test]
        fn straight_lines_stay(length in 1usize..60, window in 0usize..30, slope in -5.0f64..5.0) {
            let line: Vec<f64> = (0..length).map(|i| slope * i as f64).collect();
            for (mean, value) in moving_mean(&line, window).iter().zip(&line) {
                prop_assert!((mean - value).abs() < 1e-9);
            }
        }

        /// Thinning keeps ends and extremes, invents nothing, keeps the order and is short.
        #[test]
        fn extremes_survive(ys in prop::collection::vec(-1e3f64..1e3, 1..2000), buckets in 1usize..50) {
            let points: Vec<(f64, f64)> = ys.iter().enumerate().map(|(i, y)| (i as f64, *y)).collect();
            let thinned = thin(&points, buckets);
            prop_assert!(thinned.len() <= 2 * buckets + 4);
            prop_assert_eq!(thinned.first(), points.first());
            prop_assert_eq!(thinned.last(), points.last());
            let extreme = |points: &[(f64, f64)]| {
                points.iter().fold((f64::MAX, f64::MIN), |(low, high), p| (low.min(p.1), high.max(p.1)))
            };
            prop_assert_eq!(extreme(&thinned), extreme(&points));
            for pair in thinned.windows(2) {
                prop_assert!(pair[0].0 < pair[1].0);
            }
            for point in &thinned {
                prop_assert_eq!(points[point.0 as usize], *point);
            }
        }
    }
}
