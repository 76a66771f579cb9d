//! From numbers to places on an axis, and ticks that are round.

/// How places follow from numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Equal differences are equal distances.
    Linear,
    /// Equal ratios are equal distances; only for positive numbers.
    Log,
}

/// Positive values that span more than this many powers of ten are drawn on a logarithmic scale.
const DECADES: f64 = 3.0;

/// A part of the number line that a drawing shows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Axis {
    low: f64,
    high: f64,
    scale: Scale,
}

impl Axis {
    /// Covers exactly the finite values among these; `None` when there is none.
    pub fn exact(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let (low, high) = range(values)?;
        let (low, high) = if high > low { (low, high) } else { (low - 0.5, high + 0.5) };
        Some(Self { low, high, scale: Scale::Linear })
    }

    /// Covers the finite values with some air; `None` when there is none.
    ///
    /// Values that are all positive and span more than three powers of ten get [`Scale::Log`]. Otherwise the axis
    /// begins at 0 where the values are not far above it, so that shares and rates can be compared by height.
    pub fn fitting(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let (low, high) = range(values)?;
        if low > 0.0 && high.log10() - low.log10() > DECADES {
            let air = 10f64.powf(0.03 * (high.log10() - low.log10()));
            // The air around numbers at the ends of the range would be 0 or infinite.
            let (low, high) = ((low / air).max(f64::MIN_POSITIVE), (high * air).min(f64::MAX));
            return Some(Self { low, high, scale: Scale::Log });
        }
        Self::linear([low, high])
    }

    /// As [`Self::fitting`], but never logarithmic: for what adds up, as time does.
    pub fn linear(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let (low, high) = range(values)?;
        // Values that differ in rounding only are one value; its axis must not show the rounding.
        let magnitude = low.abs().max(high.abs());
        if high - low <= 1e-9 * magnitude {
            let half = if magnitude > 0.0 { 0.1 * magnitude } else { 1.0 };
            return Some(Self { low: low - half, high: high + half, scale: Scale::Linear });
        }
        let air = 0.05 * (high - low);
        let low = if low >= 0.0 && low < 0.5 * high { 0.0 } else { low - air };
        Some(Self { low, high: high + air, scale: Scale::Linear })
    }

    /// The kind of scale.
    pub fn scale(&self) -> Scale {
        self.scale
    }

    /// Maps a number to its place, 0 at the low end and 1 at the high end.
    pub fn place(&self, value: f64) -> f64 {
        let value = value.clamp(-LARGEST, LARGEST);
        match self.scale {
            Scale::Linear => (value - self.low) / (self.high - self.low).max(f64::MIN_POSITIVE),
            Scale::Log => {
                let low = self.low.ln();
                (value.max(f64::MIN_POSITIVE).ln() - low) / (self.high.ln() - low).max(f64::MIN_POSITIVE)
            }
        }
    }

    /// Says whether a number lies on the axis.
    pub fn holds(&self, value: f64) -> bool {
        value >= self.low && value <= self.high
    }

    /// Chooses about `wanted` round ticks with their texts.
    pub fn ticks(&self, wanted: usize) -> Vec<(f64, String)> {
        match self.scale {
            Scale::Linear => linear_ticks(self.low, self.high, wanted, 0.0),
            Scale::Log => log_ticks(self.low, self.high, wanted),
        }
    }

    /// As [`Self::ticks`] for an axis of counts: every tick is a whole number.
    pub fn whole_ticks(&self, wanted: usize) -> Vec<(f64, String)> {
        linear_ticks(self.low, self.high, wanted, 1.0)
    }
}

/// Numbers beyond this have differences that are infinite, and are drawn as if they were this.
const LARGEST: f64 = 1e300;

fn range(values: impl IntoIterator<Item = f64>) -> Option<(f64, f64)> {
    let finite = values.into_iter().filter(|v| v.is_finite()).map(|v| v.clamp(-LARGEST, LARGEST));
    finite.fold(None, |range, v| match range {
        None => Some((v, v)),
        Some((low, high)) => Some((low.min(v), high.max(v))),
    })
}

