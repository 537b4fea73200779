//! A double of AWS KMS, STS and the instance metadata service: real cryptography, signatures that are verified, and errors as the API reference
//! words them. It runs as tasks of the test's own runtime, so that threads can be counted while it answers.

use aes_gcm::{
    Aes256Gcm, KeyInit,
    aead::{Aead, Payload},
};
use aws_lc_rs::{
    encoding::{AsDer, PublicKeyX509Der},
    rsa::{KeySize, OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, PrivateDecryptingKey},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, Mac};
use kms_wrap::{
    core::{kem::PrivateKey, suite::Algorithm},
    provider::spki,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap, VecDeque},
    rc::Rc,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

pub(crate) const REGION: &str = "eu-west-1";
const ACCOUNT: &str = "arn:aws:kms:eu-west-1:111122223333:";

pub(crate) enum Material {
    Symmetric([u8; 32]),
    Rsa { private: Box<OaepPrivateDecryptingKey>, spki: Vec<u8> },
    Kem(Algorithm, Box<PrivateKey>),
}

pub(crate) struct Key {
    pub(crate) material: Material,
    pub(crate) state: &'static str,
}

/// What happens to the next request instead of an answer.
#[derive(Clone)]
pub(crate) enum Fault {
    /// An error of the API.
    Error(u16, &'static str, &'static str),
    /// These bytes with this status.
    Raw(u16, &'static str),
    /// The answer with a field set to another value.
    Field(&'static str, Value),
    /// The answer without a field.
    Without(&'static str),
    /// No answer.
    Hang,
    /// Answers, but later.
    Delay(u64),
}

pub(crate) struct Identity {
    pub(crate) secret: String,
    pub(crate) token: Option<String>,
    pub(crate) expired: bool,
    pub(crate) allowed: bool,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) keys: RefCell<BTreeMap<String, Key>>,
    pub(crate) aliases: RefCell<HashMap<String, String>>,
    pub(crate) identities: RefCell<HashMap<String, Identity>>,
    pub(crate) faults: RefCell<VecDeque<Fault>>,
    /// Actions in the order of their requests.
    pub(crate) log: RefCell<Vec<String>>,
    pub(crate) most_at_once: Cell<usize>,
    /// Seconds that the double's clock is ahead.
    pub(crate) ahead: Cell<i64>,
    /// Seconds that keys of STS and of the metadata service last.
    pub(crate) lifetime: Cell<i64>,
    at_once: Cell<usize>,
    issued: Cell<usize>,
}

pub(crate) struct Double {
    pub(crate) url: String,
    pub(crate) state: Rc<State>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Double {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) fn arn(id: &str) -> String {
    format!("{ACCOUNT}key/{id}")
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

impl Double {
    /// Starts listening; needs a `LocalSet`.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Rc::new(State::default());
        state.lifetime.set(3600);
        let shared = Rc::clone(&state);
        let task = tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::task::spawn_local(serve(stream, Rc::clone(&shared)));
            }
        });
        Self { url, state, task }
    }

    /// Makes a key, and gives its ARN.
    pub(crate) fn key(&self, material: Material) -> String {
        let r = hex::encode(random::<16>());
        let id = format!("{}-{}-{}-{}-{}", &r[..8], &r[8..12], &r[12..16], &r[16..20], &r[20..]);
        self.state.keys.borrow_mut().insert(arn(&id), Key { material, state: "Enabled" });
        arn(&id)
    }

    pub(crate) fn symmetric(&self) -> String {
        self.key(Material::Symmetric(random()))
    }

    pub(crate) fn rsa(&self) -> String {
        let private = PrivateDecryptingKey::generate(KeySize::Rsa2048).unwrap();
        let spki: PublicKeyX509Der<'_> = private.public_key().as_der().unwrap();
        let spki = spki.as_ref().to_vec();
        self.key(Material::Rsa { private: Box::new(OaepPrivateDecryptingKey::new(private).unwrap()), spki })
    }

    pub(crate) fn kem(&self, algorithm: Algorithm) -> String {
        self.key(Material::Kem(algorithm, Box::new(PrivateKey::from_seed(algorithm, &random::<64>()).unwrap())))
    }

    pub(crate) fn set_state(&self, arn: &str, state: &'static str) {
        self.state.keys.borrow_mut().get_mut(arn).unwrap().state = state;
    }

