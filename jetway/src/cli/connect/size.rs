//! Sizes as people write them: 512m, 2g, 1.5g, or bytes. A k is 1024, as in Docker.

/// Whole bytes.
pub fn bytes(text: &str) -> Result<i64, String> {
    let rule = "must be a number of bytes, or end in k, m, g or t (512m, 2g)";
    let lower = text.trim().to_ascii_lowercase();
    let number = lower.trim_end_matches("ib").trim_end_matches('b');
    let (number, unit) = match number.char_indices().next_back() {
        Some((end, 'k')) => (&number[..end], 1_u64 << 10),
        Some((end, 'm')) => (&number[..end], 1 << 20),
        Some((end, 'g')) => (&number[..end], 1 << 30),
        Some((end, 't')) => (&number[..end], 1 << 40),
        _ => (number, 1),
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    // Of a fraction, three digits say enough.
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then_some(()).ok_or(rule);
    digits(part)?;
    digits(whole)?;
    let thousandths: u64 = format!("{part:0<3.3}").parse().map_err(|_| rule)?;
    let whole: u64 = whole.parse().map_err(|_| rule)?;
    let bytes =
        whole.checked_mul(unit).and_then(|bytes| bytes.checked_add(unit.checked_mul(thousandths)? / 1000));
    bytes.and_then(|bytes| i64::try_from(bytes).ok()).ok_or_else(|| rule.to_owned())
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes_are_read_as_docker_reads_them() {
        for (text, expect) in [
            ("512m", 512 << 20),
            ("2g", 2 << 30),
            ("2GiB", 2 << 30),
            ("64MB", 64 << 20),
            ("1.5g", 3 << 29),
            ("1000", 1000),
            ("1k", 1024),
            ("1t", 1 << 40),
        ] {
            assert_eq!(super::bytes(text), Ok(expect), "{text}");
        }
        for text in ["", "m", "-1", "1x", "1.m.", "half", "99999999999t", "1 g", "+1", "."] {
            assert!(super::bytes(text).is_err(), "{text:?}");
        }
    }
}
