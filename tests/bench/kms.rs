//! What two KMS cost without `kms_wrap`: a bare HTTP client of OpenBao, bare calls of PKCS#11 and of ML-KEM, floors that `tests/bench/run` compares with.
//!
//! Arguments: OpenBao's address, its CA file, a file with a token, how many calls to make, the PKCS#11 module. Prints `name microseconds`: for a
//! `decrypt` of one share, for `all` that a split wrapper is opened with, for the decrypt and encrypt of one share among `batch`es of 150, for
//! the decrypt alone that a `proof` takes, and for a `c_decrypt` of one share. Each under key "app", with additional data as long as real ones; connections and sessions stay open, and answers
//! are read and thrown away.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::cast_precision_loss,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a benchmark stops at what it did not expect"
)]

use base64::{Engine, engine::general_purpose::STANDARD};
use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    mechanism::{Mechanism, aead::GcmParams},
    object::{Attribute, ObjectClass, ObjectHandle},
    session::{Session, UserType},
    types::{AuthPin, Ulong},
};
use ml_kem::{Decapsulate, ml_kem_768};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::{Value, json};
use std::{env, fs, hint::black_box, pin::pin, sync::Arc, time::Instant};

/// Shares of one request.
const BATCH: usize = 150;

/// Bytes of a wrapper's additional data.
const AAD: [u8; 288] = [0xa5; 288];

fn main() {
    // cargo puts --bench among the arguments.
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let [url, ca, token, calls, module] = &arguments[..] else { unreachable!("five arguments: {arguments:?}") };
    let calls: usize = calls.parse().unwrap();
    let hsm = Hsm::open(module);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().unwrap();
    runtime.block_on(async {
        let client = Client::new(url, ca, token);
        client.time_decrypt(calls).await;
        client.time_all(calls, &hsm).await;
        client.time_batch(calls).await;
    });
    hsm.time_c_decrypt(calls);
}

fn print(name: &str, start: Instant, calls: usize) {
    println!("{name} {:.2}", start.elapsed().as_secs_f64() * 1e6 / calls as f64);
}

/// The same TLS and HTTP as the provider's, and nothing else of it.
struct Client {
    http: reqwest::Client,
    url: String,
    token: String,
}

impl Client {
    fn new(url: &str, ca: &str, token: &str) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
        let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let http = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().http1_only().tcp_nodelay(true).build().unwrap();
        Self { http, url: format!("{url}/v1/transit"), token: fs::read_to_string(token).unwrap().trim().to_owned() }
    }

    async fn post(&self, operation: &str, body: &str) -> Vec<u8> {
        let request = self.http.post(format!("{}/{operation}/app", self.url)).header("X-Vault-Token", &self.token);
        let response = request.body(body.to_owned()).send().await.unwrap();
        assert_eq!(response.status().as_u16(), 200);
        response.bytes().await.unwrap().to_vec()
    }

    /// Bodies that encrypt so many shares, and that decrypt them.
    async fn bodies(&self, shares: usize) -> (String, String) {
        let aad = STANDARD.encode(AAD);
        let plain = json!({"plaintext": STANDARD.encode([7; 32]), "associated_data": aad});
        let encrypt = json!({"batch_input": vec![plain; shares]}).to_string();
        let answer: Value = serde_json::from_slice(&self.post("encrypt", &encrypt).await).unwrap();
        let items = answer["data"]["batch_results"].as_array().unwrap().iter();
        let items: Vec<Value> = items.map(|item| json!({"ciphertext": item["ciphertext"], "associated_data": aad})).collect();
        assert_eq!(items.len(), shares);
        (encrypt, json!({"batch_input": items}).to_string())
    }

    async fn time_decrypt(&self, calls: usize) {
        let (_, body) = self.bodies(1).await;
        let start = Instant::now();
        for _ in 0..calls {
            self.post("decrypt", &body).await;
        }
        print("decrypt", start, calls);
    }

    /// What OpenBao, the token and an ML-KEM-768 key have to do for one wrapper: the latter two while OpenBao answers, as the extension does it.
    async fn time_all(&self, calls: usize, hsm: &Hsm) {
        let (_, body) = self.bodies(1).await;
        let private = ml_kem_768::DecapsulationKey::from_seed([5; 64].into());
        let (ciphertext, _) = private.encapsulation_key().encapsulate_deterministic(&[6; 32].into());
        let start = Instant::now();
        for _ in 0..calls {
            let mut answer = pin!(self.post("decrypt", &body));
            assert!(futures_util::poll!(answer.as_mut()).is_pending());
            // The connection's task sends the request.
            tokio::task::yield_now().await;
            hsm.decrypt();
            black_box(private.decapsulate(&ciphertext));
            answer.await;
        }
        print("all", start, calls);
    }

    async fn time_batch(&self, shares: usize) {
        let (encrypt, decrypt) = self.bodies(BATCH).await;
        let batches = shares.div_ceil(BATCH);
        let start = Instant::now();
        for _ in 0..batches {
            self.post("decrypt", &decrypt).await;
            self.post("encrypt", &encrypt).await;
        }
        print("batch", start, batches * BATCH);
        let start = Instant::now();
        for _ in 0..batches {
            self.post("decrypt", &decrypt).await;
        }
        print("proof", start, batches * BATCH);
    }
}

/// A session with the token that tests/lib/kms.sh made, and a share sealed under its key.
struct Hsm {
    session: Session,
    key: ObjectHandle,
    sealed: Vec<u8>,
}

impl Hsm {
    fn open(module: &str) -> Self {
        let context = Pkcs11::new(module).unwrap();
        context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
        let mut slots = context.get_slots_with_token().unwrap().into_iter();
        let slot = slots.find(|slot| context.get_token_info(*slot).unwrap().label() == "kms").unwrap();
        let session = context.open_ro_session(slot).unwrap();
        session.login(UserType::User, Some(&AuthPin::new("1234".into()))).unwrap();
        let key = session.find_objects(&[Attribute::Label(b"app".to_vec()), Attribute::Class(ObjectClass::SECRET_KEY)]).unwrap()[0];
        let mut iv = [3; 12];
        let sealed = session.encrypt(&Mechanism::AesGcm(GcmParams::new(&mut iv, &AAD, Ulong::new(128)).unwrap()), key, &[7; 32]).unwrap();
        Self { session, key, sealed }
    }

    fn decrypt(&self) {
        let mut iv = [3; 12];
        let gcm = Mechanism::AesGcm(GcmParams::new(&mut iv, &AAD, Ulong::new(128)).unwrap());
        assert_eq!(self.session.decrypt(&gcm, self.key, &self.sealed).unwrap(), [7; 32]);
    }

    fn time_c_decrypt(&self, calls: usize) {
        let start = Instant::now();
        for _ in 0..calls {
            self.decrypt();
        }
        print("c_decrypt", start, calls);
    }
}
