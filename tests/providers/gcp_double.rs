//! A double of Google Cloud KMS, of Google's token endpoint and of the metadata service: real cryptography, signatures that are verified, and
//! errors as the API reference words them. Google's own client library judges it in [`crate::gcp`].

use crate::web_double::{Reply, Request, Web};
use aes_gcm::{
    Aes256Gcm, KeyInit,
    aead::{Aead, Payload},
};
use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    rsa::{KeyPair, KeySize},
    signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashSet},
    rc::Rc,
};

pub(crate) const PROJECT: &str = "acme-prod";
const EMAIL: &str = "wrap@acme-prod.iam.gserviceaccount.com";

pub(crate) struct Version {
    pub(crate) state: &'static str,
    secret: [u8; 32],
}

pub(crate) struct Key {
    pub(crate) purpose: &'static str,
    pub(crate) algorithm: &'static str,
    pub(crate) versions: Vec<Version>,
    pub(crate) primary: usize,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) keys: RefCell<BTreeMap<String, Key>>,
    /// Access tokens that are valid.
    pub(crate) tokens: RefCell<HashSet<String>>,
    /// Whether the identity may do anything.
    pub(crate) forbidden: Cell<bool>,
    /// Seconds that tokens last.
    pub(crate) lifetime: Cell<u64>,
    /// Seconds that the double's clock is ahead.
    pub(crate) ahead: Cell<u64>,
    /// Public key of the service account.
    public: RefCell<Vec<u8>>,
}

pub(crate) struct Double {
    pub(crate) web: Web,
    pub(crate) state: Rc<State>,
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

impl Double {
    pub(crate) async fn start() -> Self {
        let state = Rc::new(State::default());
        state.lifetime.set(3600);
        let shared = Rc::clone(&state);
        let web = Web::start(move |request: &Request| answer(request, &shared)).await;
        Self { web, state }
    }

    /// Makes a key with one version, and gives its name.
    pub(crate) fn key(&self, purpose: &'static str, algorithm: &'static str) -> String {
        let name = format!("projects/{PROJECT}/locations/europe-west3/keyRings/ring/cryptoKeys/key-{}", hex::encode(random::<4>()));
        self.state.keys.borrow_mut().insert(name.clone(), Key { purpose, algorithm, versions: Vec::new(), primary: 0 });
        self.rotate(&name);
        name
    }

    pub(crate) fn symmetric(&self) -> String {
        self.key("ENCRYPT_DECRYPT", "GOOGLE_SYMMETRIC_ENCRYPTION")
    }

    /// Gives a key a new primary version.
    pub(crate) fn rotate(&self, name: &str) {
        let mut keys = self.state.keys.borrow_mut();
        let key = keys.get_mut(name).unwrap();
        key.versions.push(Version { state: "ENABLED", secret: random() });
        key.primary = key.versions.len();
    }

    pub(crate) fn set_state(&self, name: &str, version: usize, state: &'static str) {
        self.state.keys.borrow_mut().get_mut(name).unwrap().versions[version - 1].state = state;
    }

    /// The file of a new service account key; the older one becomes invalid.
    pub(crate) fn service_account(&self) -> Value {
        let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let der: Pkcs8V1Der<'_> = pair.as_der().unwrap();
        *self.state.public.borrow_mut() = pair.public_key().as_ref().to_vec();
        let text = STANDARD.encode(der.as_ref());
        let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        json!({
            "type": "service_account", "project_id": PROJECT, "private_key_id": "k1", "client_email": EMAIL, "client_id": "1",
            "private_key": format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n")),
            "auth_uri": "https://accounts.google.com/o/oauth2/auth", "token_uri": format!("{}/token", self.web.url),
        })
    }
}

pub(crate) fn error(status: u16, name: &str, message: &str) -> Reply {
    Reply::json(status, &json!({"error": {"code": status, "message": message, "status": name}}))
}

/// CRC-32C by polynomial division, unlike the provider's.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut rest: u32 = 0;
    let bits = bytes.iter().chain(&[0; 4]).enumerate().flat_map(|(i, byte)| {
        let byte = if i < 4 { byte ^ 0xff } else { *byte };
        (0..8).map(move |bit| u32::from(byte >> bit & 1))
    });
    for bit in bits {
        let carry = rest >> 31;
        rest = (rest << 1 | bit) ^ (carry * 0x1edc_6f41);
    }
    !rest.reverse_bits()
}

