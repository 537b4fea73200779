//! What probes mean.

use kms_wrap::provider::{
    ProviderError,
    probe::{Opened, Status, of_key, of_provider},
};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(5);

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn denied() -> ProviderError {
    ProviderError::Denied("No.".to_owned())
}

fn all() -> [ProviderError; 5] {
    let text = || "No.".to_owned();
    [
        ProviderError::Unavailable(text()),
        ProviderError::Throttled(text()),
        ProviderError::Denied(text()),
        ProviderError::NotFound(text()),
        ProviderError::Malformed(text()),
    ]
}

#[test]
fn key_that_wraps_and_opens_is_up_with_the_time_of_both() {
    let verdict = of_key(&Ok(millis(20)), &Opened::Right(millis(30)), TIMEOUT);
    assert_eq!((verdict.status, verdict.latency, verdict.error), (Status::Up, Some(millis(50)), None));
}

#[test]
fn slow_is_more_than_half_of_the_timeout_in_one_call() {
    let status = |wrap, open| of_key(&Ok(millis(wrap)), &Opened::Right(millis(open)), TIMEOUT).status;
    assert_eq!(status(2500, 2500), Status::Up);
    assert_eq!(status(2501, 1), Status::Degraded);
    assert_eq!(status(1, 2501), Status::Degraded);
    let verdict = of_provider(&Ok(millis(2600)), false, TIMEOUT);
    assert_eq!((verdict.status, verdict.latency), (Status::Degraded, Some(millis(2600))));
    assert_eq!(verdict.error.unwrap(), "slow: It took 2.6 s, more than half of kms_wrap.kms_timeout.");
}

#[test]
fn an_outage_of_either_call_is_down_without_a_time() {
    for error in all().into_iter().filter(ProviderError::is_outage) {
        for opened in [Opened::NotTried, Opened::Right(millis(1)), Opened::Failed(denied())] {
            let verdict = of_key(&Err(error.clone()), &opened, TIMEOUT);
            assert_eq!((verdict.status, verdict.latency), (Status::Down, None));
            assert_eq!(verdict.error.unwrap(), format!("{}: No.", error.class()));
        }
        assert_eq!(of_key(&Ok(millis(1)), &Opened::Failed(error.clone()), TIMEOUT).status, Status::Down);
        assert_eq!(of_provider(&Err(error), true, TIMEOUT).status, Status::Down);
    }
}

#[test]
fn one_refusal_is_degraded_and_two_are_down() {
    let wraps_only = of_key(&Ok(millis(7)), &Opened::Failed(denied()), TIMEOUT);
    assert_eq!((wraps_only.status, wraps_only.latency), (Status::Degraded, Some(millis(7))));
    assert_eq!(wraps_only.error.unwrap(), "denied: No. It wraps.");
    let opens_only = of_key(&Err(denied()), &Opened::Right(millis(7)), TIMEOUT);
    assert_eq!((opens_only.status, opens_only.latency), (Status::Degraded, Some(millis(7))));
    let not_tried = of_key(&Err(denied()), &Opened::NotTried, TIMEOUT);
    assert_eq!((not_tried.status, not_tried.latency), (Status::Degraded, None));
    assert!(not_tried.error.unwrap().contains("not tried"));
    assert_eq!(of_key(&Err(denied()), &Opened::Failed(denied()), TIMEOUT).status, Status::Down);
}

#[test]
fn a_key_that_is_gone_or_answers_wrongly_is_down() {
    for error in all().into_iter().filter(|e| !e.is_outage() && *e != denied()) {
        assert_eq!(of_key(&Err(error.clone()), &Opened::NotTried, TIMEOUT).status, Status::Down);
        assert_eq!(of_key(&Ok(millis(1)), &Opened::Failed(error), TIMEOUT).status, Status::Down);
    }
    for wrapped in [Ok(millis(1)), Err(denied())] {
        let verdict = of_key(&wrapped, &Opened::Wrong, TIMEOUT);
        assert_eq!(verdict.status, Status::Down);
        assert!(verdict.error.unwrap().starts_with("malformed: "));
    }
}

#[test]
fn a_provider_that_refuses_the_question_lives_by_its_keys() {
    for error in all().into_iter().filter(|e| !e.is_outage()) {
        assert_eq!(of_provider(&Err(error.clone()), true, TIMEOUT).status, Status::Degraded);
        assert_eq!(of_provider(&Err(error), false, TIMEOUT).status, Status::Down);
    }
    assert_eq!(of_provider(&Ok(millis(3)), false, TIMEOUT).status, Status::Up);
}
