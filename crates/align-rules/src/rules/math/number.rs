//! Numbers, exactly.

use super::reader;

/// Largest power of ten that is multiplied out.
const LARGEST_EXPONENT: u32 = 30;

/// How far a number that is no integer may lie from the reference, as a share of it.
const TOLERANCE: f64 = 1e-6;

/// One over how far a number may lie from a reference that is an integer, whatever its size: of a large one the share
/// alone would forgive whole units.
const PARTS_OF_ONE: i128 = 100;

/// A rational number, reduced, with a positive denominator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Number {
    numerator: i128,
    denominator: i128,
    percent: bool,
}

impl Number {
    /// Reads a text that is a number, with what may stand around one, and nothing else. The text is cleaned of LaTeX's
    /// dress before.
    pub(super) fn parse(text: &str) -> Option<Self> {
        reader::read(text)
    }

    pub(super) fn with_percent(self, percent: bool) -> Self {
        Self { percent, ..self }
    }

    pub(super) fn is_integer(&self) -> bool {
        self.denominator == 1
    }

    pub(super) fn new(numerator: i128, denominator: i128) -> Option<Self> {
        if denominator == 0 {
            return None;
        }
        let divisor = i128::try_from(common(numerator.unsigned_abs(), denominator.unsigned_abs())).ok()?;
        let sign = denominator.signum();
        let numerator = numerator.checked_div(divisor)?.checked_mul(sign)?;
        Some(Self {
            numerator,
            denominator: denominator.checked_div(divisor)?.checked_mul(sign)?,
            percent: false,
        })
    }

    pub(super) fn plus(self, other: Self) -> Option<Self> {
        let left = self.numerator.checked_mul(other.denominator)?;
        let right = other.numerator.checked_mul(self.denominator)?;
        Self::new(left.checked_add(right)?, self.denominator.checked_mul(other.denominator)?)
    }

    pub(super) fn over(self, other: Self) -> Option<Self> {
        let numerator = self.numerator.checked_mul(other.denominator)?;
        Self::new(numerator, self.denominator.checked_mul(other.numerator)?)
    }

    pub(super) fn times_ten_to(self, exponent: i64) -> Option<Self> {
        let size = u32::try_from(exponent.unsigned_abs()).ok().filter(|size| *size <= LARGEST_EXPONENT)?;
        let power = 10_i128.checked_pow(size)?;
        if exponent < 0 {
            Self::new(self.numerator, self.denominator.checked_mul(power)?)
        } else {
            Self::new(self.numerator.checked_mul(power)?, self.denominator)
        }
    }

    pub(super) fn times(self, factor: i128) -> Option<Self> {
        Self::new(self.numerator.checked_mul(factor)?, self.denominator)
    }

    pub(super) fn negated(self) -> Option<Self> {
        Some(Self { numerator: self.numerator.checked_neg()?, ..self })
    }

    /// Compares with a reference.
    pub(super) fn equals(&self, reference: &Self) -> bool {
        let hundredth = |number: &Self| Some(Self { percent: false, ..number.times_ten_to(-2)? });
        if self.is_near(reference) {
            return true;
        }
        match (self.percent, reference.percent) {
            (true, false) => hundredth(self).is_some_and(|number| number.is_near(reference)),
            (false, true) => hundredth(reference).is_some_and(|number| self.is_near(&number)),
            _ => false,
        }
    }

    fn is_near(&self, reference: &Self) -> bool {
        if self.denominator == reference.denominator {
            // Of two integers nothing is forgiven; 38 digits fit no float.
            if self.numerator == reference.numerator || self.denominator == 1 {
                return self.numerator == reference.numerator;
            }
        }
        if reference.is_integer() && !self.is_within_parts(reference) {
            return false;
        }
        (self.value() - reference.value()).abs() <= TOLERANCE * reference.value().abs()
    }