fn answer(request: &Request, state: &State) -> Reply {
    let path = request.path.split('?').next().unwrap();
    match (request.method.as_str(), path) {
        ("POST", "/token") => token(request, state),
        ("GET", path) if path.starts_with("/computeMetadata/") => metadata(request, path, state),
        _ if !state.tokens.borrow().contains(request.bearer()) => {
            error(401, "UNAUTHENTICATED", "Request had invalid authentication credentials. secret words")
        }
        _ if state.forbidden.get() => error(403, "PERMISSION_DENIED", "Permission denied on resource (or it may not exist). secret words"),
        (method, path) => {
            api(method, path.strip_prefix("/v1/").unwrap_or_default(), &request.body, state).unwrap_or_else(|refused| refused)
        }
    }
}

fn api(method: &str, path: &str, body: &[u8], state: &State) -> Result<Reply, Reply> {
    if (method, path) == ("GET", &format!("projects/{PROJECT}/locations")) {
        return Ok(Reply::json(200, &json!({"locations": []})));
    }
    let missing = || error(404, "NOT_FOUND", &format!("{path} secret words not found."));
    let (resource, verb) = path.rsplit_once(':').unwrap_or((path, ""));
    let (name, number) = resource.split_once("/cryptoKeyVersions/").unwrap_or((resource, ""));
    let keys = state.keys.borrow();
    let key = keys.get(name).ok_or_else(missing)?;
    let number = if number.is_empty() { None } else { Some(number.parse::<usize>().map_err(|_| missing())?) };
    let version = |number: usize| key.versions.get(number.wrapping_sub(1)).ok_or_else(missing);
    let shown = |number: usize, version: &Version| {
        json!({"name": format!("{name}/cryptoKeyVersions/{number}"), "state": version.state, "algorithm": key.algorithm,
            "protectionLevel": "SOFTWARE", "createTime": "2026-01-01T00:00:00Z"})
    };
    let body: Value = if method == "POST" { serde_json::from_slice(body).unwrap() } else { Value::Null };
    let bytes = |field: &str| body[field].as_str().map(|text| STANDARD.decode(text).unwrap()).unwrap_or_default();
    let verified = |field: &str| {
        let sum = &body[format!("{field}Crc32c")];
        // 64-bit numbers are texts in the JSON of Protocol Buffers, and numbers are taken, too.
        let sum = sum.as_str().map(|text| text.parse().unwrap()).or_else(|| sum.as_u64());
        match sum {
            Some(sum) if sum != u64::from(crc32c(&bytes(field))) => Err(error(
                400,
                "INVALID_ARGUMENT",
                &format!("The checksum in field {field}_crc32c did not match the data in field {field}."),
            )),
            sum => Ok(sum.is_some()),
        }
    };
    let usable = |number: usize| {
        let version = version(number)?;
        if version.state == "ENABLED" {
            return Ok(Aes256Gcm::new(&version.secret.into()));
        }
        let message = format!("{name}/cryptoKeyVersions/{number} is not enabled, current state is: {}. secret words", version.state);
        Err(error(400, "FAILED_PRECONDITION", &message))
    };
    if !verb.is_empty() && key.purpose != "ENCRYPT_DECRYPT" {
        return Err(error(400, "FAILED_PRECONDITION", "The key's purpose does not allow it. secret words"));
    }
    let aad = bytes("additionalAuthenticatedData");
    match (method, verb, number) {
        ("GET", "", Some(number)) => Ok(Reply::json(200, &shown(number, version(number)?))),
        ("GET", "", None) => {
            let mut answer = json!({"name": name, "purpose": key.purpose, "createTime": "2026-01-01T00:00:00Z"});
            if key.purpose == "ENCRYPT_DECRYPT" && key.primary > 0 {
                answer["primary"] = shown(key.primary, version(key.primary)?);
            }
            Ok(Reply::json(200, &answer))
        }
        ("POST", "encrypt", number) => {
            let number = number.unwrap_or(key.primary);
            let cipher = usable(number)?;
            let (plain, aads) = (verified("plaintext")?, verified("additionalAuthenticatedData")?);
            let nonce = random::<12>();
            let sealed = cipher.encrypt(&nonce.into(), Payload { msg: &bytes("plaintext"), aad: &aad }).unwrap();
            let blob = [&[0x0a, u8::try_from(number).unwrap()], nonce.as_slice(), &sealed].concat();
            let mut answer = json!({"name": format!("{name}/cryptoKeyVersions/{number}"), "ciphertext": STANDARD.encode(&blob),
                "ciphertextCrc32c": crc32c(&blob).to_string(), "protectionLevel": "SOFTWARE"});
            // A field that is false is left out.
            for (field, verified) in [("verifiedPlaintextCrc32c", plain), ("verifiedAdditionalAuthenticatedDataCrc32c", aads)] {
                if verified {
                    answer[field] = json!(true);
                }
            }
            Ok(Reply::json(200, &answer))
        }
        ("POST", "decrypt", None) => {
            verified("ciphertext")?;
            verified("additionalAuthenticatedData")?;
            let wrong = || error(400, "INVALID_ARGUMENT", "Decryption failed: verify that 'name' refers to the correct CryptoKey.");
            let blob = bytes("ciphertext");
            let (head, sealed) = blob.split_at_checked(14).ok_or_else(wrong)?;
            let number = usize::from(head[1]);
            if head[0] != 0x0a || version(number).is_err() {
                return Err(wrong());
            }
            let nonce: [u8; 12] = head[2..].try_into().unwrap();
            let plaintext = usable(number)?.decrypt(&nonce.into(), Payload { msg: sealed, aad: &aad }).map_err(|_| wrong())?;
            let mut answer = json!({"plaintextCrc32c": crc32c(&plaintext).to_string(), "protectionLevel": "SOFTWARE"});
            if !plaintext.is_empty() {
                answer["plaintext"] = json!(STANDARD.encode(&plaintext));
            }
            if number == key.primary {
                answer["usedPrimary"] = json!(true);
            }
            Ok(Reply::json(200, &answer))
        }
        _ => Err(Reply { status: 404, header: "", body: "<html>secret words</html>".to_owned() }),
    }
}

