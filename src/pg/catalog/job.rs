//! Jobs: leased by a session, worked on without a lock, recorded. A lease that is not given back runs out.

use super::campaign;
use crate::pg::{
    report::Failure,
    spi::{self, Row},
};
use serde_json::Value;
use std::{
    cell::{Cell, RefCell},
    collections::HashSet,
    time::{Duration, Instant},
};

thread_local! {
    /// The jobs of this session's last claims that it has not recorded, by id. Whether it still holds them, and ever did, only the table knows.
    static CLAIMED: RefCell<Vec<i64>> = const { RefCell::new(Vec::new()) };
    /// When this session last took over the leases of others.
    static RECLAIMED: Cell<Option<Instant>> = const { Cell::new(None) };
    static OWNER_NAME: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// How often lost leases are looked for while there is other work.
const RECLAIM_EVERY: Duration = Duration::from_secs(10);

// This session as the owner of leases: a pid alone comes back. The start is this process's own, since pg_stat_activity hides it from ordinary roles.
const OWNER: &str = "SELECT pg_catalog.pg_backend_pid()::pg_catalog.text OPERATOR(pg_catalog.||) '@'
            OPERATOR(pg_catalog.||) EXTRACT(epoch FROM $1)::pg_catalog.text";

// Leases of sessions that are gone, and leases that ran out. A job that took its session along so often is given up. The list of sessions may be as
// old as this transaction, so a lease that is younger is left alone.
const RECLAIM: &str = "WITH lost AS (
       UPDATE kms_wrap.rewrap_jobs j
       SET status = CASE WHEN j.attempts OPERATOR(pg_catalog.>=) (j.max_attempts OPERATOR(pg_catalog.*) 4) THEN 'failed' ELSE 'pending' END,
           finished_at = CASE WHEN j.attempts OPERATOR(pg_catalog.>=) (j.max_attempts OPERATOR(pg_catalog.*) 4) THEN pg_catalog.now() END,
           last_error = 'the session that worked on it ended', lease_owner = NULL, lease_until = NULL
       WHERE j.id OPERATOR(pg_catalog.=) ANY (ARRAY(
               SELECT r.id FROM kms_wrap.rewrap_jobs r
               WHERE r.status OPERATOR(pg_catalog.=) 'running'
                 AND (r.lease_until OPERATOR(pg_catalog.<) pg_catalog.now()
                      OR (r.lease_until OPERATOR(pg_catalog.<) (pg_catalog.now() OPERATOR(pg_catalog.+) '10 minutes'::pg_catalog.interval)
                          AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_get_activity(NULL) a
                            WHERE a.pid::pg_catalog.text OPERATOR(pg_catalog.=) pg_catalog.split_part(r.lease_owner, '@', 1)
                              AND (a.backend_start IS NULL OR EXTRACT(epoch FROM a.backend_start)::pg_catalog.text
                                   OPERATOR(pg_catalog.=) pg_catalog.split_part(r.lease_owner, '@', 2)))))
               FOR UPDATE SKIP LOCKED))
       RETURNING j.campaign_id, j.status)
     UPDATE kms_wrap.rewrap_campaigns c SET failed = c.failed OPERATOR(pg_catalog.+) f.n
     FROM (SELECT campaign_id, pg_catalog.count(*) AS n FROM lost WHERE status OPERATOR(pg_catalog.=) 'failed' GROUP BY campaign_id) f
     WHERE c.id OPERATOR(pg_catalog.=) f.campaign_id";

