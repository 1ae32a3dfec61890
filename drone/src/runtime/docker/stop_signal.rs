//! An image's stop signal, by name or number. Not its business: sending it.

use nix::sys::signal::Signal;

pub const SIGTERM: i32 = Signal::SIGTERM as i32;
/// As Docker counts: the first two real-time signals belong to the C library.
const SIGRTMIN: i32 = 34;
const SIGRTMAX: i32 = 64;

/// The signal's number; SIGTERM where there is none or it is unknown.
pub fn number(text: Option<&str>) -> i32 {
    text.and_then(parse).unwrap_or(SIGTERM)
}

fn parse(text: &str) -> Option<i32> {
    let text = text.trim();
    if let Ok(number) = text.parse::<i32>() {
        return (1..=SIGRTMAX).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let usual = match name {
        "IOT" => "ABRT",
        "POLL" => "IO",
        name => name,
    };
    if let Ok(signal) = format!("SIG{usual}").parse::<Signal>() {
        return Some(signal as i32);
    }
    let offset = |rest: &str, sign: char| match rest {
        "" => Some(0),
        rest => rest.strip_prefix(sign)?.parse::<i32>().ok().filter(|n| (0..=30).contains(n)),
    };
    let from_low = name.strip_prefix("RTMIN").and_then(|rest| Some(SIGRTMIN + offset(rest, '+')?));
    from_low.or_else(|| name.strip_prefix("RTMAX").and_then(|rest| Some(SIGRTMAX - offset(rest, '-')?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_understood() {
        for (given, expect) in [
            (None, 15),
            (Some(""), 15),
            (Some("SIGINT"), 2),
            (Some("int"), 2),
            (Some("3"), 3),
            (Some("SIGQUIT "), 3),
            (Some("SIGIOT"), 6),
            (Some("poll"), 29),
            (Some("WINCH"), 28),
            (Some("SIGSYS"), 31),
            (Some("SIGRTMIN+3"), 37),
            (Some("RTMIN"), 34),
            (Some("SIGRTMAX-1"), 63),
            (Some("SIGNONSENSE"), 15),
            (Some("0"), 15),
            (Some("99"), 15),
            (Some("RTMIN+99"), 15),
        ] {
            assert_eq!(number(given), expect, "{given:?}");
        }
    }
}
