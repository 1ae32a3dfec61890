//! An image's stop signal, by name or number. Not its business: sending it.

pub const SIGTERM: i32 = 15;
/// As Docker counts: the first two real-time signals belong to the C library.
const SIGRTMIN: i32 = 34;
const SIGRTMAX: i32 = 64;

const NAMES: [(&str, i32); 33] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", SIGTERM),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("POLL", 29),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];

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
    if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Some(*number);
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
