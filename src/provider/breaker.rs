//! When a provider that fails is asked again: the rules of a circuit breaker, which has neither a clock nor a memory of its own.

/// How long it stays open after the first failure, in microseconds; doubled by every further one.
const FIRST_PAUSE: i64 = 5_000_000;

/// And at most, in microseconds.
const LONGEST_PAUSE: i64 = 60_000_000;

/// How long a provider that wants fewer requests is left alone, in microseconds.
const THROTTLED_PAUSE: i64 = 1_000_000;

/// How long the one call that tries an open breaker has the others wait at most, in microseconds.
const PROBE: i64 = 60_000_000;

/// What is known of one provider. All zero is one that works. Times are microseconds of a clock that may be set.
#[derive(Debug, Clone, Copy, Default)]
pub struct Circuit {
    /// Failures in a row.
    pub failures: u32,
    open_until: i64,
    probing_until: i64,
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With an answer, be it a refusal.
    Answered,
    /// Without one.
    Outage,
    /// With the wish for fewer requests.
    Throttled,
    /// Before anything was found out.
    Abandoned,
}

/// Microseconds until a time; 0 when it is past, and when it is further away than it ever was set: then the clock was set back since.
fn left(until: i64, now: i64, longest: i64) -> i64 {
    let left = until.saturating_sub(now);
    if (1..=longest).contains(&left) { left } else { 0 }
}

impl Circuit {
    /// Lets a call through that ends within so many microseconds. After the pause one call tries; the others wait for what it finds, and not
    /// longer than it waits itself: a session that is terminated says nothing any more.
    ///
    /// # Errors
    /// For how many microseconds not.
    pub fn admit(&mut self, now: i64, patience: i64) -> Result<(), i64> {
        if self.failures == 0 {
            return Ok(());
        }
        let open = left(self.open_until, now, LONGEST_PAUSE);
        let wait = if open > 0 { open } else { left(self.probing_until, now, PROBE) };
        if wait > 0 {
            return Err(wait);
        }
        self.probing_until = now.saturating_add(patience.clamp(0, PROBE));
        Ok(())
    }

    /// Takes note of how a call ended that was let through. `true` when the breaker has opened or closed by it.
    pub fn end(&mut self, end: End, now: i64) -> bool {
        self.probing_until = 0;
        let was_open = self.failures > 0;
        let pause = match end {
            End::Abandoned => return false,
            End::Answered => {
                (self.failures, self.open_until) = (0, 0);
                return was_open;
            }
            End::Throttled => THROTTLED_PAUSE,
            End::Outage => FIRST_PAUSE.saturating_mul(1_i64 << self.failures.min(10)).min(LONGEST_PAUSE),
        };
        // Many sessions may find the same outage: it counts once.
        if left(self.open_until, now, LONGEST_PAUSE) > 0 {
            return false;
        }
        self.failures = self.failures.saturating_add(1);
        self.open_until = now.saturating_add(pause);
        !was_open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;
    const NOON: i64 = 1_000_000 * SECOND;
    const LONG: i64 = 600 * SECOND;

    fn open() -> Circuit {
        let mut circuit = Circuit::default();
        assert_eq!(circuit.admit(NOON, LONG), Ok(()));
        assert!(circuit.end(End::Outage, NOON));
        circuit
    }

    #[test]
    fn an_outage_costs_one_call_a_pause() {
        let mut circuit = open();
        assert!(!circuit.end(End::Outage, NOON + 1), "found by another session too");
        assert_eq!((circuit.failures, circuit.admit(NOON + SECOND, LONG)), (1, Err(4 * SECOND)));
        assert_eq!(circuit.admit(NOON + 5 * SECOND, LONG), Ok(()));
        assert_eq!(circuit.admit(NOON + 6 * SECOND, LONG), Err(59 * SECOND), "one tries");
        assert!(!circuit.end(End::Outage, NOON + 10 * SECOND));
        assert_eq!(circuit.admit(NOON + 10 * SECOND, LONG), Err(10 * SECOND), "twice as long");
        for n in 0..20 {
            circuit.end(End::Outage, NOON + 1000 * n * SECOND);
        }
        assert_eq!(circuit.admit(NOON + 19_000 * SECOND, LONG), Err(60 * SECOND));
    }

    #[test]
    fn an_answer_closes_it_and_one_that_was_not_waited_for_lets_the_next_try() {
        let mut circuit = open();
        assert_eq!(circuit.admit(NOON + 5 * SECOND, LONG), Ok(()));
        assert!(!circuit.end(End::Abandoned, NOON + 5 * SECOND));
        assert_eq!(circuit.admit(NOON + 5 * SECOND, LONG), Ok(()));
        assert!(circuit.end(End::Answered, NOON + 5 * SECOND));
        assert_eq!((circuit.failures, circuit.admit(NOON + 5 * SECOND, LONG)), (0, Ok(())));
        assert!(!circuit.end(End::Answered, NOON + 6 * SECOND));
        assert!(circuit.end(End::Throttled, NOON + 6 * SECOND));
        assert_eq!(circuit.admit(NOON + 6 * SECOND, LONG), Err(SECOND));
    }

    #[test]
    fn a_try_that_nobody_ends_is_over_with_its_own_deadline() {
        let mut circuit = open();
        assert_eq!(circuit.admit(NOON + 5 * SECOND, 2 * SECOND), Ok(()));
        assert_eq!(circuit.admit(NOON + 6 * SECOND, LONG), Err(SECOND));
        assert_eq!(circuit.admit(NOON + 7 * SECOND, LONG), Ok(()));
        assert_eq!(circuit.admit(NOON + 8 * SECOND, SECOND), Err(59 * SECOND), "and not longer than a minute");
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_keep_it_open() {
        let mut circuit = open();
        assert_eq!(circuit.admit(NOON - 3600 * SECOND, LONG), Ok(()));
        assert_eq!(circuit.admit(NOON - 3600 * SECOND, LONG), Err(60 * SECOND), "one tries");
        assert_eq!(circuit.admit(NOON - 7200 * SECOND, LONG), Ok(()), "that one is of another time too");
        assert!(!circuit.end(End::Outage, NOON - 7200 * SECOND));
        assert_eq!(circuit.failures, 2, "and what it finds counts");
        assert_eq!(circuit.admit(NOON - 7200 * SECOND, LONG), Err(10 * SECOND));
    }
}
