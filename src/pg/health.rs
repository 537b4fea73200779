//! kw_health: one row a component, green or what to do about it.

use super::{
    catalog::{
        health::BY_WORKER,
        key::{self, Key},
        policy, watch,
    },
    gucs, health_leaks, health_providers, health_values, kms,
    make::check_domains,
    report::Failure,
    setup, spi,
};
use crate::{
    core::suite::SUITE_1,
    provider::{local::KIND, root_key::RootKeyError},
};

/// A component's state.
pub(crate) struct Finding {
    pub(crate) component: &'static str,
    pub(crate) name: String,
    pub(crate) status: &'static str,
    pub(crate) detail: String,
    pub(crate) action: Option<String>,
}

pub(super) fn green(component: &'static str, name: impl Into<String>, detail: impl Into<String>) -> Finding {
    Finding { component, name: name.into(), status: "green", detail: detail.into(), action: None }
}

pub(super) fn finding(
    component: &'static str,
    name: impl Into<String>,
    status: &'static str,
    detail: impl Into<String>,
    action: impl Into<String>,
) -> Finding {
    Finding { component, name: name.into(), status, detail: detail.into(), action: Some(action.into()) }
}

/// Looks at everything.
pub(crate) fn findings() -> Result<Vec<Finding>, Failure> {
    let (providers, keys) = (watch::providers()?, key::all()?);
    let mut all = vec![key_directory()];
    all.extend(root_keys(&providers));
    for provider in &providers {
        all.push(provider_state(provider, &keys)?);
    }
    all.extend(health_providers::alarms(&providers));
    all.extend(one_host(&providers));
    all.extend(key_states(&keys));
    for name in watch::policy_names()? {
        all.push(policy_state(&name)?);
    }
    let columns = health_values::columns()?;
    all.extend(health_leaks::findings(!columns.is_empty())?);
    all.extend(columns);
    all.extend(health_values::grants()?);
    all.push(floors()?);
    all.push(worker()?);
    all.push(jobs()?);
    Ok(all)
}

fn key_directory() -> Finding {
    let directory = kms::key_directory();
    let shown = directory.path.display().to_string();
    match directory.check_directory() {
        Ok(()) => green("key directory", shown, "exists, mode 0700, outside data directory and tablespaces"),
        Err(RootKeyError::Missing(detail)) => {
            finding("key directory", shown, "yellow", detail, "kw_create_root_key makes it; after a restore, put the root key files there")
        }
        Err(RootKeyError::Unfit(detail)) => finding("key directory", shown, "red", detail, "Correct owner, mode or kms_wrap.key_directory"),
        Err(_) => finding("key directory", shown, "red", "cannot be used", "Set kms_wrap.key_directory"),
    }
}

/// Every root key file, with the fingerprint to compare with the backup's, and who needs it.
fn root_keys(providers: &[watch::ProviderRow]) -> Vec<Finding> {
    let directory = kms::key_directory();
    let needing = |name: &str| -> Vec<&str> {
        let uses = |p: &&watch::ProviderRow| p.config.as_ref().and_then(|c| c.get("root_key")).and_then(|r| r.as_str()) == Some(name);
        providers.iter().filter(uses).map(|p| p.name.as_str()).collect()
    };
    let expected = |name: &str, found: &str| -> Option<String> {
        let config = |p: &watch::ProviderRow, field: &str| p.config.as_ref()?.get(field)?.as_str().map(str::to_owned);
        let mut users = providers.iter().filter(|p| config(p, "root_key").as_deref() == Some(name));
        users.find_map(|p| config(p, "fingerprint").filter(|fingerprint| fingerprint != found))
    };
    let describe = |name: String| {
        let users = needing(&name);
        match directory.load(&name) {
            Ok((root, _)) if expected(&name, &root.fingerprint.to_string()).is_some() => {
                let expected = expected(&name, &root.fingerprint.to_string()).unwrap_or_default();
                let detail = format!("fingerprint {}, but {} expects {expected}", root.fingerprint, users.join(", "));
                finding("root key", &name, "red", detail, "Put the right file in its place, from its backup")
            }
            Ok((root, _)) if users.is_empty() => finding(
                "root key",
                &name,
                "green",
                format!("fingerprint {}; no provider of this database needs it", root.fingerprint),
                "Another database may need it; otherwise remove the file by hand when no backup needs it either",
            ),
            Ok((root, _)) => green("root key", &name, format!("fingerprint {}; needed by {}", root.fingerprint, users.join(", "))),
            Err(RootKeyError::Missing(detail) | RootKeyError::Unfit(detail)) => {
                let status = if users.is_empty() { "yellow" } else { "red" };
                finding("root key", &name, status, detail, "Restore the file from its backup, with owner and mode 0600")
            }
            Err(_) => finding("root key", &name, "yellow", "not a root key", "Remove it from the key directory"),
        }
    };
    let mut findings: Vec<_> = directory.names().into_iter().map(describe).collect();
    findings.extend(
        directory.leftovers().into_iter().map(|name| {
            finding("root key", name, "yellow", "a temporary copy that a crash left behind", "Remove it from the key directory")
        }),
    );
    findings
}

