//! A cloud's keys in a backend: registered, wrapped and opened under, rewrapped to, refused. The cloud is a double in this process.

#[path = "../providers/aws_double.rs"]
mod aws_double;

use crate::servers::Site;
use aws_double::{Double, REGION};
use kms_wrap::core::suite::Algorithm;
use std::fs;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

const ID: &str = "AKIAEXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

/// The double in a thread of its own.
struct Cloud {
    url: String,
    /// A symmetric key, one more, and an ML-KEM-768 key.
    arns: Vec<String>,
    disable: Sender<String>,
    thread: Option<JoinHandle<()>>,
}

impl Cloud {
    fn start() -> Self {
        let (told, ready) = channel();
        let (disable, disabled) = channel();
        let thread = Some(thread::spawn(move || serve(&told, &disabled)));
        let (url, arns) = ready.recv().unwrap();
        Self { url, arns, disable, thread }
    }

    fn disable(&self, arn: &str) {
        self.disable.send(arn.to_owned()).unwrap();
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        // The thread ends when nobody can tell it anything any more.
        self.disable = channel().0;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(told: &Sender<(String, Vec<String>)>, disabled: &Receiver<String>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let double = Double::start().await;
        double.identity(ID, SECRET, None);
        let arns = vec![double.symmetric(), double.symmetric(), double.kem(Algorithm::MlKem768)];
        told.send((double.url.clone(), arns)).unwrap();
        loop {
            match disabled.try_recv() {
                Ok(arn) => double.set_state(&arn, "Disabled"),
                Err(std::sync::mpsc::TryRecvError::Empty) => tokio::time::sleep(Duration::from_millis(10)).await,
                Err(std::sync::mpsc::TryRecvError::Disconnected) => return,
            }
        }
    });
}

#[test]
fn keys_of_a_cloud_wrap_open_and_make_layers() {
    let (site, cloud) = (Site::start(&[]), Cloud::start());
    let [symmetric, other, kem] = &cloud.arns[..] else { unreachable!() };
    site.credential("aws", format!("[default]\naws_access_key_id = {ID}\naws_secret_access_key = {SECRET}\n").as_bytes());
    let add = |config: &str| format!("SELECT kms_wrap.kw_add_provider('cloud', 'aws', '{config}')");
    let config = format!(r#"{{"region": "{REGION}", "endpoint": "{}", "credentials_file": "aws"}}"#, cloud.url);
    let typo = site.cluster.psql(&add(&config.replace("region", "regin"))).unwrap_err();
    assert_eq!((typo.sqlstate.as_str(), typo.message.contains("\"regi")), ("22023", true), "{}", typo.message);
    site.value(&add(&config));
    let register = |arn: &str, algorithm: &str| format!("SELECT kms_wrap.kw_add_kms_key('cloud', '{arn}', '{algorithm}')");
    assert_eq!(site.sqlstate(&register(&symmetric.replace(|c: char| c.is_ascii_digit(), "0"), "AES-256-GCM")), "42704");
    assert_eq!(site.sqlstate(&register(symmetric, "ML-KEM-768")), "38000", "it is of another algorithm");
    assert_eq!(site.value(&register(symmetric, "AES-256-GCM")), "1005");
    assert_eq!(site.value(&register(other, "AES-256-GCM")), "1006");
    assert_eq!(site.value(&register(kem, "ML-KEM-768")), "1007");

    site.value(
        "SELECT kms_wrap.kw_create_policy('cloud', 'split');
         SELECT kms_wrap.kw_policy_add_key('cloud', s, k, p) FROM (VALUES ('kms1', 1005, 0), ('kms1', 1006, -1), ('kms2', 1004, 0), ('layer', 1007, 0)) v (s, k, p)",
    );
    let mut session = site.cluster.session("postgres");
    let wrapper = session.query("SELECT kms_wrap.kw_wrap_dek('cloud')").unwrap();
    assert_eq!(fs::read_dir(format!("/proc/{}/task", session.pid())).unwrap().count(), 1);
    let digest = format!("SELECT sha256(kms_wrap.kw_unwrap('{wrapper}'))");
    let before = site.value(&digest);
    assert_eq!(site.value(&format!("SELECT kms_wrap.kw_rewrap('{wrapper}', target_kms1 => 1006) > 0")), "t");
    assert_eq!(site.value(&digest), before);
    assert_eq!(site.value("SELECT count(*) FROM kms_wrap.kw_verify() WHERE NOT ok"), "0");
    let values = "SELECT convert_from(kms_wrap.kw_decrypt(kms_wrap.kw_encrypt('x', 'cloud')), 'UTF8')";
    assert_eq!(site.value(values), "x");
    assert_eq!(site.value("SELECT string_agg(DISTINCT status, ',') FROM kms_wrap.kw_check_health('cloud')"), "up");

    // Disabled at the cloud: refused, which is no outage, and the reason is ours.
    cloud.disable(other);
    crate::harness::wait_until("it is disabled", || site.sqlstate(&digest) == "38000");
    let refused = site.cluster.psql(&digest).unwrap_err();
    assert!(!refused.detail.contains("arn is disabled") && !refused.detail.contains(SECRET), "{}", refused.detail);
    assert_eq!(site.value("SELECT status FROM kms_wrap.kw_check_health('cloud') WHERE kms_key_id = 1006"), "down");
}