    pub(crate) fn fault(&self, fault: Fault) {
        self.state.faults.borrow_mut().push_back(fault);
    }

    pub(crate) fn identity(&self, id: &str, secret: &str, token: Option<&str>) {
        let identity = Identity { secret: secret.to_owned(), token: token.map(str::to_owned), expired: false, allowed: true };
        self.state.identities.borrow_mut().insert(id.to_owned(), identity);
    }

    /// How many requests of an action came.
    pub(crate) fn count(&self, action: &str) -> usize {
        self.state.log.borrow().iter().filter(|a| *a == action).count()
    }
}

struct Request {
    line: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

async fn read(stream: &mut TcpStream) -> Option<Request> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let text = String::from_utf8(bytes[..head].to_vec()).ok()?;
    let mut lines = text.split("\r\n");
    let line = lines.next()?.to_owned();
    let headers: BTreeMap<_, _> =
        lines.filter_map(|l| l.split_once(':')).map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned())).collect();
    let len: usize = headers.get("content-length").and_then(|v| v.parse().ok()).unwrap_or(0);
    let mut body = bytes.split_off(head + 4);
    while body.len() < len {
        if stream.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    Some(Request { line, headers, body })
}

async fn serve(mut stream: TcpStream, state: Rc<State>) {
    while let Some(request) = read(&mut stream).await {
        state.at_once.set(state.at_once.get() + 1);
        state.most_at_once.set(state.most_at_once.get().max(state.at_once.get()));
        // Other requests get their turn, so that they are under way together.
        tokio::task::yield_now().await;
        let fault = state.faults.borrow_mut().pop_front();
        let (mut status, mut body) = answer(&request, &state);
        match fault {
            Some(Fault::Error(s, code, message)) => (status, body) = error(s, code, message),
            Some(Fault::Raw(s, text)) => (status, body) = (s, text.to_owned()),
            Some(Fault::Field(name, value)) => {
                let mut json: Value = serde_json::from_str(&body).unwrap();
                json[name] = value;
                body = json.to_string();
            }
            Some(Fault::Without(name)) => {
                let mut json: Value = serde_json::from_str(&body).unwrap();
                json.as_object_mut().unwrap().remove(name).unwrap();
                body = json.to_string();
            }
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Delay(ms)) => tokio::time::sleep(std::time::Duration::from_millis(ms)).await,
            None => {}
        }
        state.at_once.set(state.at_once.get() - 1);
        let location = if status == 307 { "location: http://127.0.0.1:1/\r\n" } else { "" };
        let head =
            format!("HTTP/1.1 {status} x\r\ncontent-type: application/x-amz-json-1.1\r\n{location}content-length: {}\r\n\r\n", body.len());
        if stream.write_all(head.as_bytes()).await.is_err() || stream.write_all(body.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn error(status: u16, code: &str, message: &str) -> (u16, String) {
    (status, json!({"__type": code, "message": message}).to_string())
}

fn now(state: &State) -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    i64::try_from(now).unwrap() + state.ahead.get()
}

fn answer(request: &Request, state: &Rc<State>) -> (u16, String) {
    let mut words = request.line.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let Some(target) = request.headers.get("x-amz-target") else {
        return if method == "POST" { sts(request, state) } else { metadata(method, path, request, state) };
    };
    let action = target.strip_prefix("TrentService.").unwrap_or_default().to_owned();
    state.log.borrow_mut().push(action.clone());
    if let Err(refused) = authenticate(request, &action, state) {
        return refused;
    }
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    match act(&action, &body, state) {
        Ok(answer) => (200, answer.to_string()),
        Err((code, message)) => error(400, code, message),
    }
}

type Refused = (&'static str, &'static str);

fn act(action: &str, body: &Value, state: &State) -> Result<Value, Refused> {
    if action == "ListKeys" {
        let keys: Vec<_> = state.keys.borrow().keys().take(1).map(|arn| json!({"KeyArn": arn})).collect();
        return Ok(json!({"Keys": keys, "Truncated": true}));
    }
    let name = body["KeyId"].as_str().unwrap();
    let arn =
        state.aliases.borrow().get(name).cloned().unwrap_or_else(|| if name.starts_with("arn:") { name.to_owned() } else { arn(name) });
    let keys = state.keys.borrow();
    let key = keys.get(&arn).ok_or(("NotFoundException", "Key does not exist"))?;
    if action == "DescribeKey" {
        let (spec, usage, schemes) = match &key.material {
            Material::Symmetric(_) => ("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT", json!(["SYMMETRIC_DEFAULT"])),
            Material::Rsa { .. } => ("RSA_2048", "ENCRYPT_DECRYPT", json!(["RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256"])),
            Material::Kem(Algorithm::MlKem768, _) => ("ML_KEM_768", "ENCAPSULATE_DECAPSULATE", Value::Null),
            Material::Kem(..) => ("ML_KEM_1024", "ENCAPSULATE_DECAPSULATE", Value::Null),
        };
        let metadata = json!({"Arn": arn, "KeyId": arn.rsplit('/').next(), "KeySpec": spec, "KeyUsage": usage, "KeyState": key.state,
            "Enabled": key.state == "Enabled", "EncryptionAlgorithms": schemes});
        return Ok(json!({"KeyMetadata": metadata}));
    }
    match key.state {
        "Enabled" => {}
        "Disabled" => return Err(("DisabledException", "arn is disabled.")),
        _ => return Err(("KMSInvalidStateException", "arn is pending deletion.")),
    }
    let bytes = |field: &str| STANDARD.decode(body[field].as_str().unwrap()).unwrap();
    let usage = ("InvalidKeyUsageException", "The request was rejected because of the key's usage.");
    let invalid = ("InvalidCiphertextException", "");
    let scheme = body["EncryptionAlgorithm"].as_str().unwrap_or("SYMMETRIC_DEFAULT");
    // A sorted map, so its JSON is canonical.
    let context = serde_json::from_value::<BTreeMap<String, String>>(body["EncryptionContext"].clone()).unwrap_or_default();
    let aad = serde_json::to_vec(&context).unwrap();
    let id = arn.rsplit('/').next().unwrap();
    match (action, &key.material) {
        ("Encrypt", Material::Symmetric(secret)) => {
            let plaintext = bytes("Plaintext");
            if plaintext.is_empty() || plaintext.len() > 4096 {
                return Err(("ValidationException", "1 validation error detected"));
            }
            let nonce = random::<12>();
            let cipher = Aes256Gcm::new(&(*secret).into());
            let sealed = cipher.encrypt(&nonce.into(), Payload { msg: &plaintext, aad: &aad }).unwrap();
            let blob = [id.as_bytes(), &nonce, &sealed].concat();
            Ok(json!({"KeyId": arn, "CiphertextBlob": STANDARD.encode(blob), "EncryptionAlgorithm": scheme}))
        }
        ("Decrypt", Material::Symmetric(secret)) => {
            let blob = bytes("CiphertextBlob");
            if blob.is_empty() || blob.len() > 6144 {
                return Err(("ValidationException", "1 validation error detected"));
            }
            let (of, rest) = blob.split_at_checked(36).ok_or(invalid)?;
            let (nonce, sealed) = rest.split_first_chunk::<12>().ok_or(invalid)?;
            if of != id.as_bytes() {
                let known = keys.keys().any(|k| k.as_bytes().ends_with(of));
                let unknown = "The ciphertext refers to a customer master key that does not exist, does not exist in this region, or you are not \
                               allowed to access.";
                return Err(if known { ("IncorrectKeyException", "") } else { ("AccessDeniedException", unknown) });
            }
            let cipher = Aes256Gcm::new(&(*secret).into());
            let plaintext = cipher.decrypt(nonce.into(), Payload { msg: sealed, aad: &aad }).map_err(|_| invalid)?;
            Ok(json!({"KeyId": arn, "Plaintext": STANDARD.encode(plaintext), "EncryptionAlgorithm": scheme}))
        }
        ("Decrypt", Material::Rsa { private, .. }) => {
            if !body["EncryptionContext"].is_null() {
                return Err(("ValidationException", "Asymmetric keys take no encryption context."));
            }
            let oaep = match scheme {
                "RSAES_OAEP_SHA_256" => &OAEP_SHA256_MGF1SHA256,
                "RSAES_OAEP_SHA_1" => &OAEP_SHA1_MGF1SHA1,
                _ => return Err(usage),
            };
            let mut out = vec![0; private.min_output_size()];
            let plaintext = private.decrypt(oaep, &bytes("CiphertextBlob"), &mut out, None).map_err(|_| invalid)?;
            Ok(json!({"KeyId": arn, "Plaintext": STANDARD.encode(plaintext), "EncryptionAlgorithm": scheme}))
        }
        ("GetPublicKey", Material::Rsa { spki, .. }) => {
            Ok(json!({"KeyId": arn, "PublicKey": STANDARD.encode(spki), "KeySpec": "RSA_2048", "KeyUsage": "ENCRYPT_DECRYPT"}))
        }
        ("GetPublicKey", Material::Kem(algorithm, private)) => {
            let der = spki::to_der(*algorithm, &private.encapsulation_key()).unwrap();
            Ok(json!({"KeyId": arn, "PublicKey": STANDARD.encode(der), "KeyUsage": "ENCAPSULATE_DECAPSULATE"}))
        }
        ("GetPublicKey", Material::Symmetric(_)) => Err(("UnsupportedOperationException", "")),
        ("Decapsulate", Material::Kem(_, private)) => {
            assert_eq!(body["EncapsulationAlgorithm"], "ML_KEM");
            let secret = private.decapsulate(&bytes("SharedSecretCiphertextBlob")).ok_or(invalid)?;
            Ok(json!({"KeyId": arn, "SharedSecret": STANDARD.encode(secret.expose()), "EncapsulationAlgorithm": "ML_KEM"}))
        }
        _ => Err(usage),
    }
}

fn hmac(key: &[u8], data: &[u8]) -> Vec<u8> {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).unwrap();
    mac.update(data);
    mac.finalize().into_bytes().to_vec()
}

