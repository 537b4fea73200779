//! The background worker: one launcher, which starts a worker for each database of `kms_wrap.worker_databases` that exists.
//!
//! A worker holds no transaction while a provider works. What ends one (an ERROR, a kill) loses nothing: its leases are given to the next.

use super::{
    catalog::{
        job::{self, Job},
        watch,
    },
    gucs,
    interrupt::{Begun, block_on},
    jobs::{self, Moved},
    probing::Probing,
    report::Failure,
};
use pgrx::{
    Spi,
    bgworkers::{BackgroundWorker, BackgroundWorkerBuilder, DynamicBackgroundWorker, SignalWakeFlags},
    datum::{FromDatum, IntoDatum},
    pg_guard,
    pg_sys::{
        self,
        panic::{ErrorReport, ErrorReportable},
    },
};
use std::{collections::HashMap, ffi::CStr, time::Duration};

/// How often an idle worker looks for jobs.
const POLL: Duration = Duration::from_secs(1);

/// Jobs of one step: some ten milliseconds of work, so that a pause or a shutdown is quick, and three of transit's requests. Twice as many were not
/// faster (2026-11).
const BATCH: i32 = 450;

/// AccessShareLock of lockdefs.h.
const ACCESS_SHARE: pg_sys::LOCKMODE = 1;

/// SIGTERM of signal.h, the same on every platform that PostgreSQL runs on.
const SIGTERM: i32 = 15;

/// `bgw_type` of the workers, as pg_stat_activity shows it.
const WORKER_TYPE: &str = "kms_wrap worker";

pub(crate) fn register() {
    if gucs::worker_databases().is_empty() {
        return;
    }
    BackgroundWorkerBuilder::new("kms_wrap launcher")
        .set_type("kms_wrap launcher")
        .set_library("kms_wrap")
        .set_function("kms_wrap_launcher_main")
        .enable_spi_access()
        .set_restart_time(Some(POLL))
        .load();
}

/// Starts a worker wherever one is missing. Connected to no database, so a missing one is no error.
#[allow(unsafe_code, missing_docs)]
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn kms_wrap_launcher_main(_arg: pg_sys::Datum) {
    handle_signals();
    BackgroundWorker::connect_worker_to_spi(None, None);
    let mut workers: HashMap<String, DynamicBackgroundWorker> = HashMap::new();
    loop {
        for name in gucs::worker_databases() {
            if workers.get(&name).is_some_and(|worker| worker.pid().is_ok() || is_starting(worker)) {
                continue;
            }
            if let Some(oid) = database_oid(&name) {
                let started = BackgroundWorkerBuilder::new(&format!("kms_wrap worker: {name}"))
                    .set_type(WORKER_TYPE)
                    .set_library("kms_wrap")
                    .set_function("kms_wrap_worker_main")
                    .set_argument(oid.into_datum())
                    .set_restart_time(None)
                    .enable_spi_access()
                    .load_dynamic();
                // No free slot: tried again with the next look; kw_health says that the worker does not run.
                if let Ok(worker) = started {
                    workers.insert(name, worker);
                }
            }
        }
        wait(POLL);
    }
}

/// SIGTERM ends the process wherever it waits, as in every backend, and with the exit code after which the postmaster starts a launcher again.
/// pgrx's own handler only sets a flag.
fn handle_signals() {
    // SAFETY: signals are still blocked here, and the handler does what a handler may.
    #[allow(unsafe_code)]
    unsafe {
        #[cfg(not(feature = "pg18"))]
        pg_sys::pqsignal(SIGTERM, Some(terminate));
        #[cfg(feature = "pg18")]
        pg_sys::pqsignal_be(SIGTERM, Some(terminate));
    }
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP);
}

/// Keeps the memory of one batch for the next: some megabytes, which glibc would give back to the kernel and get anew, page by page, each time.
/// That took a twentieth of a campaign between local keys (2026-11).
#[allow(unsafe_code)]
fn keep_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        /// `M_TRIM_THRESHOLD` and `M_MMAP_THRESHOLD` of glibc's malloc.h, with more than a batch takes.
        const LIMITS: [(i32, i32); 2] = [(-1, 64 << 20), (-3, 32 << 20)];
        unsafe extern "C" {
            fn mallopt(param: i32, value: i32) -> i32;
        }
        for (param, value) in LIMITS {
            // SAFETY: sets a limit of this process's own allocator. One that is refused stays as it was.
            unsafe { mallopt(param, value) };
        }
    }
}

/// What die() of PostgreSQL's postgres.c does in a process without a client.
#[allow(unsafe_code)]
unsafe extern "C-unwind" fn terminate(_signal: i32) {
    // SAFETY: sets the server's own flags, which are made for signal handlers, and wakes this process.
    unsafe {
        pg_sys::InterruptPending = 1;
        pg_sys::ProcDiePending = 1;
        pg_sys::SetLatch(pg_sys::MyLatch);
    }
}

/// Sleeps until something happens, then does what signals ask for.
fn wait(patience: Duration) {
    if !BackgroundWorker::wait_latch(Some(patience)) {
        // The postmaster is gone: no process of it may go on, or no server can start here again.
        // SAFETY: the regular end of a server process, outside any transaction.
        #[allow(unsafe_code)]
        unsafe {
            pg_sys::proc_exit(1);
        }
    }
    pgrx::check_for_interrupts!();
    if BackgroundWorker::sighup_received() {
        // SAFETY: the way every server process takes over a changed configuration file; called between transactions.
        #[allow(unsafe_code)]
        unsafe {
            pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
        }
    }
}

fn is_starting(worker: &DynamicBackgroundWorker) -> bool {
    matches!(worker.pid(), Err(pgrx::bgworkers::BackgroundWorkerStatus::NotYetStarted))
}

