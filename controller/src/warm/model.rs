//! How many slots a rate of arrivals needs. Pure arithmetic.
//!
//! A slot that was given away is replaced at once: one-for-one replenishment, the base-stock policy (S-1, S) (Feeney and
//! Sherbrooke, "The (s-1, s) inventory policy under compound Poisson demand", Management Science 12, 1966). A start that finds no
//! slot does not wait for one: the sale is lost. Then the number of slots being made is the number of busy servers of Erlang's
//! loss system M/G/S/S, whose blocking depends on the making time's mean alone (Erlang, "Solution of some problems in the theory of
//! probabilities of significance in automatic telephone exchanges", 1917). So S is the least with B(S, λL) ≤ 1 - target.
//!
//! Arrivals that come in bunches are peakier than Poisson; Hayward's approximation (Fredericks, "Congestion in blocking systems",
//! Bell System Technical Journal 59, 1980) divides load and servers by the peakedness z: B ≈ B(S/z, λL/z).

/// More than this is never asked for.
pub const SLOTS_MAX: u32 = 10_000;

/// The share of arrivals that find all of `slots` slots being made, where `offered` are being made on average.
#[cfg(test)]
pub fn erlang_b(slots: u32, offered: f64) -> f64 {
    (1..=slots).fold(1.0, |blocking, n| next(blocking, n, offered))
}

/// From B(n - 1) to B(n).
fn next(blocking: f64, n: u32, offered: f64) -> f64 {
    offered * blocking / (f64::from(n) + offered * blocking)
}

/// The least number of slots with which no more than 1 - `target` of the arrivals find none. `rate` in arrivals a second, `lead` the
/// seconds until a slot that was given away has been replaced.
pub fn slots_for(rate: f64, lead: f64, peakedness: f64, target: f64) -> u32 {
    let z = if peakedness.is_finite() { peakedness.max(1.0) } else { 1.0 };
    let offered = rate * lead / z;
    if offered.is_nan() || offered <= 0.0 {
        return 0;
    }
    let (mut blocking, mut n) = (1.0, 0);
    while blocking > 1.0 - target && f64::from(n) * z < f64::from(SLOTS_MAX) {
        n += 1;
        blocking = next(blocking, n, offered);
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 1 and a few times SLOTS_MAX"
    )]
    let slots = (f64::from(n) * z).ceil() as u32;
    slots.min(SLOTS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erlang_b_is_as_in_the_tables() {
        for (slots, offered, blocking) in
            [(1, 1.0, 0.5), (2, 1.0, 0.2), (5, 3.0, 0.1101), (10, 5.0, 0.0184), (100, 84.1, 0.0100)]
        {
            assert!((erlang_b(slots, offered) - blocking).abs() < 1e-4, "{slots} {offered}");
        }
    }

    #[test]
    fn the_least_number_that_meets_the_target() {
        for (rate, lead, target, slots) in [
            (0.0, 0.5, 0.99, 0),
            (0.01, 0.5, 0.99, 1),
            (0.05, 0.5, 0.99, 2),
            (1.0, 0.5, 0.99, 4),
            (10.0, 0.5, 0.99, 11),
            (20.0, 0.5, 0.99, 18),
            (20.0, 0.5, 0.9, 13),
            (1e9, 10.0, 0.99, SLOTS_MAX),
            (f64::NAN, 1.0, 0.99, 0),
        ] {
            assert_eq!(slots_for(rate, lead, 1.0, target), slots, "{rate}/s, {lead} s, {target}");
        }
        // Bunches of five need about five times what single arrivals of a fifth of the rate need.
        assert_eq!(slots_for(5.0, 0.5, 5.0, 0.99), 5 * slots_for(1.0, 0.5, 1.0, 0.99));
    }
}
