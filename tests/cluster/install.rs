//! Dropping and creating again, and pg_upgrade.

use crate::fixture::{assert_all_open, install, next_key, progress, quickstarted, schedule, worker, wrap};
use crate::harness::{Cluster, wait_until};

const DB: &str = "postgres";

#[test]
fn drops_with_all_that_depends_and_comes_back() {
    let cluster = quickstarted(&[("shared_preload_libraries", "")]);
    let mut session = cluster.session(DB);
    for round in 0..3 {
        wrap(&cluster, DB, 20);
        // The same session throughout: nothing that it remembers may outlive the extension.
        let open = "SELECT count(*) FROM public.deks WHERE sha256(kms_wrap.kw_unwrap(wrapper, context)) = sha256";
        assert_eq!(session.query(open).unwrap(), "20", "round {round}");
        let depending = "CREATE VIEW public.health AS SELECT * FROM kms_wrap.kw_health();
             CREATE VIEW public.progress AS SELECT * FROM kms_wrap.kw_rewrap_progress;
             CREATE TABLE public.defaults (id uuid DEFAULT kms_wrap.kw_wrap_dek());
             CREATE TABLE public.refers (id bigint REFERENCES kms_wrap.key_wrappers);
             INSERT INTO public.refers SELECT id FROM kms_wrap.key_wrappers";
        session.query(depending).unwrap();
        assert_eq!(session.query("DROP EXTENSION kms_wrap").unwrap_err().sqlstate, "2BP01");
        session.query("DROP EXTENSION kms_wrap CASCADE").unwrap();
        assert_eq!(session.query("SELECT to_regclass('public.health'), to_regclass('public.progress')").unwrap(), "|");
        let left = "SELECT (SELECT count(*) FROM pg_proc WHERE pronamespace = 'kms_wrap'::regnamespace)
                         + (SELECT count(*) FROM pg_class WHERE relnamespace = 'kms_wrap'::regnamespace)
                         + (SELECT count(*) FROM pg_type WHERE typnamespace = 'kms_wrap'::regnamespace)";
        assert_eq!(session.query(left).unwrap(), "0");
        assert_eq!(session.query("SELECT count(*) FROM public.refers").unwrap(), "20");
        session.query("DROP TABLE public.defaults, public.refers, public.deks").unwrap();
        // The root key files are still there, and are taken over.
        install(&cluster, DB);
    }
}

#[test]
fn pg_upgrade_by_copy_keeps_everything() {
    upgrade(&[]);
}

#[test]
fn pg_upgrade_by_link_keeps_everything() {
    upgrade(&["--link"]);
}

fn upgrade(options: &[&str]) {
    // The key files come last, and the worker soon finds that the providers are back.
    let settings = [("shared_preload_libraries", "kms_wrap"), ("kms_wrap.worker_databases", "postgres"), ("kms_wrap.health_interval", "1")];
    let old = quickstarted(&settings);
    wrap(&old, DB, 100);
    // Half of a campaign is done when the server stops.
    let key = next_key(&old, DB);
    let campaign = schedule(&old, DB, &key, ", rate_per_second => 20");
    wait_until("the campaign is under way", || progress(&old, DB, &campaign) != "running|100|0|0|0");
    old.psql(&format!("SELECT kms_wrap.kw_pause({campaign})")).unwrap();
    old.wait_for("SELECT count(*) FROM kms_wrap.rewrap_jobs WHERE status = 'running'", "0");
    let sql = "SELECT md5(string_agg(w::text, ',' ORDER BY id)) FROM kms_wrap.key_wrappers w";
    let before = (old.psql(sql).unwrap(), progress(&old, DB, &campaign));
    old.down();

    let new = Cluster::start(&settings);
    new.down();
    let bindir = Cluster::bindir();
    let place = new.make_dir("up");
    let (from, to) = (old.data(), new.data());
    let mut arguments = vec!["-b", &bindir, "-B", &bindir, "-d", &from, "-D", &to, "-s", &place, "-U", "postgres"];
    arguments.extend(options);
    // It writes scripts to the directory it is started in.
    new.run_in(&place, "pg_upgrade", &arguments);
    new.up();
    assert_eq!(new.psql("SELECT extversion FROM pg_extension WHERE extname = 'kms_wrap'").unwrap().lines().count(), 1);
    assert_eq!((new.psql(sql).unwrap(), progress(&new, DB, &campaign)), before);
    assert_eq!(new.psql("SELECT count(*) FROM kms_wrap.kw_verify() WHERE sqlstate = '58000'").unwrap(), "100");
    new.copy_keys_from(&old);
    assert_all_open(&new, DB);
    worker(&new, DB);
    new.psql(&format!("SELECT kms_wrap.kw_resume({campaign})")).unwrap();
    wait_until("the campaign is done", || progress(&new, DB, &campaign) == "done|100|100|0|0");
    wrap(&new, DB, 10);
    assert_all_open(&new, DB);
    assert!(!new.log().contains("ERROR"), "{}", new.log());
}