/// Signature Version 4, written from its specification and not with the signer's own crate.
fn authenticate(request: &Request, action: &str, state: &State) -> Result<(), (u16, String)> {
    let missing = || error(400, "MissingAuthenticationTokenException", "Missing Authentication Token");
    let header = request.headers.get("authorization").ok_or_else(missing)?;
    let part = |name: &str| header.split([' ', ',']).find_map(|p| p.strip_prefix(name)).ok_or_else(missing);
    let (credential, signed, signature) = (part("Credential=")?, part("SignedHeaders=")?, part("Signature=")?);
    let (id, scope) = credential.split_once('/').ok_or_else(missing)?;
    let unknown = || error(400, "UnrecognizedClientException", "The security token included in the request is invalid.");
    let identities = state.identities.borrow();
    let identity = identities.get(id).ok_or_else(unknown)?;
    if request.headers.get("x-amz-security-token") != identity.token.as_ref() {
        return Err(unknown());
    }
    if identity.expired {
        return Err(error(400, "ExpiredTokenException", "The security token included in the request is expired"));
    }
    for needed in ["host", "x-amz-date", "x-amz-target", "content-type"] {
        assert!(signed.split(';').any(|name| name == needed), "{needed} is not signed");
    }
    assert!(identity.token.is_none() || signed.contains("x-amz-security-token"));
    let canonical_headers: String = signed.split(';').flat_map(|name| [name, ":", request.headers[name].as_str(), "\n"]).collect();
    let digest = |bytes: &[u8]| hex::encode(Sha256::digest(bytes));
    let canonical = format!("POST\n/\n\n{canonical_headers}\n{signed}\n{}", digest(&request.body));
    let date = &request.headers["x-amz-date"];
    let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", digest(canonical.as_bytes()));
    let mut key = format!("AWS4{}", identity.secret).into_bytes();
    for part in scope.split('/') {
        key = hmac(&key, part.as_bytes());
    }
    assert_eq!(scope, format!("{}/{REGION}/kms/aws4_request", &date[..8]));
    if hex::encode(hmac(&key, text.as_bytes())) != signature {
        let message = "The request signature we calculated does not match the signature you provided.";
        return Err(error(400, "InvalidSignatureException", message));
    }
    if (now(state) - seconds(date)).abs() > 300 {
        return Err(error(400, "InvalidSignatureException", "Signature expired: 1 is now earlier than 2 (3 - 5 min.)"));
    }
    if !identity.allowed {
        let message =
            "User: arn:aws:iam::111122223333:user/u is not authorized to perform: kms:x because no identity-based policy allows it";
        return Err(error(400, "AccessDeniedException", message));
    }
    assert!(!action.is_empty());
    Ok(())
}