// One due campaign, then its oldest pending jobs, by their places, where they were just locked. None that leads to a suspended provider: its jobs
// would fail, and still wait for their next attempt when the suspension has ended. The campaign's row is locked for this short transaction, so that
// several sessions keep one rate.
const CLAIM: &str = "WITH c AS MATERIALIZED (
       SELECT c.id, c.rate_per_second, c.started_at,
              LEAST($1, COALESCE(c.rate_per_second, $1))::pg_catalog.int8 AS n
       FROM kms_wrap.rewrap_campaigns c
       WHERE c.status OPERATOR(pg_catalog.=) 'running'
         AND c.scheduled_at OPERATOR(pg_catalog.<=) pg_catalog.now() AND c.next_claim_at OPERATOR(pg_catalog.<=) pg_catalog.now()
         AND (c.window_start IS NULL
              OR CASE WHEN c.window_start OPERATOR(pg_catalog.<) c.window_end
                      THEN LOCALTIME OPERATOR(pg_catalog.>=) c.window_start AND LOCALTIME OPERATOR(pg_catalog.<) c.window_end
                      ELSE LOCALTIME OPERATOR(pg_catalog.>=) c.window_start OR LOCALTIME OPERATOR(pg_catalog.<) c.window_end END)
         AND NOT EXISTS (SELECT FROM kms_wrap.kms_keys k JOIN kms_wrap.kms_providers p ON p.id OPERATOR(pg_catalog.=) k.provider_id
              WHERE p.suspended_until OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp()
                AND (k.id OPERATOR(pg_catalog.=) c.target_kms1_key_id OR k.id OPERATOR(pg_catalog.=) c.target_kms2_key_id
                     OR k.id::pg_catalog.text OPERATOR(pg_catalog.=) ANY (ARRAY(SELECT t.value FROM pg_catalog.jsonb_each_text(c.target_layers) t))))
         AND (SELECT 1 FROM kms_wrap.rewrap_jobs j
              WHERE j.campaign_id OPERATOR(pg_catalog.=) c.id AND j.status OPERATOR(pg_catalog.=) 'pending'
                AND j.next_attempt_at OPERATOR(pg_catalog.<=) pg_catalog.now()
              ORDER BY j.priority DESC, j.id LIMIT 1) IS NOT NULL
       ORDER BY c.priority DESC, c.id LIMIT 1 FOR NO KEY UPDATE),
     j AS MATERIALIZED (
       SELECT j.ctid AS place FROM kms_wrap.rewrap_jobs j
       WHERE j.campaign_id OPERATOR(pg_catalog.=) (SELECT c.id FROM c) AND j.status OPERATOR(pg_catalog.=) 'pending'
         AND j.next_attempt_at OPERATOR(pg_catalog.<=) pg_catalog.now()
       ORDER BY j.priority DESC, j.id LIMIT (SELECT c.n FROM c) FOR UPDATE SKIP LOCKED),
     u AS (
       UPDATE kms_wrap.rewrap_jobs
       SET status = 'running', attempts = attempts OPERATOR(pg_catalog.+) 1, started_at = COALESCE(started_at, pg_catalog.now()),
           lease_owner = $2, lease_until = pg_catalog.now() OPERATOR(pg_catalog.+) '10 minutes'::pg_catalog.interval
       WHERE ctid OPERATOR(pg_catalog.=) ANY (ARRAY(SELECT j.place FROM j))
       RETURNING id, key_wrapper_id, target_kms1_key_id, target_kms2_key_id, target_layers::pg_catalog.text, attempts, max_attempts),
     p AS (
       UPDATE kms_wrap.rewrap_campaigns r
       SET started_at = COALESCE(r.started_at, pg_catalog.now()),
           next_claim_at = CASE WHEN r.rate_per_second IS NULL THEN r.next_claim_at
             ELSE pg_catalog.now() OPERATOR(pg_catalog.+) pg_catalog.make_interval(secs => (SELECT pg_catalog.count(*) FROM u)::pg_catalog.float8
                  OPERATOR(pg_catalog./) r.rate_per_second::pg_catalog.float8) END
       FROM c WHERE r.id OPERATOR(pg_catalog.=) c.id AND (c.started_at IS NULL OR c.rate_per_second IS NOT NULL))
     SELECT * FROM u";

// Asked first, because it needs no transaction id: an idle worker leaves no trace in the WAL.
const ANYTHING_TO_DO: &str = "SELECT EXISTS (SELECT FROM kms_wrap.rewrap_campaigns c
             WHERE c.status OPERATOR(pg_catalog.=) 'running' AND c.scheduled_at OPERATOR(pg_catalog.<=) pg_catalog.now()
               AND c.next_claim_at OPERATOR(pg_catalog.<=) pg_catalog.now())
         OR EXISTS (SELECT FROM kms_wrap.rewrap_jobs WHERE status OPERATOR(pg_catalog.=) 'running')
         OR EXISTS (SELECT FROM kms_wrap.rewrap_campaigns c JOIN kms_wrap.rewrap_jobs j ON j.campaign_id OPERATOR(pg_catalog.=) c.id
             WHERE c.status OPERATOR(pg_catalog.=) 'cancelled' AND j.status OPERATOR(pg_catalog.=) 'pending')";

