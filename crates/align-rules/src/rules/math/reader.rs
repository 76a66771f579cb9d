//! Numbers as people and LaTeX write them.

use super::number::Number;

/// Units that may follow their number without a space.
const SHORT_UNITS: [&str; 22] = [
    "km", "cm", "mm", "nm", "kg", "mg", "lb", "lbs", "oz", "ft", "hr", "hrs", "min", "mins", "sec", "secs",
    "ml", "mL", "mph", "am", "pm", "kWh",
];

/// Words behind a number that are part of an expression and no unit.
const FUNCTIONS: [&str; 14] = [
    "pi",
    "sqrt",
    "sin",
    "cos",
    "tan",
    "log",
    "ln",
    "exp",
    "or",
    "and",
    "minus",
    "plus",
    "divided",
    "multiplied",
];

/// Words behind a number that multiply it.
const MULTIPLES: [(&str, i128); 6] = [
    ("hundred", 100),
    ("thousand", 1000),
    ("million", 1_000_000),
    ("billion", 1_000_000_000),
    ("trillion", 1_000_000_000_000),
    ("dozen", 12),
];

/// Reads a text that is a number, with what may stand around one, and nothing else.
pub(super) fn read(text: &str) -> Option<Number> {
    let mut rest = Rest(without_name(text.trim()));
    let minus = rest.sign();
    // The sign of -€5 stands before the currency, that of €-5 behind it.
    let minus = if rest.currency() && !minus { rest.sign() } else { minus };
    let number = rest.number()?;
    let number = rest.multiples(number)?;
    let percent = rest.percent();
    if !rest.is_unit() {
        return None;
    }
    let number = number.with_percent(percent);
    if minus { number.negated() } else { Some(number) }
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
            if self.0.starts_with("\\frac") && first.is_integer() {
                first.plus(self.latex_fraction()?)?
            } else if let Some(fraction) = self.plain_fraction(first.is_integer() && before != self.0) {
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

    /// Takes `hundred thousand` behind a number, and multiplies it.
    fn multiples(&mut self, mut number: Number) -> Option<Number> {
        loop {
            let text = self.0.trim_start();
            let end = text.find(|c: char| !c.is_alphabetic()).unwrap_or(text.len());
            let (word, behind) = text.split_at_checked(end)?;
            let Some(factor) = multiple(word) else { return Some(number) };
            number = number.times(factor)?;
            self.0 = behind;
        }
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

/// Returns what a word multiplies by, of one or of several.
fn multiple(word: &str) -> Option<i128> {
    let is = |name: &str| {
        let rest = word.get(name.len()..).filter(|rest| rest.is_empty() || rest.eq_ignore_ascii_case("s"));
        rest.is_some() && word.get(..name.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(name))
    };
    MULTIPLES.iter().find(|(name, _)| is(name)).map(|(_, factor)| *factor)
}

/// Says whether a word changes the value of the number before it: `million`, `thousandths`.
fn is_factor(word: &str) -> bool {
    let whole = word.strip_suffix("ths").or_else(|| word.strip_suffix("th")).unwrap_or(word);
    multiple(whole).is_some()
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
        long && letters.chars().all(char::is_alphabetic)
            && !FUNCTIONS.contains(&letters)
            && !is_factor(letters)
    };
    // A hyphen joins words; one that begins a word subtracts.
    if text.split(' ').any(|word| word.starts_with('-')) {
        return false;
    }
    text.split([' ', '/', '-']).filter(|part| !part.is_empty()).all(word)
}