    /// Says whether an integer is at most a hundredth away; exactly, because large numbers have no such places as floats.
    fn is_within_parts(&self, integer: &Self) -> bool {
        let same = integer.numerator.checked_mul(self.denominator);
        let distance = same.and_then(|same| self.numerator.checked_sub(same)?.checked_abs());
        distance
            .and_then(|distance| distance.checked_mul(PARTS_OF_ONE))
            .is_some_and(|parts| parts <= self.denominator)
    }

    fn value(&self) -> f64 {
        self.numerator as f64 / self.denominator as f64
    }
}

/// The greatest common divisor; at least 1.
fn common(mut a: u128, mut b: u128) -> u128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a.max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number(text: &str) -> Option<(i128, i128, bool)> {
        let Number { numerator, denominator, percent } = Number::parse(&super::super::clean(text))?;
        Some((numerator, denominator, percent))
    }

    #[test]
    fn numbers_are_read_with_what_stands_around_them() {
        for (text, numerator, denominator) in [
            ("18", 18, 1),
            ("+18.", 18, 1),
            ("018", 18, 1),
            ("-3.50", -7, 2),
            ("−3", -3, 1),
            (".5", 1, 2),
            ("1,234,567.8", 12_345_678, 10),
            ("10,\\!080", 10_080, 1),
            ("11,\\! 111,\\! 111,\\! 100", 11_111_111_100, 1),
            ("70{,}000", 70_000, 1),
            ("10\\,000", 10_000, 1),
            ("3/4", 3, 4),
            ("6 / 8", 3, 4),
            ("-\\frac{35}{9}", -35, 9),
            ("\\frac{-1}{2}", -1, 2),
            ("\\dfrac 59", 5, 9),
            ("\\frac9{19}", 9, 19),
            ("1 1/2", 3, 2),
            ("-1 1/2", -3, 2),
            ("137 \\frac{1}{2}", 275, 2),
            ("1\\frac{4}{5}", 9, 5),
            ("$x = 5$", 5, 1),
            ("\\$32,\\!348", 32_348, 1),
            ("-$5", -5, 1),
            ("$-5", -5, 1),
            ("-€5", -5, 1),
            ("€-5", -5, 1),
            ("€ 5", 5, 1),
            ("90^\\circ", 90, 1),
            ("45°", 45, 1),
            ("864 \\mbox{ inches}^2", 864, 1),
            ("15\\mbox{ cm}^2", 15, 1),
            ("5.4 \\text{ cents}", 27, 5),
            ("\\frac{270}7\\text{ degrees}", 270, 7),
            ("5\\text{ m}", 5, 1),
            ("9 (apples)", 9, 1),
            ("18 eggs per day", 18, 1),
            ("18 cm^2", 18, 1),
            ("60 km/hr", 60, 1),
            ("10kg", 10, 1),
            ("1.5e3", 1500, 1),
            ("2.5 \\times 10^{-1}", 1, 4),
            ("3 \\cdot 10^4", 30_000, 1),
            ("**42**", 42, 1),
            ("5 million", 5_000_000, 1),
            ("$1.5 Million dollars", 1_500_000, 1),
            ("3 hundred thousand", 300_000, 1),
            ("2 dozen eggs.", 24, 1),
            ("1/2 dozen", 6, 1),
            ("-4 billion", -4_000_000_000, 1),
            ("7 millionaires", 7, 1),
            ("18 !", 18, 1),
            ("18 eggs!", 18, 1),
            ("1e16", 10_000_000_000_000_000, 1),
            ("170141183460469231731687303715884105727", i128::MAX, 1),
        ] {
            let reduced = Number::new(numerator, denominator).unwrap();
            assert_eq!(number(text), Some((reduced.numerator, reduced.denominator, false)), "{text}");
        }
        for text in ["50%", "50\\%", "50 percent", "$50 \\%$", "50 per cent of them"] {
            assert_eq!(number(text), Some((50, 1, true)), "{text}");
        }
    }

    #[test]
    fn expressions_are_no_numbers() {
        for text in [
            "",
            "-",
            "x",
            "5x",
            "2ab",
            "2 x",
            "2\\pi",
            "2 pi",
            "3\\sqrt{5}",
            "1,2",
            "1,-2",
            "3, 5, 7",
            "(3, 4)",
            "52_8",
            "1/0",
            "\\frac{1}{0}",
            "\\frac{1}",
            "\\frac{}{2}",
            "\\frac{1}{\\pi}",
            "5 or 6",
            "5 or",
            "5!",
            "5!!",
            "5!.",
            "5 - xy",
            "5 -xy",
            "5 xy - zw",
            "5 (-xy)",
            "5 minus two",
            "5 plus two",
            "5 (million)",
            "5 \\text{million}",
            "5 thousandths",
            "5 big million",
            "170141183460469231731687303715884105727 dozen",
            "1e",
            "1e999",
            "1e99999999999999999999",
            "1.2.3",
            "1.",
            "1/2/3",
            "18 eggs and 3 more",
            "10k",
            "--",
            "--5",
            "2 \\times 5",
            "2 \\cdot 10",
            "1,0000",
            "12,34",
            "170141183460469231731687303715884105728",
            "x^2 = 5",
            "²",
            "٣",
        ] {
            // A full stop at the end is dress.
            let expected = if text == "1." { Some((1, 1, false)) } else { None };
            assert_eq!(number(text), expected, "{text}");
        }
    }

    #[test]
    fn equality_is_exact_for_integers_and_near_for_the_rest() {
        let equal = |a: &str, b: &str| {
            let parse = |text: &str| Number::parse(&super::super::clean(text)).unwrap();
            parse(a).equals(&parse(b))
        };
        assert!(equal("0.5", "1/2") && equal("18.00", "18") && equal("0", "-0") && equal("0.0", "0"));
        assert!(equal("0.3333333", "1/3") && !equal("0.333", "1/3") && !equal("0.000001", "0"));
        let big = "12345678901234567890123456789";
        assert!(equal(big, big) && !equal("12345678901234567890123456788", big));
        assert!(!equal("1000000", "1000001") && !equal("1000001", "1000000"));
        assert!(!equal("2024001.5", "2024000") && !equal("2024000.02", "2024000"));
        assert!(equal("2024000.01", "2024000") && equal("1999.9999", "2000") && !equal("1999.9", "2000"));
        assert!(!equal("12345678901234567890.5", "12345678901234567890"));
        assert!(equal("50%", "50") && equal("50%", "0.5") && equal("0.5", "50%") && equal("50", "50%"));
        assert!(equal("50%", "50%") && !equal("50%", "0.5%") && !equal("50%", "5"));
    }

    proptest! {
        /// A number is the same however it is written.
        #[test]
        fn writings_of_a_number_agree(value in -1_000_000_000_i64..1_000_000_000, by in 1_i64..1000) {
            let digits = value.unsigned_abs().to_string();
            let mut grouped = String::new();
            for (index, digit) in digits.chars().enumerate() {
                if index > 0 && (digits.len() - index).is_multiple_of(3) {
                    grouped.push(',');
                }
                grouped.push(digit);
            }
            let sign = if value < 0 { "-" } else { "" };
            let expected = Number::new(value.into(), by.into());
            prop_assert_eq!(Number::parse(&format!("{sign}{grouped}/{by}")), expected);
            prop_assert_eq!(Number::parse(&format!("{value} / {by} units")), expected);
            prop_assert_eq!(Number::parse(&format!("\\frac{{{value}}}{{{by}}}")), expected);
            let decimal = format!("{sign}{grouped}.{by:03}");
            let thousandths = i128::from(value.abs()) * 1000 + i128::from(by);
            let signed = if value < 0 { -thousandths } else { thousandths };
            prop_assert_eq!(Number::parse(&decimal), Number::new(signed, 1000));
        }

        #[test]
        fn no_text_is_too_strange(text in "\\PC{0,40}", digits in "[-0-9.,/ e%\\\\{}fracx^$=]{0,30}") {
            let _ = (Number::parse(&text), number(&text), Number::parse(&digits), number(&digits));
        }
    }
}