fn issue(state: &State) -> Reply {
    let token = format!("ya29.{}", hex::encode(random::<8>()));
    state.tokens.borrow_mut().insert(token.clone());
    Reply::json(200, &json!({"access_token": token, "expires_in": state.lifetime.get(), "token_type": "Bearer"}))
}

fn token(request: &Request, state: &State) -> Reply {
    let form = request.form();
    let refuse = |what: &str| Reply::json(400, &json!({"error": "invalid_grant", "error_description": what}));
    if form["grant_type"] != "urn:ietf:params:oauth:grant-type:jwt-bearer" {
        return Reply::json(400, &json!({"error": "unsupported_grant_type"}));
    }
    let parts: Vec<_> = form["assertion"].split('.').collect();
    let decoded: Vec<_> = parts.iter().map(|part| URL_SAFE_NO_PAD.decode(part).unwrap()).collect();
    let (header, claims): (Value, Value) = (serde_json::from_slice(&decoded[0]).unwrap(), serde_json::from_slice(&decoded[1]).unwrap());
    let signed = [parts[0], ".", parts[1]].concat();
    let public = state.public.borrow().clone();
    let signature = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, public).verify(signed.as_bytes(), &decoded[2]);
    if signature.is_err() || header["alg"] != "RS256" || header["typ"] != "JWT" || header["kid"] != "k1" {
        return refuse("Invalid JWT Signature. secret words");
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + state.ahead.get();
    let (from, to) = (claims["iat"].as_u64().unwrap(), claims["exp"].as_u64().unwrap());
    if to - from > 3600 || !(from.saturating_sub(300)..=to).contains(&now) {
        return refuse("Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. secret words");
    }
    let scopes = ["https://www.googleapis.com/auth/cloudkms", "https://www.googleapis.com/auth/cloud-platform"];
    if claims["iss"] != EMAIL
        || claims["aud"] != "https://oauth2.googleapis.com/token"
        || !scopes.iter().any(|scope| claims["scope"] == *scope)
    {
        return refuse("Invalid JWT. secret words");
    }
    issue(state)
}

fn metadata(request: &Request, path: &str, state: &State) -> Reply {
    const FLAVOR: &str = "Metadata-Flavor: Google\r\n";
    if !request.has("metadata-flavor", "Google") {
        return Reply { status: 403, header: "", body: "secret words".to_owned() };
    }
    match path {
        "/computeMetadata/v1/instance/service-accounts/default/token" => Reply { header: FLAVOR, ..issue(state) },
        "/computeMetadata/v1/project/project-id" => Reply { status: 200, header: FLAVOR, body: PROJECT.to_owned() },
        _ => Reply { status: 404, header: FLAVOR, body: "secret words".to_owned() },
    }
}

#[test]
fn the_doubles_checksum_is_crc_32c() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    assert_eq!(crc32c(&[]), 0);
}
