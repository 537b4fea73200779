//! The background worker: one launcher, which starts a worker for each database of `kms_wrap.worker_databases` that exists.
//!
//! A worker holds no transaction while a provider works. What ends one (an ERROR, a kill) loses nothing: its leases are given to the next.

use super::{catalog::job, gucs, jobs, report::Failure};
use pgrx::{
    PgTryBuilder, Spi,
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

/// Jobs of one step: a few hundred milliseconds of work, so that a pause or a shutdown is quick.
const BATCH: i32 = 500;

/// AccessShareLock of lockdefs.h.
const ACCESS_SHARE: pg_sys::LOCKMODE = 1;

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
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP | SignalWakeFlags::SIGTERM);
    BackgroundWorker::connect_worker_to_spi(None, None);
    let mut workers: HashMap<String, DynamicBackgroundWorker> = HashMap::new();
    loop {
        for name in gucs::worker_databases() {
            let running = workers.get(&name).is_some_and(|worker| worker.pid().is_ok() || is_starting(worker));
            if let (false, Some(oid)) = (running, database_oid(&name)) {
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
        if !BackgroundWorker::wait_latch(Some(POLL)) {
            return;
        }
        reload_settings();
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
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP | SignalWakeFlags::SIGTERM);
    // SAFETY: the launcher passed an oid.
    let database = unsafe { pg_sys::Oid::from_datum(arg, false) };
    BackgroundWorker::connect_worker_to_spi_by_oid(database, None);
    transaction(|| Ok(Spi::run("SET search_path = pg_catalog, pg_temp; SET application_name = 'kms_wrap worker'")?));
    loop {
        let worked = step();
        let patience = if worked { Duration::ZERO } else { POLL };
        if !BackgroundWorker::wait_latch(Some(patience)) || BackgroundWorker::sigterm_received() {
            return;
        }
        reload_settings();
    }
}

/// Claims, works, writes back; `false` when there was nothing to do.
fn step() -> bool {
    if transaction(claim) == 0 {
        return false;
    }
    let work = transaction(jobs::load);
    let moved = work.run();
    transaction(|| moved.store());
    true
}

fn claim() -> Result<i64, Failure> {
    // The extension may not be there yet, or not any more.
    let installed = Spi::get_one::<bool>("SELECT pg_catalog.to_regclass('kms_wrap.rewrap_jobs') IS NOT NULL")?;
    if installed == Some(true) { job::claim(BATCH) } else { Ok(0) }
}

/// Runs in a transaction of its own. An error ends the worker; the launcher starts another, and the leases are free again.
fn transaction<T>(body: impl FnOnce() -> Result<T, Failure>) -> T {
    BackgroundWorker::transaction(std::panic::AssertUnwindSafe(|| {
        PgTryBuilder::new(std::panic::AssertUnwindSafe(|| body().map_err(ErrorReport::from).unwrap_or_report())).execute()
    }))
}

fn reload_settings() {
    if BackgroundWorker::sighup_received() {
        // SAFETY: the way every server process takes over a changed configuration file; called between transactions.
        #[allow(unsafe_code)]
        unsafe {
            pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
        }
    }
}
