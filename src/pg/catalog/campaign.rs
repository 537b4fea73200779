//! Campaigns: what one schedule call asked for, from queueing its jobs to its end. Every statement is set-based.

use crate::pg::{
    report::Failure,
    spi::{self, Row},
};
use pgrx::{
    JsonB, Uuid,
    datum::{Interval, Time, TimestampWithTimeZone},
};
use serde_json::Value;

/// Which wrappers: every condition that is given must hold.
#[derive(Default)]
pub(crate) struct Selector {
    pub(crate) wrapper: Option<Uuid>,
    pub(crate) from_key: Option<i64>,
    pub(crate) from_provider: Option<i64>,
    pub(crate) policy: Option<i64>,
    pub(crate) older_than: Option<Interval>,
}

/// What a schedule call asks for.
pub(crate) struct NewCampaign {
    pub(crate) selector: Selector,
    pub(crate) target_kms1: Option<i64>,
    pub(crate) target_kms2: Option<i64>,
    pub(crate) target_layers: Option<Value>,
    pub(crate) scheduled_at: Option<TimestampWithTimeZone>,
    pub(crate) rate_per_second: Option<i32>,
    pub(crate) window: Option<(Time, Time)>,
    pub(crate) priority: i32,
}

/// Wrappers `w` that a selector `c` names.
macro_rules! selected {
    () => {
        "(c.wrapper_uuid IS NULL OR w.wrapper_uuid OPERATOR(pg_catalog.=) c.wrapper_uuid)
         AND (c.policy_id IS NULL OR w.policy_id OPERATOR(pg_catalog.=) c.policy_id)
         AND (c.older_than IS NULL OR w.created_at OPERATOR(pg_catalog.<) (pg_catalog.now() OPERATOR(pg_catalog.-) c.older_than))
         AND (c.from_key_id IS NULL OR w.kms1_key_id OPERATOR(pg_catalog.=) c.from_key_id OR w.kms2_key_id OPERATOR(pg_catalog.=) c.from_key_id
              OR EXISTS (SELECT FROM kms_wrap.key_wrapper_layers l
                         WHERE l.key_wrapper_id OPERATOR(pg_catalog.=) w.id AND l.kms_key_id OPERATOR(pg_catalog.=) c.from_key_id))
         AND (c.from_provider_id IS NULL
              OR EXISTS (SELECT FROM kms_wrap.kms_keys k
                         WHERE k.provider_id OPERATOR(pg_catalog.=) c.from_provider_id
                           AND (k.id OPERATOR(pg_catalog.=) w.kms1_key_id OR k.id OPERATOR(pg_catalog.=) w.kms2_key_id
                                OR EXISTS (SELECT FROM kms_wrap.key_wrapper_layers l
                                           WHERE l.key_wrapper_id OPERATOR(pg_catalog.=) w.id
                                             AND l.kms_key_id OPERATOR(pg_catalog.=) k.id))))"
    };
}

/// Wrappers `w` that a selector `c` names and that may be rewrapped. From a key to itself, to its new version, only where the slot has the key.
macro_rules! movable {
    () => {
        concat!(
            "w.status OPERATOR(pg_catalog.=) ANY ('{active,rotated}')
         AND (c.from_key_id IS NULL OR c.target_kms1_key_id IS DISTINCT FROM c.from_key_id OR w.kms1_key_id OPERATOR(pg_catalog.=) c.from_key_id)
         AND (c.from_key_id IS NULL OR c.target_kms2_key_id IS DISTINCT FROM c.from_key_id OR w.kms2_key_id OPERATOR(pg_catalog.=) c.from_key_id)
         AND ",
            selected!()
        )
    };
}

/// The version of a target key, looked up once a statement; NULL where it has none.
macro_rules! version {
    ($key:literal) => {
        concat!("(SELECT k.key_version::pg_catalog.text FROM kms_wrap.kms_keys k WHERE k.id OPERATOR(pg_catalog.=) ", $key, ")")
    };
}

/// One campaign, with what current!() wants to know of it.
macro_rules! campaign {
    () => {
        concat!(
            "SELECT r.*, ",
            version!("r.target_kms1_key_id"),
            " AS kms1_version, ",
            version!("r.target_kms2_key_id"),
            " AS kms2_version FROM kms_wrap.rewrap_campaigns r WHERE r.id OPERATOR(pg_catalog.=) $1"
        )
    };
}

