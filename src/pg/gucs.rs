//! Settings. None holds a secret; all are the administrator's (configuration file or ALTER SYSTEM), hidden from ordinary roles.

use crate::provider::{config::Environment, credentials::CredentialDirectory};
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, pg_sys};
use std::{
    ffi::{CStr, CString, OsStr},
    os::unix::ffi::OsStrExt,
    path::PathBuf,
    time::Duration,
};

static KEY_DIRECTORY: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static CREDENTIAL_DIRECTORY: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static ALLOWED_ENDPOINTS: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static ALLOWED_KEYS: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static PKCS11_MODULES: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static KMS_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(5000);
static TRIGGER_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(2000);
static HEALTH_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(60);
static HEALTH_RETENTION: GucSetting<i32> = GucSetting::<i32>::new(7 * 86_400);
static WORKER_DATABASES: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static REQUIRE_ORIGIN: GucSetting<bool> = GucSetting::<bool>::new(false);
static REQUIRE_PQ: GucSetting<bool> = GucSetting::<bool>::new(false);
static CACHE_TTL: GucSetting<i32> = GucSetting::<i32>::new(300);
static CACHE_ENTRIES: GucSetting<i32> = GucSetting::<i32>::new(16384);
static CACHE_USES: GucSetting<i32> = GucSetting::<i32>::new(0);
static MIN_SUITE: GucSetting<i32> = GucSetting::<i32>::new(1);

pub(crate) fn init(preloaded: bool) {
    let hidden = GucFlags::SUPERUSER_ONLY | GucFlags::NO_SHOW_ALL;
    GucRegistry::define_string_guc(
        c"kms_wrap.key_directory",
        c"Directory of the local provider's root key files.",
        c"Absolute path outside the data directory and all tablespaces, owned by the server's user, mode 0700. Empty means the data directory's path with \".kms_wrap\" appended.",
        &KEY_DIRECTORY,
        GucContext::Sighup,
        hidden,
    );
    GucRegistry::define_string_guc(
        c"kms_wrap.worker_databases",
        c"Databases in which a background worker runs jobs, separated by commas.",
        c"Needs kms_wrap in shared_preload_libraries. One worker, and one of max_worker_processes, a database.",
        &WORKER_DATABASES,
        // PostgreSQL refuses to define a postmaster setting later; without preload the value has no effect anyway.
        if preloaded { GucContext::Postmaster } else { GucContext::Sighup },
        hidden,
    );
    GucRegistry::define_bool_guc(
        c"kms_wrap.require_origin",
        c"Refuses wrappers of which not every path proves who made it.",
        c"A floor under every policy, checked when a wrapper is made, rewrapped or opened.",
        &REQUIRE_ORIGIN,
        GucContext::Sighup,
        GucFlags::SUPERUSER_ONLY,
    );
    GucRegistry::define_bool_guc(
        c"kms_wrap.require_pq",
        c"Refuses wrappers of which not every path has a post-quantum layer.",
        c"A floor under every policy, checked when a wrapper is made, rewrapped or opened.",
        &REQUIRE_PQ,
        GucContext::Sighup,
        GucFlags::SUPERUSER_ONLY,
    );
    GucRegistry::define_int_guc(
        c"kms_wrap.min_suite",
        c"Refuses wrappers of an older cipher suite.",
        c"A floor under every policy: the lowest suite number, 1 being KW1-A256GCM-HS384.",
        &MIN_SUITE,
        1,
        65535,
        GucContext::Sighup,
        GucFlags::SUPERUSER_ONLY,
    );
    let unit = GucFlags::SUPERUSER_ONLY | GucFlags::UNIT_S;
    GucRegistry::define_int_guc(
        c"kms_wrap.cache_ttl",
        c"Longest time that a session keeps an opened DEK of values.",
        c"In seconds, at most a day; a policy's cache_ttl may make it shorter. 0 keeps none.",
        &CACHE_TTL,
        0,
        86_400,
        GucContext::Sighup,
        unit,
    );
    GucRegistry::define_int_guc(
        c"kms_wrap.cache_entries",
        c"Most opened DEKs of values that a session keeps.",
        c"Each takes about 1 kB, and 1 kB for every message key of its values.",
        &CACHE_ENTRIES,
        1,
        1_000_000,
        GucContext::Sighup,
        GucFlags::SUPERUSER_ONLY,
    );
    GucRegistry::define_int_guc(
        c"kms_wrap.cache_uses",
        c"Most values that a session encrypts or decrypts with a DEK before it opens the wrapper again.",
        c"0 means no limit.",
        &CACHE_USES,
        0,
        i32::MAX,
        GucContext::Sighup,
        GucFlags::SUPERUSER_ONLY,
    );
    init_providers(hidden);
    init_probes();
    // SAFETY: called once from _PG_init with a static, NUL-terminated prefix.
    #[allow(unsafe_code)]
    unsafe {
        #[cfg(any(feature = "pg13", feature = "pg14"))]
        pg_sys::EmitWarningsOnPlaceholders(c"kms_wrap".as_ptr());
        #[cfg(not(any(feature = "pg13", feature = "pg14")))]
        pg_sys::MarkGUCPrefixReserved(c"kms_wrap".as_ptr());
    }
}