/// The oid of a database that accepts connections. Scans pg_database from end to end: in a process without a database the index on its name may
/// not be usable, as right after a crash.
fn database_oid(name: &str) -> Option<pg_sys::Oid> {
    BackgroundWorker::transaction(|| {
        let mut found = None;
        // SAFETY: the way the autovacuum launcher lists databases (get_database_list in autovacuum.c): inside a transaction, with a lock on the
        // catalog, and each tuple is read before the next one is fetched.
        #[allow(unsafe_code)]
        unsafe {
            let relation = pg_sys::table_open(pg_sys::DatabaseRelationId, ACCESS_SHARE);
            let scan = pg_sys::table_beginscan_catalog(relation, 0, std::ptr::null_mut());
            loop {
                let tuple = pg_sys::heap_getnext(scan, pg_sys::ScanDirection::ForwardScanDirection);
                if tuple.is_null() {
                    break;
                }
                let header = (*tuple).t_data;
                let row = header.byte_add(usize::from((*header).t_hoff)).cast::<pg_sys::FormData_pg_database>();
                let datname = CStr::from_ptr((*row).datname.data.as_ptr());
                if (*row).datallowconn && datname.to_bytes() == name.as_bytes() {
                    found = Some((*row).oid);
                }
            }
            pg_sys::table_endscan(scan);
            pg_sys::table_close(relation, ACCESS_SHARE);
        }
        found
    })
}

/// Processes the jobs of one database until the server stops it.
#[allow(unsafe_code, missing_docs)]
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn kms_wrap_worker_main(arg: pg_sys::Datum) {
    handle_signals();
    keep_memory();
    // SAFETY: the launcher passed an oid.
    let database = unsafe { pg_sys::Oid::from_datum(arg, false) };
    BackgroundWorker::connect_worker_to_spi_by_oid(database, None);
    transaction(|| Ok(Spi::run(SESSION)?));
    // A launcher that was started again does not know the workers of the one before; the second one for a database waits here.
    while !transaction(|| Ok(Spi::get_one::<bool>(ONLY_WORKER)? == Some(true))) {
        wait(POLL);
    }
    let mut working = Working::default();
    let mut probing = Probing::default();
    loop {
        // Both in turn: a campaign waits for one call of a probe at most, and probes for one batch.
        let is_busy = [working.step(probing.is_asking()), probing.step()].contains(&true);
        wait(if is_busy { Duration::ZERO } else { transaction(until_due) });
    }
}

/// What a database or role may have set differently must not stop the worker, nor make it slow: its statements are short and always the same, and
/// statistics from before a campaign know of no open job. Commits wait for the disk only where wrappers are written (`STORE`).
const SESSION: &str =
    "SET jit = off; SET plan_cache_mode = force_generic_plan; SET enable_sort = off; SET enable_bitmapscan = off; SET enable_memoize = off;
     SET synchronous_commit = off; SET search_path = pg_catalog, pg_temp; SET application_name = 'kms_wrap worker';
     SET default_transaction_read_only = off; SET default_transaction_isolation = 'read committed'; SET statement_timeout = 0";

const STORE: &str = "SET LOCAL synchronous_commit TO DEFAULT";

const ONLY_WORKER: &str = "SELECT pg_catalog.pg_try_advisory_lock(pg_catalog.hashtext('kms_wrap worker'), 0)";

/// What the worker is at: jobs whose providers have been asked while it claims, reads and writes others.
#[derive(Default)]
struct Working(Option<Begun<Moved>>);

impl Working {
    /// Claims, works, writes back; `false` when there was nothing to do. Nothing stays begun if a probe comes next (`is_probed`), which must not find this very
    /// worker trying a provider that was down.
    fn step(&mut self, is_probed: bool) -> bool {
        let is_ahead = self.0.is_some();
        let claimed = transaction(|| claim(is_ahead));
        self.look_after();
        let next = (!claimed.is_empty()).then(|| transaction(|| jobs::load(claimed)));
        let asked = self.0.take().map(|begun| or_report(begun.end()));
        let is_busy = next.is_some() || asked.is_some();
        let mut moved: Vec<Moved> = asked.into_iter().collect();
        match next {
            Some(work) if is_probed || work.is_local() => moved.push(or_report(block_on(work.run()))),
            // Their servers work while this process writes.
            Some(work) => self.0 = Some(or_report(Begun::begin(work.run()))),
            None => {}
        }
        for moved in moved {
            transaction(|| {
                Spi::run(STORE)?;
                moved.store()
            });
        }
        self.look_after();
        is_busy
    }

    fn look_after(&mut self) {
        if let Some(begun) = &mut self.0 {
            or_report(begun.look_after());
        }
    }
}

fn claim(is_ahead: bool) -> Result<Vec<Job>, Failure> {
    // The extension may not be there yet, or not any more.
    if !watch::is_installed()? {
        return Ok(Vec::new());
    }
    if is_ahead { job::claim_ahead(BATCH) } else { job::claim(BATCH) }
}

/// How long nothing can be due: a rate limit may end before the next look.
fn until_due() -> Result<Duration, Failure> {
    let due = if watch::is_installed()? { job::seconds_until_due()? } else { None };
    Ok(due.map_or(POLL, |seconds| Duration::from_secs_f64(seconds.clamp(0.1, POLL.as_secs_f64()))))
}

/// Runs in a transaction of its own. An error ends the worker; the launcher starts another, and the leases are free again.
pub(super) fn transaction<T>(body: impl FnOnce() -> Result<T, Failure>) -> T {
    BackgroundWorker::transaction(std::panic::AssertUnwindSafe(|| or_report(body())))
}

fn or_report<T>(result: Result<T, Failure>) -> T {
    result.map_err(ErrorReport::from).unwrap_or_report()
}