const DUE: &str = "SELECT kms_wrap.kw_jobs_wait()";

/// Seconds until a job may be due, 0 or more; `None` if none is soon.
pub(crate) fn seconds_until_due() -> Result<Option<f64>, Failure> {
    Ok(spi::first(spi::select(DUE, &[], |row| row.opt())?).flatten())
}

/// This session as the owner of leases.
fn owner() -> Result<String, Failure> {
    if let Some(owner) = OWNER_NAME.with_borrow(Clone::clone) {
        return Ok(owner);
    }
    let owner: String =
        spi::first(spi::select(OWNER, &[spi::session_start().into()], |row| row.next())?).ok_or_else(|| Failure::internal("session"))?;
    OWNER_NAME.set(Some(owner.clone()));
    Ok(owner)
}

/// Leases up to `batch_size` jobs of one campaign to this session; ends campaigns that have nothing left.
pub(crate) fn claim(batch_size: i32) -> Result<Vec<Job>, Failure> {
    if !spi::first(spi::select(ANYTHING_TO_DO, &[], |row| row.next::<bool>())?).unwrap_or(false) {
        return Ok(Vec::new());
    }
    // Left by a call of this session that was cancelled: done first, since nobody else may take them.
    let mut jobs = leased()?;
    if jobs.is_empty() {
        CLAIMED.take();
    }
    if jobs.is_empty() && RECLAIMED.get().is_some_and(|last| last.elapsed() < RECLAIM_EVERY) {
        jobs = claim_pending(batch_size)?;
    }
    if jobs.is_empty() {
        spi::execute(RECLAIM, &[])?;
        RECLAIMED.set(Some(Instant::now()));
        jobs = claim_pending(batch_size)?;
    }
    if jobs.is_empty() && campaign::queue_again()? > 0 {
        jobs = claim_pending(batch_size)?;
    }
    if jobs.is_empty() {
        // What an older claim left whose work was rolled back.
        CLAIMED.set(spi::select(LEASED_IDS, &[owner()?.into()], |row| row.next())?);
        jobs = leased()?;
    }
    Ok(jobs)
}

fn claim_pending(batch_size: i32) -> Result<Vec<Job>, Failure> {
    let jobs = spi::write(CLAIM, &[batch_size.into(), owner()?.into()], read)?;
    CLAIMED.with_borrow_mut(|claimed| claimed.extend(jobs.iter().map(|job| job.id)));
    Ok(jobs)
}

/// The same while the session still works on others. None when something else is to be looked at first, which [`claim`] does.
pub(crate) fn claim_ahead(batch_size: i32) -> Result<Vec<Job>, Failure> {
    if RECLAIMED.get().is_some_and(|last| last.elapsed() < RECLAIM_EVERY) { claim_pending(batch_size) } else { Ok(Vec::new()) }
}

/// A job that this session holds.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) id: i64,
    pub(crate) wrapper: i64,
    pub(crate) target_kms1: Option<i64>,
    pub(crate) target_kms2: Option<i64>,
    pub(crate) target_layers: Option<Value>,
    pub(crate) attempts: i32,
    pub(crate) max_attempts: i32,
}

const LEASED_IDS: &str = "SELECT id FROM kms_wrap.rewrap_jobs
     WHERE status OPERATOR(pg_catalog.=) 'running' AND lease_owner OPERATOR(pg_catalog.=) $1";

// By their ids: in an index of leases every job of a campaign that is done has left a dead entry. COALESCE keeps the planner from such an index.
const LEASED: &str = "SELECT id, key_wrapper_id, target_kms1_key_id, target_kms2_key_id, target_layers::pg_catalog.text, attempts, max_attempts
     FROM kms_wrap.rewrap_jobs
     WHERE id OPERATOR(pg_catalog.=) ANY ($1) AND COALESCE(status, '') OPERATOR(pg_catalog.=) 'running' AND lease_owner OPERATOR(pg_catalog.=) $2
     ORDER BY id";