/// The smallest of 1, 2, 5 times a power of ten that is at least `raw`.
pub(crate) fn round_up(raw: f64) -> f64 {
    let power = 10f64.powf(raw.max(f64::MIN_POSITIVE).log10().floor());
    // A raw step of 0.2 must not become 0.5 because of its last bit.
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= raw * (1.0 - 1e-9)).unwrap_or(raw)
}

fn linear_ticks(low: f64, high: f64, wanted: usize, least_step: f64) -> Vec<(f64, String)> {
    let step = round_up((high - low) / wanted.max(1) as f64).max(least_step);
    let (first, last) = ((low / step - 1e-9).ceil(), (high / step + 1e-9).floor());
    let count = (last - first).clamp(-1.0, 4.0 * wanted as f64) as i64;
    (0..=count).map(|i| (first + i as f64) * step).map(|value| (value, tick_text(value, step))).collect()
}

fn log_ticks(low: f64, high: f64, wanted: usize) -> Vec<(f64, String)> {
    let (first, last) = (low.log10().ceil() as i32, high.log10().floor() as i32);
    let every = ((last - first + 1).max(1) as usize).div_ceil(wanted.max(1));
    let powers = (first..=last).step_by(every.max(1)).map(|power| 10f64.powi(power));
    powers.map(|value| (value, tick_text(value, value))).collect()
}

/// Writes a tick with the digits that its step needs.
fn tick_text(value: f64, step: f64) -> String {
    let value = if value.abs() < step * 1e-6 { 0.0 } else { value };
    let size = value.abs().max(step);
    if value == 0.0 {
        return "0".to_owned();
    }
    if size < 1e-3 {
        return scientific(value, step);
    }
    let (unit, suffix) = match size {
        s if s >= 1e15 => return scientific(value, step),
        s if s >= 1e9 => (1e9, "G"),
        s if s >= 1e6 => (1e6, "M"),
        s if s >= 1e4 => (1e3, "k"),
        _ => (1.0, ""),
    };
    let decimals = (-(step / unit).log10() - 1e-9).ceil().clamp(0.0, 9.0) as usize;
    let text = format!("{:.decimals$}", value / unit);
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    minus(text) + suffix
}

