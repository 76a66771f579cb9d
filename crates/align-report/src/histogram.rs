//! Distributions as inline SVG.

use crate::{
    escape,
    frame::{Frame, classes, legend, legend_height},
    scale::{Axis, round_up},
};

/// Bins of equal width with round edges.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bins {
    first: f64,
    width: f64,
    count: usize,
}

impl Bins {
    /// Chooses about `wanted` bins for the finite values among these; 0 is an edge if it is among them. `None` when no
    /// value is finite.
    ///
    /// Where the outermost hundredth of the values would squeeze the rest into less than a third of the drawing, it is
    /// left to the outermost bins.
    pub fn fitting(values: impl IntoIterator<Item = f64>, wanted: usize) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|v| v.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let at = |share: f64| {
            values.get((share * values.len().saturating_sub(1) as f64).round() as usize).copied()
        };
        let (mut low, mut high) = (at(0.0)?, at(1.0)?);
        let (inner_low, inner_high) = (at(0.005)?, at(0.995)?);
        if inner_high > inner_low && high - low > 3.0 * (inner_high - inner_low) {
            (low, high) = (inner_low, inner_high);
        }
        let spread = (high - low).max(1e-9 * high.abs().max(low.abs()));
        let width = round_up(if spread > 0.0 { spread / wanted.max(1) as f64 } else { 1.0 });
        let first = (low / width).floor() * width;
        let count = ((high - first) / width).floor().clamp(0.0, 4.0 * wanted.max(1) as f64) as usize + 1;
        Some(Self { first, width, count })
    }

    /// The edges, one more than there are bins.
    pub fn edges(&self) -> Vec<f64> {
        // Whole multiples of a round width, without the errors that adding it up would leave.
        let first = (self.first / self.width).round();
        (0..=self.count).map(|i| (first + i as f64) * self.width).collect()
    }

    /// Counts the finite values in each bin; those beyond the outermost edges are counted in the outermost bins.
    pub fn count(&self, values: impl IntoIterator<Item = f64>) -> Vec<f64> {
        let mut counts = vec![0.0; self.count];
        let last = self.count.saturating_sub(1) as f64;
        for value in values.into_iter().filter(|v| v.is_finite()) {
            let index = ((value - self.first) / self.width).floor().clamp(0.0, last) as usize;
            if let Some(count) = counts.get_mut(index) {
                *count += 1.0;
            }
        }
        counts
    }
}

/// The counts of one distribution, over edges of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Distribution {
    /// Name in the legend.
    pub name: String,
    /// Chooses colour and dash pattern.
    pub style: usize,
    /// Edges of the bins in rising order, one more than there are counts.
    pub edges: Vec<f64>,
    /// What each bin holds.
    pub counts: Vec<f64>,
}

/// Distributions over one axis, each as the share of its own total.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    /// What it shows, for those who cannot see it.
    pub title: String,
    /// The abscissa, with unit.
    pub x_label: String,
    /// What is counted.
    pub y_label: String,
    /// The distributions, the first at the back.
    pub distributions: Vec<Distribution>,
    /// A value that is marked by an upright line, such as 0 or chance.
    pub mark: Option<f64>,
}

