//! The path of a policy away from its start, and what is read off it.
//!
//! The highest point of a noisy curve is too high, and lies before the end by chance alone: a fall from it would be seen where
//! there is none. So the answers at every point are two halves. The first half's gold says where the peak is, the second
//! half's how high it is.

use super::super::best_of_n::{least_squares, moments};

/// The halves of the answers at a point.
pub(super) const HALVES: usize = 2;

/// A point of a path.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Reading {
    /// Completions that were sampled in training until then.
    pub sampled: u64,
    /// KL to the start, nats per answer.
    pub kl: f64,
    /// Share of distinct tokens in an answer.
    pub distinct: f64,
}

/// A point with its rewards in standard deviations of the start, whose mean is 0; of the first half of the answers, of the
/// second.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Point {
    at: Reading,
    gold: [f64; HALVES],
    proxy: [f64; HALVES],
}

/// The points of a policy in the order of the training.
#[derive(Debug, Clone, Default)]
pub(super) struct Course {
    points: Vec<Point>,
    /// Mean and standard deviation of gold and proxy at the start.
    scales: Option<[(f64, f64); 2]>,
}

impl Point {
    fn distance(&self) -> f64 {
        self.at.kl.max(0.0).sqrt()
    }

    fn whole(halves: [f64; HALVES]) -> f64 {
        halves.iter().sum::<f64>() / HALVES as f64
    }
}

/// Averages the first and the second half of every group, scaled.
fn halves(groups: &[Vec<f64>], (mean, deviation): (f64, f64)) -> [f64; HALVES] {
    let (mut sums, mut counts) = ([0.0; HALVES], [0.0f64; HALVES]);
    for group in groups {
        let (first, second) = group.split_at(group.len() / HALVES);
        for ((sum, count), half) in sums.iter_mut().zip(&mut counts).zip([first, second]) {
            for value in half {
                *sum += (value - mean) / deviation;
            }
            *count += half.len() as f64;
        }
    }
    let [first, second] = sums;
    let [of_first, of_second] = counts.map(|count| count.max(1.0));
    [first / of_first, second / of_second]
}

impl Course {
    /// Adds a point with the rewards of its answers, by request; the first one is the start.
    pub fn add(&mut self, at: Reading, gold: &[Vec<f64>], proxy: &[Vec<f64>]) {
        let [of_gold, of_proxy] =
            *self.scales.get_or_insert_with(|| [gold, proxy].map(|all| moments(all.iter().flatten())));
        self.points.push(Point { at, gold: halves(gold, of_gold), proxy: halves(proxy, of_proxy) });
    }

    /// Gold by distance.
    pub fn gold(&self) -> Vec<(f64, f64)> {
        self.points.iter().map(|point| (point.distance(), Point::whole(point.gold))).collect()
    }

    /// The proxy by distance.
    pub fn proxy(&self) -> Vec<(f64, f64)> {
        self.points.iter().map(|point| (point.distance(), Point::whole(point.proxy))).collect()
    }

    /// The numbers of an arm; gold at equal KL is that of the end where the path does not go so far.
    pub fn metrics(&self, equal_kl: f64) -> Vec<(&'static str, f64)> {
        let (Some(start), Some(end)) = (self.points.first(), self.points.last()) else { return Vec::new() };
        // Of equals the first.
        let peak = self.points.iter().rev().max_by(|a, b| a.gold[0].total_cmp(&b.gold[0])).unwrap_or(start);
        let mut metrics = vec![
            ("rise", peak.gold[1] - start.gold[1]),
            ("fall", peak.gold[1] - end.gold[1]),
            ("gain", Point::whole(end.gold) - Point::whole(start.gold)),
            ("proxy-gain", Point::whole(end.proxy) - Point::whole(start.proxy)),
            ("proxy-after", end.proxy[1] - peak.proxy[1]),
            ("equal", self.gold_at(equal_kl) - Point::whole(start.gold)),
            ("peak", peak.distance()),
            ("peak-samples", peak.at.sampled as f64),
            ("end", end.distance()),
            ("distinct-start", start.at.distinct),
            ("distinct", end.at.distinct),
        ];
        if let Some((a, b)) = self.fit() {
            metrics.extend([("a", a), ("b", b)]);
        }
        metrics
    }