/// Whether wrapper `w` has every target of campaign `c` already, in the key's version. Containers are looked into only for keys that have one.
macro_rules! current {
    () => {
        "((c.target_kms1_key_id IS NULL OR w.kms1_key_id OPERATOR(pg_catalog.=) c.target_kms1_key_id
            AND (c.kms1_version IS NULL OR COALESCE(kms_wrap.kw_key_version_of(w.dek_wrap1), '') OPERATOR(pg_catalog.=) c.kms1_version))
          AND (c.target_kms2_key_id IS NULL OR w.kms2_key_id OPERATOR(pg_catalog.=) c.target_kms2_key_id
            AND (c.kms2_version IS NULL OR COALESCE(kms_wrap.kw_key_version_of(w.dek_wrap2), '') OPERATOR(pg_catalog.=) c.kms2_version))
          AND (c.target_layers IS NULL OR NOT EXISTS (
               SELECT FROM pg_catalog.jsonb_each_text(c.target_layers) t
               LEFT JOIN kms_wrap.key_wrapper_layers l
                 ON l.key_wrapper_id OPERATOR(pg_catalog.=) w.id AND l.layer_no OPERATOR(pg_catalog.=) t.key::pg_catalog.int2
               WHERE l.kms_key_id IS DISTINCT FROM t.value::pg_catalog.int8)))"
    };
}

const INSERT: &str = "INSERT INTO kms_wrap.rewrap_campaigns
       (wrapper_uuid, from_key_id, from_provider_id, policy_id, older_than, target_kms1_key_id, target_kms2_key_id, target_layers,
        scheduled_at, rate_per_second, window_start, window_end, priority)
     VALUES ($1::pg_catalog.text::pg_catalog.bpchar, $2, $3, $4, $5, $6, $7, $8, COALESCE($9, pg_catalog.now()), $10, $11, $12, $13)
     RETURNING id";

// A wrapper gets one job a campaign: one that failed is not tried for ever, and two campaigns cannot pass a wrapper to and fro. A campaign without
// jobs, such as a new one, need not look through those of its predecessors.
const QUEUE: &str = concat!(
    "WITH c AS MATERIALIZED (",
    campaign!(),
    "),
     m AS MATERIALIZED (
       SELECT w.id, ",
    current!(),
    " AS is_current FROM kms_wrap.key_wrappers w, c WHERE ",
    movable!(),
    "),
     j AS (
       INSERT INTO kms_wrap.rewrap_jobs
              (campaign_id, key_wrapper_id, target_kms1_key_id, target_kms2_key_id, target_layers, scheduled_at, priority, max_attempts)
       SELECT c.id, m.id, c.target_kms1_key_id, c.target_kms2_key_id, c.target_layers, c.scheduled_at, c.priority, 10
       FROM m, c
       WHERE NOT m.is_current
         AND (c.total OPERATOR(pg_catalog.=) 0
              OR NOT EXISTS (SELECT FROM kms_wrap.rewrap_jobs o
                             WHERE o.key_wrapper_id OPERATOR(pg_catalog.=) m.id AND o.campaign_id OPERATOR(pg_catalog.=) c.id))
       ORDER BY m.id
       ON CONFLICT (key_wrapper_id) WHERE status OPERATOR(pg_catalog.=) ANY ('{pending,running}') DO NOTHING
       RETURNING 1)
     SELECT (SELECT pg_catalog.count(*) FROM j),
            (SELECT pg_catalog.count(*) FROM m WHERE m.is_current),
            (SELECT pg_catalog.count(*) FROM m, c
             WHERE NOT m.is_current
               AND EXISTS (SELECT FROM kms_wrap.rewrap_jobs o
                           WHERE o.key_wrapper_id OPERATOR(pg_catalog.=) m.id AND o.campaign_id OPERATOR(pg_catalog.<>) c.id
                             AND o.status OPERATOR(pg_catalog.=) ANY ('{pending,running}')))"
);

const IS_ANY_LEFT: &str = concat!(
    "WITH c AS MATERIALIZED (",
    campaign!(),
    ")
     SELECT EXISTS (SELECT FROM kms_wrap.key_wrappers w, c WHERE ",
    movable!(),
    " AND NOT ",
    current!(),
    ")"
);

const COUNT: &str =
    concat!(
    "WITH c AS (SELECT $1::pg_catalog.text::pg_catalog.bpchar AS wrapper_uuid, $2 AS from_key_id, $3 AS from_provider_id, $4 AS policy_id,
                       $5 AS older_than, $6 AS target_kms1_key_id, $7 AS target_kms2_key_id, $8 AS target_layers,
                       ", version!("$6"), " AS kms1_version, ", version!("$7"), " AS kms2_version),
     m AS MATERIALIZED (SELECT ", current!(), " AS is_current FROM kms_wrap.key_wrappers w, c WHERE ", movable!(), ")
     SELECT pg_catalog.count(*) FILTER (WHERE NOT is_current), pg_catalog.count(*) FILTER (WHERE is_current), 0::pg_catalog.int8 FROM m"
);

const SELECT_IDS: &str =
    concat!(
    "WITH c AS (SELECT $1::pg_catalog.text::pg_catalog.bpchar AS wrapper_uuid, $2 AS from_key_id, $3 AS from_provider_id, $4 AS policy_id,
                       $5 AS older_than)
     SELECT w.id FROM kms_wrap.key_wrappers w, c WHERE w.id OPERATOR(pg_catalog.>) $6 AND ", selected!(), " ORDER BY w.id LIMIT $7"
);