fn scientific(value: f64, step: f64) -> String {
    let digits = (value.abs().log10().floor() - step.log10().floor()).clamp(0.0, 9.0) as usize;
    let text = format!("{value:.digits$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    format!("{}e{}", minus(mantissa), minus(exponent))
}

/// Writes negative numbers with a minus sign, which is as wide as a digit, in place of a hyphen.
fn minus(text: &str) -> String {
    match text.strip_prefix('-') {
        Some(rest) => format!("−{rest}"),
        None => text.to_owned(),
    }
}

/// Writes a number for people: four significant digits, with an exponent where it is very large or very small.
///
/// ```
/// use align_report::number;
/// let texts = [0.693147, -12.34567, 1234567.0, 3e-7, f64::NAN].map(number);
/// assert_eq!(texts, ["0.6931", "−12.35", "1\u{202f}234\u{202f}567", "3e−7", "–"]);
/// ```
pub fn number(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let size = value.abs();
    if value == 0.0 {
        return "0".to_owned();
    }
    if !(1e-3..1e15).contains(&size) {
        let text = format!("{value:.3e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let digits = digits.trim_end_matches('0').trim_end_matches('.');
        return minus(&format!("{digits}e{}", minus(exponent)));
    }
    let decimals = (3.0 - size.log10().floor()).clamp(0.0, 6.0) as usize;
    let text = format!("{value:.decimals$}");
    let text = if decimals > 0 { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    minus(&grouped(text))
}

/// Puts a thin space between groups of three digits of a whole number of five digits or more.
fn grouped(text: &str) -> String {
    let digits = text.trim_start_matches('-');
    if digits.len() < 5 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.to_owned();
    }
    let mut out = String::from(if text.starts_with('-') { "-" } else { "" });
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(ticks: Vec<(f64, String)>) -> Vec<String> {
        ticks.into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn ticks_are_round_and_short() {
        let linear = |low, high, wanted| texts(linear_ticks(low, high, wanted, 0.0));
        assert_eq!(linear(0.0, 1000.0, 5), ["0", "200", "400", "600", "800", "1000"]);
        assert_eq!(linear(-0.31, 0.07, 4), ["−0.3", "−0.2", "−0.1", "0"]);
        assert_eq!(linear(0.0, 2.1e-6, 3), ["0", "1e−6", "2e−6"]);
        assert_eq!(linear(0.0, 3.2e5, 4), ["0", "100k", "200k", "300k"]);
        assert_eq!(linear(1.0e6, 1.6e6, 3), ["1M", "1.2M", "1.4M", "1.6M"]);
        assert_eq!(texts(log_ticks(0.5e-3, 200.0, 6)), ["0.001", "0.01", "0.1", "1", "10", "100"]);
        assert_eq!(texts(log_ticks(1e-12, 1.0, 5)).len(), 5);
    }

    #[test]
    fn steps_have_whole_ticks() {
        let axis = Axis::exact([1.0, 3.0]).unwrap();
        assert_eq!(texts(axis.whole_ticks(6)), ["1", "2", "3"]);
        assert_eq!(texts(Axis::exact([7.0]).unwrap().whole_ticks(6)), ["7"]);
    }

    #[test]
    fn wide_positive_values_get_a_logarithmic_scale() {
        assert_eq!(Axis::fitting([1e-3, 2.0]).unwrap().scale(), Scale::Log);
        assert_eq!(Axis::fitting([0.0, 1e6]).unwrap().scale(), Scale::Linear);
        assert_eq!(Axis::fitting([-1.0, 1e6]).unwrap().scale(), Scale::Linear);
        let axis = Axis::fitting([0.01, 1.0, 100.0]).unwrap();
        assert!((axis.place(1.0) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn equal_values_are_in_the_middle_of_a_sane_axis() {
        for value in [0.0, 5.0, -3e-7, 1e12] {
            let axis = Axis::fitting([value, value * (1.0 + 1e-13)]).unwrap();
            assert!((axis.place(value) - 0.5).abs() < 1e-3, "{value}");
            assert!(axis.ticks(5).len() >= 2, "{value}");
        }
        assert!(Axis::fitting([f64::NAN, f64::INFINITY]).is_none());
    }

    #[test]
    fn the_largest_and_the_least_numbers_have_places() {
        let extremes = [f64::MAX, f64::MIN, f64::MIN_POSITIVE, 5e-324, 0.0, -1.0];
        for a in extremes {
            for b in extremes {
                let axis = Axis::fitting([a, b]).unwrap();
                for value in [a, b] {
                    assert!(axis.place(value).is_finite(), "{value} between {a} and {b}");
                }
                let ticks = axis.ticks(5);
                assert!(
                    ticks.len() < 13 && ticks.iter().all(|(tick, _)| axis.place(*tick).is_finite()),
                    "{a} {b}"
                );
            }
        }
    }

    proptest! {
        /// Every finite value lies inside its own axis, and so does every tick; ticks rise and have different texts.
        #[test]
        fn axes_hold_their_values_and_ticks(values in prop::collection::vec(-1e9f64..1e9, 1..20)) {
            let axis = Axis::fitting(values.clone()).unwrap();
            for value in &values {
                prop_assert!((-1e-9..=1.0 + 1e-9).contains(&axis.place(*value)));
            }
            let ticks = axis.ticks(5);
            prop_assert!((2..=12).contains(&ticks.len()), "{ticks:?}");
            for pair in ticks.windows(2) {
                prop_assert!(pair[0].0 < pair[1].0 && pair[0].1 != pair[1].1, "{ticks:?}");
            }
            for (tick, _) in ticks {
                prop_assert!((-1e-6..=1.0 + 1e-6).contains(&axis.place(tick)));
            }
        }
    }
}