/// Draws distributions as outlines over each other; nothing when there is nothing in them.
pub fn histogram(histogram: &Histogram) -> String {
    let drawn: Vec<(&Distribution, Vec<f64>)> =
        histogram.distributions.iter().filter_map(|d| Some((d, shares(d)?))).collect();
    let edges = drawn.iter().flat_map(|(d, _)| d.edges.iter().copied());
    let highest = drawn.iter().flat_map(|(_, shares)| shares.iter().copied());
    let (Some(x), Some(y)) = (Axis::exact(edges), Axis::fitting(highest.chain([0.0]))) else {
        return String::new();
    };
    let frame = Frame::new(x, y);
    let below = if drawn.len() > 1 { legend_height(drawn.len()) } else { 0.0 };
    let mut svg = frame.open(&histogram.title, below);
    frame.axes(&mut svg, &histogram.x_label, &histogram.y_label, false);
    if let Some(mark) = histogram.mark.filter(|mark| frame.x.holds(*mark)) {
        let (x, top, bottom) = (frame.px(mark), frame.top(), frame.bottom());
        svg += &format!(r#"<path class="zero" d="M{x:.1} {top}V{bottom}"/>"#);
    }
    for (index, (distribution, shares)) in drawn.iter().enumerate() {
        outline(&mut svg, &frame, distribution, shares);
        if drawn.len() > 1 {
            legend(&mut svg, frame.height, index, distribution.style, &distribution.name, false);
        }
    }
    svg + "</svg>"
}

/// The share of each bin; `None` when there is nothing to draw.
fn shares(distribution: &Distribution) -> Option<Vec<f64>> {
    let total: f64 = distribution.counts.iter().sum();
    let fits = distribution.edges.len() == distribution.counts.len() + 1;
    (fits && total > 0.0).then(|| distribution.counts.iter().map(|count| count / total).collect())
}

fn outline(svg: &mut String, frame: &Frame, distribution: &Distribution, shares: &[f64]) {
    let classes = classes(distribution.style);
    let base = frame.py(0.0);
    let (Some(first), Some(last)) = (distribution.edges.first(), distribution.edges.last()) else { return };
    let mut path = format!("M{:.1} {base:.1}", frame.px(*first));
    for (share, edge) in shares.iter().zip(distribution.edges.iter().skip(1)) {
        path += &format!("V{:.1}H{:.1}", frame.py(*share), frame.px(*edge));
    }
    path += &format!("V{base:.1}H{:.1}", frame.px(*last));
    let name = escape(&distribution.name);
    *svg += &format!(
        r#"<g><title>{name}</title><path class="band {classes}" d="{path}Z"/><path class="line {classes}" d="{path}"/></g>"#
    );
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bins_are_round_and_hold_their_edges() {
        let bins = Bins::fitting([-0.9, 0.0, 1.9], 6).unwrap();
        assert_eq!(bins.edges(), [-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0]);
        assert_eq!(bins.count([-0.9, 0.0, 0.49, 0.5, 1.9, f64::NAN]), [1.0, 0.0, 2.0, 1.0, 0.0, 1.0]);
        assert_eq!(Bins::fitting([f64::NAN], 6), None);
    }

    #[test]
    fn equal_values_have_one_bin() {
        for value in [0.0, 5.0, -1e9] {
            let bins = Bins::fitting([value; 3], 20).unwrap();
            assert_eq!(bins.count([value; 3]).iter().sum::<f64>(), 3.0, "{value}");
            assert!(bins.edges().len() >= 2 && bins.edges().len() < 30, "{value}");
        }
    }

    #[test]
    fn outliers_do_not_squeeze_the_rest() {
        let values = || (0..1000).map(|i| f64::from(i) / 1000.0).chain([1e6]);
        let bins = Bins::fitting(values(), 20).unwrap();
        assert!(bins.edges().last().unwrap() < &2.0);
        assert_eq!(bins.count(values()).iter().sum::<f64>(), 1001.0);
    }

    #[test]
    fn hostile_numbers_and_names_draw_nothing_harmful() {
        let distribution = |counts: Vec<f64>| Distribution {
            name: "<script>\"".into(),
            style: 3,
            edges: (0..=counts.len()).map(|i| i as f64).collect(),
            counts,
        };
        let draw = |distributions: Vec<Distribution>| {
            let (title, x_label, y_label) = ("<t>".into(), "<x>".into(), "<y>".into());
            histogram(&Histogram { title, x_label, y_label, distributions, mark: Some(0.0) })
        };
        assert_eq!(draw(vec![]), "");
        assert_eq!(draw(vec![distribution(vec![]), distribution(vec![0.0, 0.0])]), "");
        let mut torn = distribution(vec![1.0, 2.0]);
        torn.edges.pop();
        assert_eq!(draw(vec![torn]), "");
        let svg = draw(vec![distribution(vec![1.0, 3.0]), distribution(vec![2.0])]);
        assert!(!svg.contains("<script>") && !svg.contains("<x>") && !svg.contains("NaN"), "{svg}");
    }

    proptest! {
        /// Nothing is lost: counts add up to the number of values, and the edges enclose all but outliers.
        #[test]
        fn every_value_is_counted(values in prop::collection::vec(-1e4f64..1e4, 1..300), wanted in 1usize..60) {
            let bins = Bins::fitting(values.iter().copied(), wanted).unwrap();
            prop_assert_eq!(bins.count(values.iter().copied()).iter().sum::<f64>(), values.len() as f64);
            prop_assert!(bins.edges().len() <= 4 * wanted + 2);
            prop_assert!(bins.edges().windows(2).all(|pair| pair[0] < pair[1]));
        }
    }
}