fn provider_state(provider: &watch::ProviderRow, keys: &[Key]) -> Result<Finding, Failure> {
    let name = provider.name.as_str();
    if provider.kind != KIND {
        return health_providers::state(provider);
    }
    let checked = provider.config.as_ref().map_or_else(
        || Err(Failure::internal("no configuration")),
        |config| setup::configured_root(name, config).and_then(|root| kms::check_root(name, &root).map(|()| root)),
    );
    let root = match checked {
        Ok(root) => root,
        Err(failure) => {
            return Ok(finding("provider", name, "red", failure.one_line(), "Restore the root key file, or correct its owner and mode"));
        }
    };
    let missing = watch::missing_sealed(name)?;
    if missing > 0 {
        return Ok(finding(
            "provider",
            name,
            "red",
            format!("{missing} of its keys have no row in sym_key or asym_key"),
            "Restore these rows from a backup",
        ));
    }
    for key in keys.iter().filter(|k| k.provider == name) {
        if let Some(Err(failure)) = key.sealed.as_ref().map(|sealed| kms::check_key(name, sealed)) {
            return Ok(finding("provider", name, "red", failure.one_line(), "Restore this row of sym_key or asym_key from a backup"));
        }
    }
    if !provider.is_enabled {
        return Ok(disabled(name));
    }
    if let Some(suspended) = suspended(provider) {
        return Ok(suspended);
    }
    Ok(green(
        "provider",
        name,
        format!(
            "root key \"{}\", fingerprint {}, {} keys, trust domain \"{}\"",
            root.name, root.fingerprint, provider.keys, provider.trust_domain
        ),
    ))
}

pub(super) fn disabled(name: &str) -> Finding {
    finding("provider", name, "yellow", "disabled", "Set is_enabled in kms_wrap.kms_providers to use it again")
}

/// A provider that is out of use for new wrappers.
pub(super) fn suspended(provider: &watch::ProviderRow) -> Option<Finding> {
    let (until, name) = (provider.suspended_until.as_ref()?, &provider.name);
    let reason = provider.suspend_reason.as_deref().unwrap_or("no reason given");
    let action = if reason.starts_with(BY_WORKER) {
        "The worker resumes it when it is up again".to_owned()
    } else {
        format!("SELECT kms_wrap.kw_resume_provider('{name}')")
    };
    Some(finding("provider", name, "yellow", format!("suspended until {until}: {reason}"), action))
}

/// Two local roots count as two domains, but they are files of one host.
fn one_host(providers: &[watch::ProviderRow]) -> Option<Finding> {
    let local = providers.iter().filter(|p| p.kind == KIND).count();
    (local > 1 && local == providers.len()).then(|| {
        finding(
            "trust domains",
            "local",
            "yellow",
            format!("all {local} providers keep their root keys on this one host: whoever controls it holds them all"),
            "Good for a start; move one side to a KMS of another owner for production",
        )
    })
}

fn key_states(keys: &[Key]) -> Vec<Finding> {
    let compromised = keys.iter().filter(|k| k.status == key::KeyStatus::Compromised);
    compromised
        .map(|k| {
            let action = format!("Move its wrappers away with kw_schedule_rewrap(from_key => {}, ...), then destroy it", k.id);
            finding("key", k.label(), "red", "compromised", action)
        })
        .collect()
}