/// Seconds since 1970 of 20260131T235959Z.
fn seconds(date: &str) -> i64 {
    let n = |range: std::ops::Range<usize>| date[range].parse::<i64>().unwrap();
    days(n(0..4), n(4..6), n(6..8)) * 86400 + n(9..11) * 3600 + n(11..13) * 60 + n(13..15)
}

fn days(year: i64, month: i64, day: i64) -> i64 {
    let (y, m) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    y * 365 + y / 4 - y / 100 + y / 400 + (m * 153 + 2) / 5 + day - 1 - 719_468
}

fn iso(time: i64) -> String {
    let (mut year, mut day) = (1970, time.div_euclid(86400));
    while day >= days(year + 1, 1, 1) - days(year, 1, 1) {
        day -= days(year + 1, 1, 1) - days(year, 1, 1);
        year += 1;
    }
    let start = days(year, 1, 1);
    let month = (1..=12).rev().find(|m| days(year, *m, 1) - start <= day).unwrap();
    let day = day - (days(year, month, 1) - start) + 1;
    let rest = time.rem_euclid(86400);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// New temporary keys, known to the double from now on.
fn issue(state: &State) -> (String, String, String, String) {
    state.issued.set(state.issued.get() + 1);
    let n = state.issued.get();
    let (id, secret, token) = (format!("ASIA{n}"), hex::encode(random::<20>()), format!("token+/{n}=="));
    let identity = Identity { secret: secret.clone(), token: Some(token.clone()), expired: false, allowed: true };
    state.identities.borrow_mut().insert(id.clone(), identity);
    (id, secret, token, iso(now(state) + state.lifetime.get()))
}

fn sts(request: &Request, state: &State) -> (u16, String) {
    state.log.borrow_mut().push("AssumeRoleWithWebIdentity".to_owned());
    let form: HashMap<_, _> = url::form_urlencoded::parse(&request.body).into_owned().collect();
    let role_fits = form["RoleArn"] == "arn:aws:iam::111122223333:role/wrap";
    if form["Action"] != "AssumeRoleWithWebIdentity" || form["Version"] != "2011-06-15" || !role_fits || form["RoleSessionName"].is_empty()
    {
        return (403, "<ErrorResponse><Error><Code>AccessDenied</Code><Message>secret words</Message></Error></ErrorResponse>".to_owned());
    }
    if form["WebIdentityToken"] != "eyJ.web+identity/token.x=" {
        let xml = "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type><Code>InvalidIdentityToken</Code>\
                   <Message>secret words</Message></Error></ErrorResponse>";
        return (400, xml.to_owned());
    }
    let (id, secret, token, expires) = issue(state);
    let xml = format!(
        "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleWithWebIdentityResult>\
         <SubjectFromWebIdentityToken>s</SubjectFromWebIdentityToken><Credentials><SessionToken>{token}</SessionToken>\
         <SecretAccessKey>{secret}</SecretAccessKey><Expiration>{expires}</Expiration><AccessKeyId>{id}</AccessKeyId></Credentials>\
         </AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
    );
    (200, xml)
}

fn metadata(method: &str, path: &str, request: &Request, state: &State) -> (u16, String) {
    const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
    state.log.borrow_mut().push(format!("{method} {path}"));
    let has = |name: &str, value: &str| request.headers.get(name).is_some_and(|v| v == value);
    match (method, path) {
        ("PUT", "/latest/api/token") if request.headers.contains_key("x-aws-ec2-metadata-token-ttl-seconds") => {
            (200, "IMDS-TOKEN==".to_owned())
        }
        _ if !has("x-aws-ec2-metadata-token", "IMDS-TOKEN==") => (401, "secret words".to_owned()),
        ("GET", ROLES) => (200, "wrap-role".to_owned()),
        ("GET", "/latest/meta-data/iam/security-credentials/wrap-role") => {
            let (id, secret, token, expires) = issue(state);
            let answer = json!({"Code": "Success", "Type": "AWS-HMAC", "LastUpdated": "2026-01-01T00:00:00Z", "AccessKeyId": id,
                "SecretAccessKey": secret, "Token": token, "Expiration": expires});
            (200, answer.to_string())
        }
        _ => (404, "secret words".to_owned()),
    }
}
