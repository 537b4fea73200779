//! Nothing is lost: processes are killed at random points of a campaign, and afterwards every DEK is what it was.
//!
//! `KMS_WRAP_SEED` repeats a run's random choices.

use std::fs;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::fixture::{assert_all_open, next_key, progress, quickstarted, schedule, worker, wrap};
use crate::harness::{Cluster, Session, wait_until};
use crate::process::{is_alive, kill};

const WRAPPERS: u32 = 20_000;
const KILLS: u64 = 10;

/// What was written to each wrapper, by a trigger of the test's own.
const WRITES: &str = "CREATE TABLE public.writes (wrapper bigint, generation bigint);
    CREATE FUNCTION public.note_write() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN INSERT INTO public.writes VALUES (NEW.id, NEW.generation); RETURN NULL; END';
    CREATE TRIGGER note_write AFTER UPDATE ON kms_wrap.key_wrappers FOR EACH ROW EXECUTE FUNCTION public.note_write()";

/// SplitMix64: the same choices for the same seed.
struct Random(u64);

impl Random {
    fn seeded() -> Self {
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| u64::from(time.subsec_nanos()));
        let seed = std::env::var("KMS_WRAP_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(now);
        // Shown when the test fails.
        eprintln!("KMS_WRAP_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

#[test]
fn killed_workers_and_servers_lose_nothing() {
    let mut random = Random::seeded();
    let cluster = quickstarted(&[("shared_preload_libraries", "kms_wrap"), ("kms_wrap.worker_databases", "postgres")]);
    let (key, campaign) = start(&cluster);
    for number in 0..KILLS {
        // A worker that starts after a crash takes up the campaign by itself.
        wait_for_moment(&cluster, &campaign, number, &mut random);
        match number % 5 {
            0 | 2 => cluster.kill_backend(worker(&cluster, "postgres")),
            1 => kill_worker_in_the_middle(&cluster, &mut random),
            3 => {
                cluster.crash();
                cluster.up();
            }
            _ => kill_postmaster_alone(&cluster),
        }
        cluster.wait_until_ready();
    }
    wait_until("the campaign ends", || progress(&cluster, "postgres", &campaign).starts_with("done"));
    check(&cluster, &key, &campaign);
}

#[test]
fn killed_sessions_and_servers_lose_nothing() {
    let mut random = Random::seeded();
    let cluster = quickstarted(&[("shared_preload_libraries", "")]);
    let (key, campaign) = start(&cluster);
    for number in 0..KILLS {
        let sessions = [run_jobs(&cluster), run_jobs(&cluster)];
        wait_for_moment(&cluster, &campaign, number, &mut random);
        if number % 3 == 2 {
            cluster.crash();
            cluster.up();
        } else {
            cluster.kill_backend(sessions[usize::from(random.below(2) == 1)].pid());
        }
        for session in &sessions {
            assert!(session.finish().is_err(), "a session that was killed said that it had done everything");
        }
        cluster.wait_until_ready();
    }
    let sessions = [run_jobs(&cluster), run_jobs(&cluster)];
    for session in &sessions {
        session.finish().unwrap();
    }
    check(&cluster, &key, &campaign);
}

/// Makes the wrappers and a campaign over all of them; gives the target key and the campaign.
fn start(cluster: &Cluster) -> (String, String) {
    wrap(cluster, "postgres", WRAPPERS);
    cluster.psql(WRITES).unwrap();
    let key = next_key(cluster, "postgres");
    let campaign = schedule(cluster, "postgres", &key, "");
    (key, campaign)
}

fn run_jobs(cluster: &Cluster) -> Session {
    let mut session = cluster.session("postgres");
    session.send("CALL kms_wrap.kw_run_jobs(batch_size => 100)");
    session
}

/// Waits for a random point of a part of the campaign: the kills are spread over three quarters of it, so none comes too late.
fn wait_for_moment(cluster: &Cluster, campaign: &str, number: u64, random: &mut Random) {
    let part = u64::from(WRAPPERS) * 3 / 4 / KILLS;
    let wanted = number * part + random.below(part);
    let sql = format!("SELECT done FROM kms_wrap.rewrap_campaigns WHERE id = {campaign}");
    wait_until("the campaign goes on", || cluster.psql(&sql).is_ok_and(|done| done.parse::<u64>().is_ok_and(|done| done >= wanted)));
    thread::sleep(Duration::from_millis(random.below(100)));
    let now = progress(cluster, "postgres", campaign);
    assert!(now.starts_with("running"), "the campaign ended before kill {number}: {now}; more WRAPPERS are needed");
}

/// Two kills in quick succession: the second one meets a server that recovers, or a worker that takes leases back.
fn kill_worker_in_the_middle(cluster: &Cluster, random: &mut Random) {
    cluster.kill_backend(worker(cluster, "postgres"));
    cluster.wait_until_ready();
    let again = worker(cluster, "postgres");
    thread::sleep(Duration::from_millis(random.below(40)));
    if is_alive(again) {
        cluster.kill_backend(again);
    }
}

/// The others have to notice, and leave: as long as one of them is there no server can start in the data directory.
fn kill_postmaster_alone(cluster: &Cluster) {
    let (postmaster, children) = (cluster.postmaster().expect("a running server"), cluster.children());
    kill("KILL", &[postmaster]);
    let start = Instant::now();
    let mut left = children.clone();
    while !left.is_empty() && start.elapsed() < Duration::from_secs(15) {
        thread::sleep(Duration::from_millis(20));
        left.retain(|pid| is_alive(*pid));
    }
    let names: Vec<String> = left
        .iter()
        .map(|pid| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().trim_end_matches(['\0', ' ']).to_owned())
        .collect();
    kill("KILL", &left);
    assert!(left.is_empty(), "still there 15 s after their postmaster: {names:?}");
    // Nothing is left to kill; this clears away what the postmaster could not.
    cluster.crash();
    cluster.up();
}

fn check(cluster: &Cluster, key: &str, campaign: &str) {
    let query = |sql: &str| cluster.psql(sql).unwrap();
    let all = WRAPPERS.to_string();
    assert_eq!(progress(cluster, "postgres", campaign), format!("done|{all}|{all}|0|0"));
    assert_eq!(query(&format!("SELECT finished_at >= started_at FROM kms_wrap.rewrap_campaigns WHERE id = {campaign}")), "t");
    // No job lost, none done twice.
    let jobs = "SELECT count(*), count(DISTINCT key_wrapper_id), count(*) FILTER (WHERE status = 'done' AND finished_at IS NOT NULL),
                       count(lease_owner), count(lease_until) FROM kms_wrap.rewrap_jobs";
    assert_eq!(query(jobs), format!("{all}|{all}|{all}|0|0"));
    assert_eq!(query("SELECT count(*), count(DISTINCT wrapper) FROM public.writes"), format!("{all}|{all}"));
    let wrappers = format!(
        "SELECT count(*), count(DISTINCT generation), count(*) FILTER (WHERE kms1_key_id = {key}),
                count(*) FILTER (WHERE generation = (SELECT w.generation FROM public.writes w WHERE w.wrapper = k.id))
         FROM kms_wrap.key_wrappers k"
    );
    query("CREATE INDEX ON public.writes (wrapper); ANALYZE public.writes");
    assert_eq!(query(&wrappers), format!("{all}|{all}|{all}|{all}"));
    assert_eq!(query("SELECT sum(live) FROM kms_wrap.vw_kms_key_dependents WHERE kms_key_id = 1000"), "0");
    assert_all_open(cluster, "postgres");
    assert!(!cluster.log().contains("PANIC"), "{}", cluster.log());
}