fn init_providers(hidden: GucFlags) {
    GucRegistry::define_string_guc(
        c"kms_wrap.credential_directory",
        c"Directory of the files that hold tokens, passwords and client keys for remote key providers.",
        c"Absolute path; the files belong to the server's user and have mode 0600 (certificates may be readable). Empty means \"credentials\" in the key directory.",
        &CREDENTIAL_DIRECTORY,
        GucContext::Sighup,
        hidden,
    );
    GucRegistry::define_string_guc(
        c"kms_wrap.allowed_endpoints",
        c"Endpoints that remote key providers may have, separated by commas.",
        c"Each as https://host:port, in which * stands for any characters but /. Empty allows any.",
        &ALLOWED_ENDPOINTS,
        GucContext::Sighup,
        hidden,
    );
    GucRegistry::define_string_guc(
        c"kms_wrap.allowed_keys",
        c"References that keys of remote providers may have, separated by commas.",
        c"Each as kms_keys.external_key_ref, in which * stands for any characters but /. Empty allows any.",
        &ALLOWED_KEYS,
        GucContext::Sighup,
        hidden,
    );
    GucRegistry::define_string_guc(
        c"kms_wrap.pkcs11_modules",
        c"PKCS#11 modules that the server may load, separated by commas.",
        c"Absolute paths, exactly as in a provider's configuration. Empty allows none.",
        &PKCS11_MODULES,
        GucContext::Sighup,
        hidden,
    );
    let unit = GucFlags::SUPERUSER_ONLY | GucFlags::UNIT_MS;
    GucRegistry::define_int_guc(
        c"kms_wrap.kms_timeout",
        c"Longest time to wait for a remote key provider.",
        c"In milliseconds, for each call with its retries; a call for more than 150 shares has as much for every 150.",
        &KMS_TIMEOUT,
        10,
        600_000,
        GucContext::Sighup,
        unit,
    );
    GucRegistry::define_int_guc(
        c"kms_wrap.trigger_timeout",
        c"Longest time that the trigger of a protected column waits for remote key providers.",
        c"In milliseconds, for all calls that it makes for one row. It runs under its statement's locks, so it should wait shorter than kms_wrap.kms_timeout.",
        &TRIGGER_TIMEOUT,
        10,
        600_000,
        GucContext::Sighup,
        unit,
    );
}

fn init_probes() {
    let unit = GucFlags::SUPERUSER_ONLY | GucFlags::UNIT_S;
    GucRegistry::define_int_guc(
        c"kms_wrap.health_interval",
        c"How often a background worker probes every key provider and its keys.",
        c"In seconds, at most a day. A provider that is down is suspended for three intervals. 0 means never.",
        &HEALTH_INTERVAL,
        0,
        86_400,
        GucContext::Sighup,
        unit,
    );
    GucRegistry::define_int_guc(
        c"kms_wrap.health_retention",
        c"How long a background worker keeps the results of probes.",
        c"In seconds, at least an hour.",
        &HEALTH_RETENTION,
        3_600,
        i32::MAX,
        GucContext::Sighup,
        unit,
    );
}