const ADD_COUNTS: &str = "UPDATE kms_wrap.rewrap_campaigns
     SET total = total OPERATOR(pg_catalog.+) $2, already_current = already_current OPERATOR(pg_catalog.+) $3 WHERE id OPERATOR(pg_catalog.=) $1";

/// How many wrappers a queueing statement met.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counts {
    /// Got a job.
    pub(crate) queued: i64,
    /// Have every target already.
    pub(crate) current: i64,
    /// Have an open job of another campaign.
    pub(crate) blocked: i64,
}

fn counts(rows: Vec<Counts>) -> Result<Counts, Failure> {
    spi::first(rows).ok_or_else(|| Failure::internal("counts"))
}

fn read_counts(row: &mut Row) -> Result<Counts, Failure> {
    Ok(Counts { queued: row.next()?, current: row.next()?, blocked: row.next()? })
}

/// Stores a campaign and queues its jobs.
pub(crate) fn schedule(new: NewCampaign) -> Result<(i64, Counts), Failure> {
    let (start, end) = new.window.unzip();
    let s = new.selector;
    let args = [
        s.wrapper.into(),
        s.from_key.into(),
        s.from_provider.into(),
        s.policy.into(),
        s.older_than.into(),
        new.target_kms1.into(),
        new.target_kms2.into(),
        new.target_layers.map(JsonB).into(),
        new.scheduled_at.into(),
        new.rate_per_second.into(),
        start.into(),
        end.into(),
        new.priority.into(),
    ];
    let id = spi::first(spi::write(INSERT, &args, |row| row.next())?).ok_or_else(|| Failure::internal("campaign"))?;
    let counts = queue(id)?;
    spi::execute(ADD_COUNTS, &[id.into(), counts.queued.into(), counts.current.into()])?;
    Ok((id, counts))
}

/// What a campaign would do.
pub(crate) fn dry_run(new: &NewCampaign) -> Result<Counts, Failure> {
    let s = &new.selector;
    let args = [
        s.wrapper.into(),
        s.from_key.into(),
        s.from_provider.into(),
        s.policy.into(),
        s.older_than.into(),
        new.target_kms1.into(),
        new.target_kms2.into(),
        new.target_layers.clone().map(JsonB).into(),
    ];
    counts(spi::select(COUNT, &args, read_counts)?)
}

fn queue(campaign: i64) -> Result<Counts, Failure> {
    counts(spi::write(QUEUE, &[campaign.into()], read_counts)?)
}

/// The next ids, after `after`, of the wrappers that a selector names.
pub(crate) fn select_ids(s: &Selector, after: i64, limit: i64) -> Result<Vec<i64>, Failure> {
    let args =
        [s.wrapper.into(), s.from_key.into(), s.from_provider.into(), s.policy.into(), s.older_than.into(), after.into(), limit.into()];
    spi::select(SELECT_IDS, &args, |row| row.next())
}

// Running campaigns without an open job.
const IDLE: &str = "SELECT c.id FROM kms_wrap.rewrap_campaigns c
     WHERE c.status OPERATOR(pg_catalog.=) 'running' AND c.scheduled_at OPERATOR(pg_catalog.<=) pg_catalog.now()
       AND c.next_claim_at OPERATOR(pg_catalog.<=) pg_catalog.now()
       AND NOT EXISTS (SELECT FROM kms_wrap.rewrap_jobs j
                       WHERE j.campaign_id OPERATOR(pg_catalog.=) c.id AND j.status OPERATOR(pg_catalog.=) ANY ('{pending,running}'))
     ORDER BY c.id FOR UPDATE SKIP LOCKED";

// Another session may have queued jobs after IDLE's snapshot; it needed the lock on the campaign that is held now, so they are visible here.
const FINISH: &str = "UPDATE kms_wrap.rewrap_campaigns
     SET status = 'done', finished_at = pg_catalog.now(), started_at = COALESCE(started_at, pg_catalog.now()),
         last_error = COALESCE(last_error, $2)
     WHERE id OPERATOR(pg_catalog.=) $1
       AND NOT EXISTS (SELECT FROM kms_wrap.rewrap_jobs j
                       WHERE j.campaign_id OPERATOR(pg_catalog.=) $1 AND j.status OPERATOR(pg_catalog.=) ANY ('{pending,running}'))";