    /// Gold where the KL is this for the first time, between two points by a straight line.
    fn gold_at(&self, kl: f64) -> f64 {
        let crossing = self.points.windows(2).find_map(|pair| match pair {
            [before, after] if before.at.kl <= kl && after.at.kl > kl => {
                let share = (kl - before.at.kl) / (after.at.kl - before.at.kl);
                let (low, high) = (Point::whole(before.gold), Point::whole(after.gold));
                Some(low + share * (high - low))
            }
            _ => None,
        });
        crossing.or_else(|| self.points.last().map(|end| Point::whole(end.gold))).unwrap_or(0.0)
    }

    /// Fits R(d) = d (a − b log d) to gold, the form of 2210.10760 for reinforcement learning (equation 2).
    fn fit(&self) -> Option<(f64, f64)> {
        let start = self.points.first().map(|start| Point::whole(start.gold))?;
        let away = self.points.iter().filter(|point| point.distance() > 0.0);
        least_squares(away.map(|point| {
            let d = point.distance();
            (d, d * d.ln(), Point::whole(point.gold) - start)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path whose answers are two for one request: gold of the first half, of the second, KL.
    fn path(points: &[(f64, f64, f64)]) -> Course {
        let mut path = Course { scales: Some([(0.0, 1.0), (1.0, 2.0)]), ..Course::default() };
        for (index, (first, second, kl)) in points.iter().enumerate() {
            let at = Reading { sampled: 10 * index as u64, kl: *kl, distinct: 0.5 };
            path.add(at, &[vec![*first, *second]], &[vec![1.0 + 2.0 * index as f64; 2]]);
        }
        path
    }

    fn metric(path: &Course, kl: f64, name: &str) -> f64 {
        path.metrics(kl).into_iter().find(|(known, _)| *known == name).unwrap().1
    }

    #[test]
    fn one_half_finds_the_peak_and_the_other_says_how_high_it_is() {
        let path = path(&[(0.0, 0.0, 0.0), (2.0, 1.0, 1.0), (1.5, 3.0, 4.0), (0.5, 0.25, 9.0)]);
        let numbers = ["rise", "fall", "peak", "peak-samples", "proxy-after", "end", "gain"];
        // The peak is the second point, though the second half's gold is highest at the third.
        assert_eq!(numbers.map(|name| metric(&path, 1.0, name)), [1.0, 0.75, 1.0, 10.0, 2.0, 3.0, 0.375]);
    }

    #[test]
    fn gold_without_change_has_its_peak_at_the_start_and_no_fall() {
        let path = path(&[(1.0, 1.0, 0.0), (1.0, 1.0, 1.0), (1.0, 1.0, 2.0)]);
        assert_eq!(["rise", "fall", "peak"].map(|name| metric(&path, 1.0, name)), [0.0; 3]);
    }

    #[test]
    fn gold_at_equal_kl_lies_between_points_and_at_the_end_beyond_them() {
        let path = path(&[(0.0, 0.0, 0.0), (2.0, 2.0, 2.0), (1.0, 1.0, 4.0)]);
        assert_eq!([1.0, 3.0, 5.0].map(|kl| metric(&path, kl, "equal")), [1.0, 1.5, 1.0]);
    }

    #[test]
    fn the_start_has_mean_0_and_deviation_1() {
        let mut path = Course::default();
        let at = Reading { sampled: 0, kl: 0.0, distinct: 1.0 };
        // Mean 4 and standard deviation √5; the halves of 1, 3, 5, 7 are 2 and 6.
        path.add(at, &[vec![1.0, 3.0, 5.0, 7.0]], &[vec![0.0, 1.0, 0.0, 1.0]]);
        let deviations = path.points[0].gold.map(|gold| gold * 5f64.sqrt());
        assert!((deviations[0] + 2.0).abs() < 1e-12 && (deviations[1] - 2.0).abs() < 1e-12);
        assert_eq!(path.points[0].proxy, [0.0, 0.0]);
    }

    #[test]
    fn the_fit_finds_its_own_curve() {
        let gold = |d: f64| d * (0.8 - 0.3 * d.ln());
        let all: Vec<_> = [1.0, 2.0, 3.0, 5.0].iter().map(|d| (gold(*d), gold(*d), d * d)).collect();
        let mut points = vec![(0.0, 0.0, 0.0)];
        points.extend(all);
        let (a, b) = path(&points).fit().unwrap();
        assert!((a - 0.8).abs() < 1e-9 && (b - 0.3).abs() < 1e-9, "{a} {b}");
    }
}