/// What remote providers may use.
pub(crate) fn environment() -> Environment {
    let credentials = match CREDENTIAL_DIRECTORY.get() {
        Some(path) if !path.is_empty() => PathBuf::from(OsStr::from_bytes(path.to_bytes())),
        _ => key_directory().join("credentials"),
    };
    Environment {
        credentials: CredentialDirectory(credentials),
        allowed_endpoints: list(&ALLOWED_ENDPOINTS),
        pkcs11_modules: list(&PKCS11_MODULES).into_iter().map(PathBuf::from).collect(),
        pins: super::pins::pins(),
        deadline: kms_timeout().min(trigger_timeout()),
    }
}

/// Patterns of key references; none allows any.
pub(crate) fn allowed_keys() -> Vec<String> {
    list(&ALLOWED_KEYS)
}

pub(crate) fn kms_timeout() -> Duration {
    millis(&KMS_TIMEOUT)
}

pub(crate) fn trigger_timeout() -> Duration {
    millis(&TRIGGER_TIMEOUT)
}

/// Seconds between probes; `None` when there are none.
pub(crate) fn health_interval() -> Option<u32> {
    u32::try_from(HEALTH_INTERVAL.get()).ok().filter(|seconds| *seconds > 0)
}

/// For how many seconds the result of a probe counts: three intervals, as the worker's suspensions do.
pub(crate) fn probes_count() -> u32 {
    health_interval().unwrap_or(0).saturating_mul(3)
}

/// Seconds.
pub(crate) fn health_retention() -> i32 {
    HEALTH_RETENTION.get()
}

fn millis(setting: &GucSetting<i32>) -> Duration {
    Duration::from_millis(u64::try_from(setting.get()).unwrap_or(0))
}

fn list(setting: &GucSetting<Option<CString>>) -> Vec<String> {
    let Some(value) = setting.get() else { return Vec::new() };
    let value = value.to_string_lossy().into_owned();
    value.split(',').map(str::trim).filter(|n| !n.is_empty()).map(str::to_owned).collect()
}

/// The directory of root key files.
pub(crate) fn key_directory() -> PathBuf {
    match KEY_DIRECTORY.get() {
        Some(path) if !path.is_empty() => PathBuf::from(OsStr::from_bytes(path.to_bytes())),
        _ => {
            let mut path = data_directory().into_os_string();
            path.push(".kms_wrap");
            path.into()
        }
    }
}

/// The server's data directory.
pub(crate) fn data_directory() -> PathBuf {
    // SAFETY: DataDir is set before any extension is loaded and never freed.
    #[allow(unsafe_code)]
    let path = unsafe { CStr::from_ptr(pg_sys::DataDir) };
    PathBuf::from(OsStr::from_bytes(path.to_bytes()))
}

/// Names in `kms_wrap.worker_databases`.
pub(crate) fn worker_databases() -> Vec<String> {
    list(&WORKER_DATABASES)
}

/// Microseconds.
pub(crate) fn cache_ttl() -> i64 {
    i64::from(CACHE_TTL.get()) * 1_000_000
}

/// At least 1.
pub(crate) fn cache_entries() -> usize {
    usize::try_from(CACHE_ENTRIES.get()).unwrap_or(1).max(1)
}

/// At least 1.
pub(crate) fn cache_uses() -> u64 {
    u64::try_from(CACHE_USES.get()).ok().filter(|uses| *uses > 0).unwrap_or(u64::MAX)
}

pub(crate) fn require_origin() -> bool {
    REQUIRE_ORIGIN.get()
}

pub(crate) fn require_pq() -> bool {
    REQUIRE_PQ.get()
}

pub(crate) fn min_suite() -> i32 {
    MIN_SUITE.get()
}
