//! What kw_health says about remote providers: from the latest probes and what calls have met. It asks nobody.

use super::{
    breaker,
    catalog::{
        health::{self, Latest},
        watch,
    },
    gucs,
    health::{Finding, finding, green},
    init,
    remote::{self, Remote},
    report::Failure,
};
use crate::provider::{ProviderError, local::KIND};
use serde_json::Value;
use std::rc::Rc;

const WHAT: &str = "provider";
const PROBE: &str = "Try again with kms_wrap.kw_check_health(); see the provider's own log";

/// One row. What calls took is in it, up or down: for PKCS#11, whose calls have no deadline, there is no other sign.
pub(super) fn state(provider: &watch::ProviderRow) -> Result<Finding, Failure> {
    let name = provider.name.as_str();
    if let Some(why) = unusable(provider) {
        return Ok(finding(WHAT, name, "red", why, "Correct it with kms_wrap.kw_set_provider_config(), the settings or the files"));
    }
    if !provider.is_enabled {
        return Ok(super::health::disabled(name));
    }
    let mut found = usable(provider)?;
    let state = breaker::state(provider.id);
    found.detail = format!("{}; {}", found.detail, calls(state.calls, state.micros));
    Ok(found)
}

fn usable(provider: &watch::ProviderRow) -> Result<Finding, Failure> {
    let name = provider.name.as_str();
    let latest = health::latest(provider.id)?;
    if let Some(down) = latest.as_ref().filter(|probe| probe.status == "down") {
        let suspended = if provider.suspended_until.is_some() { "; suspended" } else { "" };
        return Ok(finding(WHAT, name, "red", format!("{}{suspended}", found(down)), PROBE));
    }
    let failures = asked(provider).map_or(0, |remote| remote.failures());
    if failures > 0 {
        let times = if failures == 1 { "time".to_owned() } else { format!("{failures} times") };
        return Ok(finding(WHAT, name, "red", format!("could not be reached the last {times}"), PROBE));
    }
    if let Some(suspended) = super::health::suspended(provider) {
        return Ok(suspended);
    }
    let Some(latest) = latest else {
        return Ok(finding(WHAT, name, "yellow", "not probed yet", "SELECT * FROM kms_wrap.kw_check_health(); a worker does it by itself"));
    };
    let ailing = health::ailing_keys(provider.id)?;
    if let Some((key, status, error)) = ailing.first() {
        let color = if status == "down" { "red" } else { "yellow" };
        let more = if ailing.len() > 1 { format!("; and {} more of its keys", ailing.len() - 1) } else { String::new() };
        return Ok(finding(WHAT, name, color, format!("key \"{key}\" is {status}: {error}{more}"), PROBE));
    }
    if latest.status != "up" {
        return Ok(finding(WHAT, name, "yellow", found(&latest), PROBE));
    }
    Ok(green(
        WHAT,
        name,
        format!("{}, {} keys, trust domain \"{}\", up at {}", provider.kind, provider.keys, provider.trust_domain, latest.checked_at),
    ))
}

fn found(probe: &Latest) -> String {
    format!("{} at {}: {}", probe.status, probe.checked_at, probe.error.as_deref().unwrap_or("no reason given"))
}

fn calls(calls: u64, micros: u64) -> String {
    let scope = if init::is_preloaded() { "since the server's start" } else { "in this session" };
    match micros.checked_div(calls) {
        None => format!("no calls {scope}"),
        Some(mean) => format!("{calls} calls of {}.{} ms on average {scope}", mean / 1000, mean / 100 % 10),
    }
}

/// The provider as it is asked.
fn asked(provider: &watch::ProviderRow) -> Result<Rc<Remote>, ProviderError> {
    let config = provider.config.clone().unwrap_or_default();
    remote::of(provider.id, &provider.name, &provider.kind, &config.to_string())
}

/// Why the provider cannot be asked at all: its configuration, what settings allow, a missing file.
fn unusable(provider: &watch::ProviderRow) -> Option<String> {
    if let Err(e) = asked(provider) {
        return Some(e.detail().to_owned());
    }
    let config = provider.config.clone().unwrap_or_default();
    let credentials = gucs::environment().credentials;
    let fields = config.as_object()?.iter().filter(|(field, _)| field.ends_with("_file"));
    let mut files = fields.filter_map(|(_, name)| name.as_str());
    let missing = files.find(|name| credentials.stamp(name).is_none())?;
    Some(format!("credential file \"{}\" is missing", credentials.0.join(missing).display()))
}

/// Shares that did not verify, under keys of any kind, and settings that would limit what a role with rights on our tables can make the server call.
pub(super) fn alarms(providers: &[watch::ProviderRow]) -> Vec<Finding> {
    let remotes: Vec<_> = providers.iter().filter(|p| p.kind != KIND).collect();
    let mut all: Vec<_> = providers.iter().filter_map(rejected).collect();
    let over_network = |p: &&watch::ProviderRow| p.config.as_ref().is_some_and(|c| c.get("module").and_then(Value::as_str).is_none());
    if gucs::environment().allowed_endpoints.is_empty() && remotes.iter().any(over_network) {
        let action = "Set it to the endpoints of your providers";
        all.push(finding("setting", "kms_wrap.allowed_endpoints", "yellow", "empty: providers may have any endpoint", action));
    }
    if gucs::allowed_keys().is_empty() && !remotes.is_empty() {
        let action = "Set it to patterns of your keys' references";
        all.push(finding("setting", "kms_wrap.allowed_keys", "yellow", "empty: any key of a provider may be registered", action));
    }
    all
}

fn rejected(provider: &watch::ProviderRow) -> Option<Finding> {
    let n = breaker::state(provider.id).rejected;
    let scope = if init::is_preloaded() { "since the server's start" } else { "in this session" };
    let action = "Somebody may have changed wrappers or keys: SELECT * FROM kms_wrap.kw_verify() WHERE NOT ok";
    let times = if n == 1 { "once".to_owned() } else { format!("{n} times") };
    (n > 0).then(|| finding("rejected shares", &provider.name, "red", format!("wrapped shares did not verify {times} {scope}"), action))
}
