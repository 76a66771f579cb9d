//! Numbers as people and LaTeX write them, exactly.

/// Largest power of ten that is multiplied out.
const LARGEST_EXPONENT: u32 = 30;

/// How far a number that is no integer may lie from the reference, as a share of it.
const TOLERANCE: f64 = 1e-6;

/// Units that may follow their number without a space.
const SHORT_UNITS: [&str; 22] = [
    "km", "cm", "mm", "nm", "kg", "mg", "lb", "lbs", "oz", "ft", "hr", "hrs", "min", "mins", "sec", "secs",
    "ml", "mL", "mph", "am", "pm", "kWh",
];

/// Words behind a number that are part of an expression and no unit.
const FUNCTIONS: [&str; 10] = ["pi", "sqrt", "sin", "cos", "tan", "log", "ln", "exp", "or", "and"];

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
        let mut rest = Rest(without_name(text.trim()));
        let minus = rest.sign();
        // The sign of -€5 stands before the currency, that of €-5 behind it.
        let minus = if rest.currency() && !minus { rest.sign() } else { minus };
        let number = rest.number()?;
        let percent = rest.percent();
        let number = Self { percent, ..number };
        if !rest.is_unit() {
            return None;
        }
        if minus { number.negated() } else { Some(number) }
    }

    fn new(numerator: i128, denominator: i128) -> Option<Self> {
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

    fn plus(self, other: Self) -> Option<Self> {
        let left = self.numerator.checked_mul(other.denominator)?;
        let right = other.numerator.checked_mul(self.denominator)?;
        Self::new(left.checked_add(right)?, self.denominator.checked_mul(other.denominator)?)
    }

    fn over(self, other: Self) -> Option<Self> {
        let numerator = self.numerator.checked_mul(other.denominator)?;
        Self::new(numerator, self.denominator.checked_mul(other.numerator)?)
    }

    fn times_ten_to(self, exponent: i64) -> Option<Self> {
        let size = u32::try_from(exponent.unsigned_abs()).ok().filter(|size| *size <= LARGEST_EXPONENT)?;
        let power = 10_i128.checked_pow(size)?;
        if exponent < 0 {
            Self::new(self.numerator, self.denominator.checked_mul(power)?)
        } else {
            Self::new(self.numerator.checked_mul(power)?, self.denominator)
        }
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
        (self.value() - reference.value()).abs() <= TOLERANCE * reference.value().abs()
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

/// Takes `x =` off.
fn without_name(text: &str) -> &str {
    match text.split_once('=') {
        Some((name, value)) if is_name(name.trim()) => value.trim_start(),
        _ => text,
    }
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// What is still to be read.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    fn take(&mut self, text: &str) -> bool {
        let rest = self.0.strip_prefix(text);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    fn space(&mut self) {
        self.0 = self.0.trim_start();
    }

    /// Takes a sign, and says whether it is a minus.
    fn sign(&mut self) -> bool {
        let minus = self.take("-");
        let signed = minus || self.take("+");
        if signed {
            self.space();
        }
        minus
    }

    fn currency(&mut self) -> bool {
        let found = ["€", "£", "¥", "₹", "USD ", "Rs. ", "Rs "].iter().any(|sign| self.take(sign));
        if found {
            self.space();
        }
        found
    }

    fn percent(&mut self) -> bool {
        let before = self.0;
        self.space();
        let percent = self.take("%") || self.take("percent") || self.take("per cent");
        if !percent {
            self.0 = before;
        }
        percent
    }

    fn number(&mut self) -> Option<Number> {
        let number = if self.0.starts_with("\\frac") {
            self.latex_fraction()?
        } else {
            let first = self.decimal()?;
            let before = self.0;
            self.space();
            if self.0.starts_with("\\frac") && first.denominator == 1 {
                first.plus(self.latex_fraction()?)?
            } else if let Some(fraction) = self.plain_fraction(first.denominator == 1 && before != self.0) {
                first.plus(fraction)?
            } else if self.take("/") {
                self.space();
                first.over(self.decimal()?)?
            } else {
                self.0 = before;
                first
            }
        };
        self.exponent(number)
    }

    /// Takes digits with `,` between groups of three and a decimal point.
    fn decimal(&mut self) -> Option<Number> {
        let end = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (first, mut rest) = self.0.split_at_checked(end(self.0))?;
        let mut digits = first.to_owned();
        while let Some(group) = rest.strip_prefix(',').filter(|_| (1..=3).contains(&first.len())) {
            let (group, behind) = group.split_at_checked(end(group)).filter(|(group, _)| group.len() == 3)?;
            digits.push_str(group);
            rest = behind;
        }
        let mut places = 0;
        if let Some(fraction) = rest.strip_prefix('.') {
            let (fraction, behind) = fraction.split_at_checked(end(fraction))?;
            let fraction_end = fraction.trim_end_matches('0');
            digits.push_str(fraction_end);
            places = i64::try_from(fraction_end.len()).ok()?;
            if fraction.is_empty() {
                return None;
            }
            rest = behind;
        } else if digits.is_empty() {
            return None;
        }
        self.0 = rest;
        let number = if digits.is_empty() { 0 } else { digits.parse().ok()? };
        Number::new(number, 1)?.times_ten_to(-places)
    }

    /// Takes the fraction of a mixed number, `1/2` behind `1 `.
    fn plain_fraction(&mut self, wanted: bool) -> Option<Number> {
        let before = self.0;
        let fraction = if wanted { self.simple_fraction() } else { None };
        if fraction.is_none() {
            self.0 = before;
        }
        fraction
    }

    fn simple_fraction(&mut self) -> Option<Number> {
        let numerator = self.decimal()?;
        if self.take("/") { numerator.over(self.decimal()?) } else { None }
    }

    fn latex_fraction(&mut self) -> Option<Number> {
        if !self.take("\\frac") {
            return None;
        }
        let numerator = self.argument()?;
        numerator.over(self.argument()?)
    }

    /// Takes `{12}`, or one digit.
    fn argument(&mut self) -> Option<Number> {
        self.space();
        if self.take("{") {
            let (inside, rest) = self.0.split_once('}')?;
            self.0 = rest;
            let mut inside = Rest(inside.trim());
            let minus = inside.sign();
            let number = inside.decimal()?;
            if !inside.0.is_empty() {
                return None;
            }
            return if minus { number.negated() } else { Some(number) };
        }
        let digit = self.0.chars().next().and_then(|c| c.to_digit(10))?;
        self.0 = self.0.get(1..)?;
        Number::new(digit.into(), 1)
    }

    /// Takes `e3` or `\times 10^{3}`.
    fn exponent(&mut self, number: Number) -> Option<Number> {
        let rest = self.0;
        if let Some(written) = rest.strip_prefix(['e', 'E']) {
            let (digits, behind) = split_digits(written);
            // An e that begins a word is none of the number's.
            let Ok(exponent) = digits.parse() else { return Some(number) };
            self.0 = behind;
            return number.times_ten_to(exponent);
        }
        let times = ["\\times", "\\cdot"].iter().find_map(|times| rest.trim_start().strip_prefix(times));
        let Some(power) = times.and_then(|rest| rest.trim_start().strip_prefix("10^")) else {
            return Some(number);
        };
        let (digits, behind) = match power.strip_prefix('{') {
            Some(power) => power.split_once('}')?,
            None => split_digits(power),
        };
        self.0 = behind;
        number.times_ten_to(digits.trim().parse().ok()?)
    }

    /// Says whether nothing is left but a unit.
    fn is_unit(&self) -> bool {
        let spaced = self.0.starts_with(' ') || self.0.trim_start().starts_with(['\\', '(']);
        let text = self.0.trim();
        if text.is_empty() || SHORT_UNITS.contains(&text) {
            return true;
        }
        let text = text.strip_prefix('(').and_then(|inside| inside.strip_suffix(')')).unwrap_or(text);
        for command in ["\\text{", "\\mbox{", "\\mathrm{", "\\textrm{"] {
            if let Some((unit, power)) = text.strip_prefix(command).and_then(|rest| rest.rsplit_once('}')) {
                return is_power(power) && is_words(unit.trim(), true);
            }
        }
        spaced && is_words(text, false)
    }
}

fn split_digits(text: &str) -> (&str, &str) {
    let digits = |(at, c): (usize, char)| c.is_ascii_digit() || (at == 0 && (c == '-' || c == '+'));
    let end = text.char_indices().find(|place| !digits(*place)).map_or(text.len(), |(at, _)| at);
    text.split_at_checked(end).unwrap_or((text, ""))
}

/// Says whether a text is an exponent of a unit, or nothing.
fn is_power(text: &str) -> bool {
    matches!(text.trim(), "" | "^2" | "^3" | "^{2}" | "^{3}" | "²" | "³")
}

/// Says whether a text is words, of at least two letters each unless single ones may stand.
fn is_words(text: &str, single: bool) -> bool {
    let word = |word: &str| {
        let word = word.trim_end_matches(['.', ',']);
        let letters =
            ["^2", "^3", "²", "³"].iter().find_map(|power| word.strip_suffix(power)).unwrap_or(word);
        let long = single || letters.chars().nth(1).is_some();
        long && letters.chars().all(char::is_alphabetic) && !FUNCTIONS.contains(&letters)
    };
    text.split([' ', '/', '-']).filter(|part| !part.is_empty()).all(word)
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
