//! Real KMS beside a cluster: an OpenBao server and a SoftHSM token, with the credential files that reach them.

#[path = "../providers/bao.rs"]
pub(crate) mod bao;
#[path = "../providers/fixture.rs"]
pub(crate) mod fixture;

use crate::harness::Cluster;
use crate::process::postgres;
use bao::Bao;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

pub(crate) const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";

/// A cluster that has the extension, `kw_quickstart`'s keys 1000 to 1002 and policy, and beside them providers `bao` (key 1003) and `hsm`
/// (key 1004), on which policies `split` and `redundant` stand. Their layer is local key 1002.
pub(crate) struct Site {
    pub(crate) cluster: Cluster,
    pub(crate) bao: Bao,
}

impl Site {
    pub(crate) fn start(settings: &[(&str, &str)]) -> Self {
        let site = Self::bare(settings);
        site.cluster.psql("CREATE EXTENSION kms_wrap; SELECT FROM kms_wrap.kw_quickstart()").unwrap();
        let sql = format!(
            "SELECT kms_wrap.kw_add_provider('bao', 'openbao', '{}');
             SELECT kms_wrap.kw_add_provider('hsm', 'pkcs11', '{}');
             SELECT kms_wrap.kw_add_kms_key('bao', 'app', 'AES-256-GCM'), kms_wrap.kw_add_kms_key('hsm', 'app', 'AES-256-GCM')",
            site.bao_config(),
            hsm_config(),
        );
        assert!(site.cluster.psql(&sql).unwrap().ends_with("1003|1004"));
        for policy in ["split", "redundant"] {
            let sql = format!(
                "SELECT kms_wrap.kw_create_policy('{policy}', '{policy}');
                 SELECT kms_wrap.kw_policy_add_key('{policy}', s, k) FROM (VALUES ('kms1', 1003), ('kms2', 1004), ('layer', 1002)) v (s, k)"
            );
            site.cluster.psql(&sql).unwrap();
        }
        site
    }

    /// The servers and the credential files, and no extension yet.
    pub(crate) fn bare(settings: &[(&str, &str)]) -> Self {
        let bao = Bao::start();
        bao.key("app", "aes256-gcm96");
        let mut all = vec![("shared_preload_libraries", "kms_wrap"), ("kms_wrap.pkcs11_modules", MODULE)];
        all.extend(settings);
        let cluster = Cluster::empty_with(&all);
        let site = Self { cluster, bao };
        site.cluster.set(&[("kms_wrap.credential_directory", &site.cluster.make_dir("credentials"))]);
        for name in ["ca.pem", "token"] {
            site.credential(name, &fs::read(site.bao.directory.path().join(name)).unwrap());
        }
        site.make_token();
        site.credential("pin", b"1234\n");
        site.cluster.up();
        site
    }

    /// Writes a credential file, as `mv` would.
    pub(crate) fn credential(&self, name: &str, contents: &[u8]) {
        let new = self.cluster.path("credentials/.new");
        fs::write(&new, contents).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
        if let Some((uid, gid)) = postgres().user {
            chown(&new, Some(uid), Some(gid)).unwrap();
        }
        fs::rename(&new, self.cluster.path(&format!("credentials/{name}"))).unwrap();
    }

    pub(crate) fn bao_config(&self) -> String {
        self.bao.config().to_string()
    }

    /// A SoftHSM token of the server's user, whose home is the cluster's directory, with an AES key.
    fn make_token(&self) {
        let tokens = self.cluster.make_dir("tokens");
        let home = self.cluster.make_dir(".config");
        let conf = format!("directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n");
        self.cluster.make_dir(".config/softhsm2");
        fs::write(format!("{home}/softhsm2/softhsm2.conf"), conf).unwrap();
        let init = ["--init-token", "--free", "--label", "kms", "--so-pin", "87654321", "--pin", "1234"];
        self.cluster.run_program(Path::new("softhsm2-util"), &init);
        let key = [
            "--module",
            MODULE,
            "--token-label",
            "kms",
            "-l",
            "-p",
            "1234",
            "--keygen",
            "--key-type",
            "AES:32",
            "--label",
            "app",
            "--id",
            "01",
        ];
        self.cluster.run_program(Path::new("pkcs11-tool"), &key);
    }

    /// One value in a new session.
    pub(crate) fn value(&self, sql: &str) -> String {
        self.cluster.psql(sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// The SQLSTATE that a statement in a new session ends with; empty when it does not fail.
    pub(crate) fn sqlstate(&self, sql: &str) -> String {
        self.cluster.psql(sql).map_or_else(|error| error.sqlstate, |_| String::new())
    }
}

pub(crate) fn hsm_config() -> String {
    format!(r#"{{"module": "{MODULE}", "token_label": "kms", "pin_file": "pin"}}"#)
}