const LOOK_AGAIN: &str = "UPDATE kms_wrap.rewrap_campaigns
     SET next_claim_at = pg_catalog.now() OPERATOR(pg_catalog.+) '10 seconds'::pg_catalog.interval WHERE id OPERATOR(pg_catalog.=) $1";

// Jobs that a worker gave back, or that were being queued, while their campaign was cancelled.
const SWEEP: &str = "WITH j AS (
       UPDATE kms_wrap.rewrap_jobs SET status = 'cancelled', finished_at = pg_catalog.now()
       WHERE status OPERATOR(pg_catalog.=) 'pending'
         AND campaign_id OPERATOR(pg_catalog.=) ANY (ARRAY(
             SELECT c.id FROM kms_wrap.rewrap_campaigns c WHERE c.status OPERATOR(pg_catalog.=) 'cancelled'))
       RETURNING campaign_id)
     UPDATE kms_wrap.rewrap_campaigns c SET cancelled = c.cancelled OPERATOR(pg_catalog.+) s.n
     FROM (SELECT campaign_id, pg_catalog.count(*) AS n FROM j GROUP BY campaign_id) s WHERE c.id OPERATOR(pg_catalog.=) s.campaign_id";

/// Looks again at running campaigns that have no open job left: queues wrappers that were made or freed since, or ends the campaign. Returns how
/// many jobs were queued.
pub(crate) fn queue_again() -> Result<i64, Failure> {
    spi::execute(SWEEP, &[])?;
    let mut queued = 0;
    for campaign in spi::write(IDLE, &[], |row| row.next::<i64>())? {
        // Wrappers made or freed since the last look; nearly always there is none, which is found out for less.
        let is_any_left = spi::first(spi::select(IS_ANY_LEFT, &[campaign.into()], |row| row.next::<bool>())?).unwrap_or(true);
        let counts = if is_any_left { queue(campaign)? } else { Counts { queued: 0, current: 0, blocked: 0 } };
        queued += counts.queued;
        if counts.queued > 0 {
            spi::execute(ADD_COUNTS, &[campaign.into(), counts.queued.into(), 0_i64.into()])?;
        } else if counts.blocked > 0 {
            spi::execute(LOOK_AGAIN, &[campaign.into()])?;
        } else {
            // Such as those that it moved before a key was set to another version.
            let rest = is_any_left.then_some("some of its wrappers do not have their targets, or not in the version that is set now");
            spi::execute(FINISH, &[campaign.into(), rest.into()])?;
        }
    }
    Ok(queued)
}

const STATUS: &str = "SELECT status FROM kms_wrap.rewrap_campaigns WHERE id OPERATOR(pg_catalog.=) $1";
const PAUSE: &str =
    "UPDATE kms_wrap.rewrap_campaigns SET status = 'paused' WHERE id OPERATOR(pg_catalog.=) $1 AND status OPERATOR(pg_catalog.=) 'running'";
const RESUME: &str =
    "UPDATE kms_wrap.rewrap_campaigns SET status = 'running' WHERE id OPERATOR(pg_catalog.=) $1 AND status OPERATOR(pg_catalog.=) 'paused'";
const CANCEL: &str = "UPDATE kms_wrap.rewrap_campaigns SET status = 'cancelled', finished_at = pg_catalog.now()
     WHERE id OPERATOR(pg_catalog.=) $1 AND status OPERATOR(pg_catalog.=) ANY ('{running,paused}')";

/// A change of a campaign's status that a person asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Change {
    Pause,
    Resume,
    Cancel,
}

/// Pauses, resumes or cancels a campaign.
pub(crate) fn change(campaign: i64, change: Change) -> Result<(), Failure> {
    let status: Option<String> = spi::first(spi::select(STATUS, &[campaign.into()], |row| row.next())?);
    let Some(status) = status else { return Err(Failure::unknown("campaign", campaign)) };
    let (sql, verb) = match change {
        Change::Pause => (PAUSE, "paused"),
        Change::Resume => (RESUME, "resumed"),
        Change::Cancel => (CANCEL, "cancelled"),
    };
    if spi::execute(sql, &[campaign.into()])? == 0 {
        let hint = match status.as_str() {
            "running" => "It is running already.",
            "paused" => "Resume it with kms_wrap.kw_resume or end it with kms_wrap.kw_cancel.",
            _ => "Start a new one with kms_wrap.kw_schedule_rewrap.",
        };
        return Err(Failure::state(format!("campaign {campaign} is {status} and cannot be {verb}"), hint));
    }
    if matches!(change, Change::Cancel) {
        // In a second statement, which sees what was queued up to the moment when the campaign's row was locked.
        spi::execute(SWEEP, &[])?;
    }
    Ok(())
}