/// The jobs that this session holds.
pub(crate) fn leased() -> Result<Vec<Job>, Failure> {
    let claimed = CLAIMED.with_borrow(Clone::clone);
    if claimed.is_empty() {
        return Ok(Vec::new());
    }
    spi::select(LEASED, &[claimed.into(), owner()?.into()], read)
}

fn read(row: &mut Row) -> Result<Job, Failure> {
    Ok(Job {
        id: row.next()?,
        wrapper: row.next()?,
        target_kms1: row.opt()?,
        target_kms2: row.opt()?,
        // What cannot be read names no target: the job fails with that reason.
        target_layers: row.opt::<String>()?.and_then(|text| serde_json::from_str(&text).ok()),
        attempts: row.next()?,
        max_attempts: row.next()?,
    })
}

/// How a job ended, or when it is tried again.
#[derive(Debug, Clone)]
pub(crate) enum Verdict {
    Done,
    Retry(String),
    Failed(String),
}

// Only jobs that are still leased to this session: a lease that ran out has been given to somebody else. COALESCE keeps the planner from reading a
// partial index of all open jobs, of which old statistics know nothing, instead of the primary key.
const RECORD: &str = "WITH r AS (
       UPDATE kms_wrap.rewrap_jobs j
       SET status = v.status, last_error = v.error, lease_owner = NULL, lease_until = NULL,
           finished_at = CASE WHEN v.status OPERATOR(pg_catalog.=) 'pending' THEN NULL ELSE pg_catalog.now() END,
           next_attempt_at = CASE WHEN v.status OPERATOR(pg_catalog.<>) 'pending' THEN j.next_attempt_at
             ELSE pg_catalog.now() OPERATOR(pg_catalog.+) pg_catalog.make_interval(secs =>
                  LEAST(300, pg_catalog.power(2::pg_catalog.float8, LEAST(j.attempts, 20)::pg_catalog.float8 OPERATOR(pg_catalog.-) 1::pg_catalog.float8))
                  OPERATOR(pg_catalog.*) (0.5 OPERATOR(pg_catalog.+) pg_catalog.random())) END
       FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3)) AS v (id, status, error)
       WHERE j.id OPERATOR(pg_catalog.=) v.id AND COALESCE(j.status, '') OPERATOR(pg_catalog.=) 'running' AND j.lease_owner OPERATOR(pg_catalog.=) $4
       RETURNING j.campaign_id, j.status, j.last_error)
     UPDATE kms_wrap.rewrap_campaigns c
     SET done = c.done OPERATOR(pg_catalog.+) s.done, failed = c.failed OPERATOR(pg_catalog.+) s.failed,
         last_error = COALESCE(s.error, c.last_error)
     FROM (SELECT r.campaign_id, pg_catalog.count(*) FILTER (WHERE r.status OPERATOR(pg_catalog.=) 'done') AS done,
                  pg_catalog.count(*) FILTER (WHERE r.status OPERATOR(pg_catalog.=) 'failed') AS failed,
                  pg_catalog.max(r.last_error) AS error FROM r GROUP BY r.campaign_id) s
     WHERE c.id OPERATOR(pg_catalog.=) s.campaign_id";

/// Records what became of leased jobs and gives the leases back.
pub(crate) fn record(verdicts: &[(i64, Verdict)]) -> Result<(), Failure> {
    let ids: Vec<i64> = verdicts.iter().map(|(id, _)| *id).collect();
    let (mut statuses, mut errors) = (Vec::new(), Vec::new());
    for (_, verdict) in verdicts {
        let (status, error) = match verdict {
            Verdict::Done => ("done", None),
            Verdict::Retry(why) => ("pending", Some(why.clone())),
            Verdict::Failed(why) => ("failed", Some(why.clone())),
        };
        statuses.push(status);
        errors.push(error);
    }
    let recorded: HashSet<i64> = ids.iter().copied().collect();
    spi::execute(RECORD, &[ids.into(), statuses.into(), errors.into(), owner()?.into()])?;
    CLAIMED.with_borrow_mut(|claimed| claimed.retain(|id| !recorded.contains(id)));
    Ok(())
}