fn policy_state(name: &str) -> Result<Finding, Failure> {
    let policy = policy::by_name(name)?;
    if !policy.is_enabled {
        return Ok(finding("policy", name, "yellow", "disabled", "Set is_enabled in kms_wrap.encryption_policies to use it again"));
    }
    let listed = key::by_policy(policy.id, gucs::probes_count())?;
    let usable = |slot: &str| listed.iter().filter(|pk| pk.slot == slot && pk.is_usable()).map(|pk| &pk.key).collect::<Vec<_>>();
    let (kms1, kms2, layers) = (usable("kms1"), usable("kms2"), usable("layer"));
    let needed = usize::try_from(policy.min_layers).unwrap_or(0);
    let short =
        [("kms1", kms1.len(), 1), ("kms2", kms2.len(), 1), ("layer", layers.len(), needed)].into_iter().find(|(_, have, need)| have < need);
    if let Some((slot, have, need)) = short {
        let detail = format!("slot \"{slot}\" has {have} usable keys and needs {need}");
        return Ok(finding(
            "policy",
            name,
            "red",
            detail,
            format!("kw_policy_add_key('{name}', '{slot}', ...), or enable or resume a key"),
        ));
    }
    let paired = kms1.iter().any(|a| kms2.iter().any(|b| check_domains(&policy, a, b).is_ok()));
    if !paired {
        let detail = "every pair of its kms1 and kms2 keys is of one trust domain";
        return Ok(finding("policy", name, "red", detail, "Add a key of another owner"));
    }
    let level = policy.min_nist_level.unwrap_or(1);
    let strong = layers.iter().any(|k| k.algorithm.nist_level().is_some_and(|n| n >= level));
    let mode = policy.mode.name();
    let detail = format!("{mode}, {} + {} KMS keys, {} layer keys usable", kms1.len(), kms2.len(), layers.len());
    if strong {
        return Ok(green("policy", name, detail));
    }
    if policy.min_nist_level.is_some() || gucs::require_pq() {
        return Ok(finding(
            "policy",
            name,
            "red",
            format!("{detail}; none reaches the post-quantum floor"),
            "Add a layer key of an ML-KEM or X-Wing algorithm",
        ));
    }
    Ok(finding(
        "policy",
        name,
        "yellow",
        format!("{detail}; its wrappers are not post-quantum"),
        "Add a layer key of an ML-KEM or X-Wing algorithm",
    ))
}

fn floors() -> Result<Finding, Failure> {
    let settings = format!("require_origin {}, require_pq {}, min_suite {}", gucs::require_origin(), gucs::require_pq(), gucs::min_suite());
    if gucs::min_suite() > i32::from(SUITE_1) {
        return Ok(finding(
            "floors",
            "settings",
            "red",
            format!("{settings}; this version writes suite 1, so no wrapper opens"),
            "Lower kms_wrap.min_suite",
        ));
    }
    let bare = watch::without_layers()?;
    Ok(match (bare, gucs::require_pq()) {
        (0, _) => green("floors", "settings", format!("{settings}; every live wrapper has a layer")),
        (n, true) => finding(
            "floors",
            "settings",
            "red",
            format!("{settings}; {n} live wrappers have no layer and do not open"),
            "Lower kms_wrap.require_pq, or make their DEKs anew",
        ),
        (n, false) => finding(
            "floors",
            "settings",
            "yellow",
            format!("{settings}; {n} live wrappers have no layer"),
            "They are not post-quantum: make their DEKs anew under a policy with layers",
        ),
    })
}

fn worker() -> Result<Finding, Failure> {
    let (database, running) = watch::worker()?;
    let named = gucs::worker_databases().contains(&database);
    if spi::in_recovery() {
        return Ok(green("worker", database, "standby: jobs run on the primary"));
    }
    Ok(match (super::init::is_preloaded(), named, running) {
        (_, true, n) if n > 0 => green("worker", database, "running"),
        (true, true, _) => {
            finding("worker", database, "red", "configured but not running", "See the server's log; max_worker_processes may be too low")
        }
        (true, false, _) => finding(
            "worker",
            &database,
            "yellow",
            "not configured for this database",
            format!("Add {database} to kms_wrap.worker_databases and restart, or CALL kms_wrap.kw_run_jobs()"),
        ),
        (false, ..) => finding(
            "worker",
            database,
            "yellow",
            "kms_wrap is not in shared_preload_libraries, so no worker runs",
            "Jobs run by CALL kms_wrap.kw_run_jobs(); or preload kms_wrap and restart",
        ),
    })
}

fn jobs() -> Result<Finding, Failure> {
    let (running, paused, open, failed) = watch::jobs()?;
    let detail = format!("{running} campaigns running, {paused} paused, {open} jobs open, {failed} failed");
    Ok(if failed > 0 {
        finding("jobs", "rewrap", "yellow", detail, "See last_error in kms_wrap.rewrap_jobs, then schedule again")
    } else {
        green("jobs", "rewrap", detail)
    })
}
