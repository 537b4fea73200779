//! Settings. None holds a secret; all are the administrator's (configuration file or ALTER SYSTEM), hidden from ordinary roles.

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, pg_sys};
use std::{
    ffi::{CStr, CString, OsStr},
    os::unix::ffi::OsStrExt,
    path::PathBuf,
};

static KEY_DIRECTORY: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
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
    // SAFETY: called once from _PG_init with a static, NUL-terminated prefix.
    #[allow(unsafe_code)]
    unsafe {
        #[cfg(any(feature = "pg13", feature = "pg14"))]
        pg_sys::EmitWarningsOnPlaceholders(c"kms_wrap".as_ptr());
        #[cfg(not(any(feature = "pg13", feature = "pg14")))]
        pg_sys::MarkGUCPrefixReserved(c"kms_wrap".as_ptr());
    }
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
    let Some(value) = WORKER_DATABASES.get() else { return Vec::new() };
    let names = value.to_string_lossy().into_owned();
    names.split(',').map(str::trim).filter(|n| !n.is_empty()).map(str::to_owned).collect()
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
