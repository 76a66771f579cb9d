//! The date for templates that ask for it.

use std::time::{SystemTime, UNIX_EPOCH};

use align_types::civil_date;

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// Writes the present time (UTC) in the format of C's `strftime`.
pub(crate) fn now(format: &str) -> String {
    write(format, SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()))
}

/// Writes a time given in seconds since 1970; directives that are not known stay as they are.
fn write(format: &str, seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil_date(days);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    let name = |names: &[&'static str], index: u64| names.get(index as usize).copied().unwrap_or_default();
    let short = |text: &str| text.chars().take(3).collect::<String>();
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('Y') => out.push_str(&year.to_string()),
            Some('y') => out.push_str(&format!("{:02}", year % 100)),
            Some('m') => out.push_str(&format!("{month:02}")),
            Some('d') => out.push_str(&format!("{day:02}")),
            Some('e') => out.push_str(&format!("{day:2}")),
            Some('H') => out.push_str(&format!("{hour:02}")),
            Some('I') => out.push_str(&format!("{:02}", (hour + 11) % 12 + 1)),
            Some('p') => out.push_str(if hour < 12 { "AM" } else { "PM" }),
            Some('M') => out.push_str(&format!("{minute:02}")),
            Some('S') => out.push_str(&format!("{:02}", second % 60)),
            Some('B') => out.push_str(name(&MONTHS, month - 1)),
            Some('b' | 'h') => out.push_str(&short(name(&MONTHS, month - 1))),
            Some('A') => out.push_str(name(&DAYS, days % 7)),
            Some('a') => out.push_str(&short(name(&DAYS, days % 7))),
            Some('F') => out.push_str(&format!("{year}-{month:02}-{day:02}")),
            Some('T') => out.push_str(&format!("{hour:02}:{minute:02}:{:02}", second % 60)),
            Some('%') => out.push('%'),
            Some(other) => out.extend(['%', other]),
            None => out.push('%'),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    // `date -u -d @N` gives the expected texts.
    #[test]
    fn dates_are_those_of_the_date_command() {
        assert_eq!(write("%A %d %B %Y %H:%M:%S", 0), "Thursday 01 January 1970 00:00:00");
        assert_eq!(write("%a %e %b %y %I %p", 951_782_400), "Tue 29 Feb 00 12 AM");
        assert_eq!(write("%F %T", 1_700_000_000), "2023-11-14 22:13:20");
        assert_eq!(write("%F %Q%", 4_107_542_399), "2100-02-28 %Q%");
        assert_eq!(write("%F", 4_107_542_400), "2100-03-01");
    }
}
