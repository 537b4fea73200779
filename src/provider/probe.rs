//! What a probe of a provider or of one of its keys means: up, degraded or down, and why. Decides only; asking is the caller's.

use super::ProviderError;
use std::time::Duration;

/// What can be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Does all that it is for.
    Up,
    /// Does a part of it, or is slow.
    Degraded,
    /// Does nothing now.
    Down,
}

impl Status {
    /// The word in `kms_health_checks.status`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Degraded => "degraded",
            Self::Down => "down",
        }
    }
}

/// The end of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What can be relied on.
    pub status: Status,
    /// How long the calls took that came to a good end; `None` when none did.
    pub latency: Option<Duration>,
    /// What is wrong: a class, a colon, and sentences of ours.
    pub error: Option<String>,
}

/// How opening a share went that the key had wrapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// There was nothing to be opened.
    NotTried,
    /// The provider gave no answer.
    Failed(ProviderError),
    /// Another share came out, or none.
    Wrong,
    /// The share came out.
    Right(Duration),
}

/// Class and sentences.
#[must_use]
pub fn text(error: &ProviderError) -> String {
    format!("{}: {}", error.class(), error.detail())
}

/// A key is asked to wrap a share and to open it again. Credentials may allow only one of the two, so one refusal alone is no outage.
#[must_use]
pub fn of_key(wrapped: &Result<Duration, ProviderError>, opened: &Opened, timeout: Duration) -> Verdict {
    let (wrap_time, open_time) = (wrapped.as_ref().ok().copied(), if let Opened::Right(took) = opened { Some(*took) } else { None });
    let latency = match (wrap_time, open_time) {
        (Some(wrap), Some(open)) => Some(wrap.saturating_add(open)),
        (one, other) => one.or(other),
    };
    let verdict = |status, error: String| Verdict { status, latency, error: Some(error) };
    match (wrapped, opened) {
        (Err(e), _) | (_, Opened::Failed(e)) if e.is_outage() => Verdict { latency: None, ..verdict(Status::Down, text(e)) },
        (_, Opened::Wrong) => verdict(Status::Down, "malformed: The key did not open what it had wrapped.".to_owned()),
        (Ok(_), Opened::NotTried) => verdict(Status::Degraded, "not tried: Unwrapping was not tried.".to_owned()),
        (Ok(wrap), Opened::Right(open)) => timed(latency, *wrap.max(open), timeout),
        (Ok(_), Opened::Failed(e @ ProviderError::Denied(_))) => verdict(Status::Degraded, format!("{} It wraps.", text(e))),
        (Err(e @ ProviderError::Denied(_)), Opened::Right(_)) => verdict(Status::Degraded, format!("{} It unwraps.", text(e))),
        (Err(e @ ProviderError::Denied(_)), Opened::NotTried) => {
            verdict(Status::Degraded, format!("{} Unwrapping was not tried, for there was nothing to unwrap.", text(e)))
        }
        (Err(e), _) | (Ok(_), Opened::Failed(e)) => verdict(Status::Down, text(e)),
    }
}

/// A provider is asked whether it answers. Credentials may not allow that question, so a refusal counts only when none of its keys works either.
#[must_use]
pub fn of_provider(answer: &Result<Duration, ProviderError>, has_working_key: bool, timeout: Duration) -> Verdict {
    match answer {
        Ok(took) => timed(Some(*took), *took, timeout),
        Err(e) => {
            let status = if e.is_outage() || !has_working_key { Status::Down } else { Status::Degraded };
            Verdict { status, latency: None, error: Some(text(e)) }
        }
    }
}

/// Up, unless the slowest call took more than half of what a call may take: soon some will fail.
fn timed(latency: Option<Duration>, slowest: Duration, timeout: Duration) -> Verdict {
    if slowest.saturating_mul(2) > timeout {
        let text = format!("slow: It took {:.1} s, more than half of kms_wrap.kms_timeout.", slowest.as_secs_f64());
        return Verdict { status: Status::Degraded, latency, error: Some(text) };
    }
    Verdict { status: Status::Up, latency, error: None }
}
