//! A double of a Managed HSM, of Microsoft's token endpoint and of the metadata service: real cryptography, signatures that are verified, and
//! errors as the service words them. Microsoft's own client library judges it in [`crate::azure`].

use crate::web_double::{Reply, Request, Web};
use aes_gcm::{
    Aes256Gcm, KeyInit,
    aead::{Aead, Payload},
};
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::{
    rsa::{KeySize, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, OaepPublicEncryptingKey, PrivateDecryptingKey, PublicEncryptingKey},
    signature::{RSA_PSS_2048_8192_SHA256, UnparsedPublicKey},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashSet},
    rc::Rc,
};

pub(crate) const TENANT: &str = "72f988bf-86f1-41af-91ab-2d7cd011db47";
pub(crate) const CLIENT: &str = "5e5d3b1c-0000-4000-8000-000000000001";
pub(crate) const SECRET: &str = "s3cr+t/~x=";
pub(crate) const FEDERATED: &str = "eyJ.federated.x";

enum Material {
    Symmetric([u8; 32]),
    Rsa(Box<OaepPrivateDecryptingKey>, Vec<u8>),
}

pub(crate) struct Version {
    id: String,
    material: Material,
}

pub(crate) struct Key {
    pub(crate) versions: Vec<Version>,
    pub(crate) enabled: bool,
    pub(crate) operations: Value,
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
    /// Public key and thumbprint of the application's certificate.
    pub(crate) certificate: RefCell<(Vec<u8>, String)>,
    url: RefCell<String>,
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

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Double {
    pub(crate) async fn start() -> Self {
        let state = Rc::new(State::default());
        state.lifetime.set(3600);
        let shared = Rc::clone(&state);
        let web = Web::start(move |request: &Request| answer(request, &shared)).await;
        state.url.borrow_mut().clone_from(&web.url);
        Self { web, state }
    }

    fn key(&self, operations: Value, material: Material) -> String {
        let name = format!("key-{}", hex::encode(random::<4>()));
        let version = Version { id: hex::encode(random::<16>()), material };
        self.state.keys.borrow_mut().insert(name.clone(), Key { versions: vec![version], enabled: true, operations });
        name
    }

    pub(crate) fn symmetric(&self) -> String {
        self.key(json!(["encrypt", "decrypt", "wrapKey", "unwrapKey"]), Material::Symmetric(random()))
    }

    pub(crate) fn rsa(&self) -> String {
        self.key(json!(["encrypt", "decrypt", "sign", "verify", "wrapKey", "unwrapKey"]), rsa())
    }

    /// Gives a key a new version.
    pub(crate) fn rotate(&self, name: &str) {
        let mut keys = self.state.keys.borrow_mut();
        let key = keys.get_mut(name).unwrap();
        let material = if matches!(key.versions[0].material, Material::Symmetric(_)) { Material::Symmetric(random()) } else { rsa() };
        key.versions.push(Version { id: hex::encode(random::<16>()), material });
    }

    pub(crate) fn set(&self, name: &str, change: impl FnOnce(&mut Key)) {
        change(self.state.keys.borrow_mut().get_mut(name).unwrap());
    }
}

fn rsa() -> Material {
    let private = PrivateDecryptingKey::generate(KeySize::Rsa2048).unwrap();
    let spki: PublicKeyX509Der<'_> = private.public_key().as_der().unwrap();
    let spki = spki.as_ref().to_vec();
    Material::Rsa(Box::new(OaepPrivateDecryptingKey::new(private).unwrap()), spki)
}

fn error(status: u16, code: &str, inner: &str) -> Reply {
    let innererror = if inner.is_empty() { Value::Null } else { json!({"code": inner}) };
    Reply::json(status, &json!({"error": {"code": code, "message": "secret words", "innererror": innererror}}))
}

fn answer(request: &Request, state: &State) -> Reply {
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    if path.ends_with("/oauth2/v2.0/token") {
        return token(request, path, state);
    }
    if path.starts_with("/metadata/") {
        return metadata(request, path, query, state);
    }
    if !state.tokens.borrow().contains(request.bearer()) {
        let challenge = "www-authenticate: Bearer authorization=\"https://login.microsoftonline.com/72f988bf-86f1-41af-91ab-2d7cd011db47\", \
                         resource=\"https://managedhsm.azure.net\"\r\n";
        return Reply { header: challenge, ..error(401, "Unauthorized", "") };
    }
    if !query.split('&').any(|pair| pair.starts_with("api-version=")) {
        return error(400, "BadParameter", "");
    }
    if state.forbidden.get() {
        return error(403, "Forbidden", "ForbiddenByRbac");
    }
    api(&request.method, path, &request.body, state).unwrap_or_else(|refused| refused)
}

fn api(method: &str, path: &str, body: &[u8], state: &State) -> Result<Reply, Reply> {
    let parts: Vec<_> = path.trim_matches('/').split('/').collect();
    if parts == ["keys"] {
        return Ok(Reply::json(200, &json!({"value": [], "nextLink": null})));
    }
    let missing = || error(404, "KeyNotFound", "");
    let keys = state.keys.borrow();
    let (name, id, verb) = match parts.as_slice() {
        ["keys", name] => (*name, "", ""),
        ["keys", name, id] => (*name, *id, ""),
        ["keys", name, id, verb] => (*name, *id, *verb),
        _ => return Err(missing()),
    };
    let key = keys.get(name).ok_or_else(missing)?;
    let version = if id.is_empty() { key.versions.last() } else { key.versions.iter().find(|version| version.id == id) };
    let version = version.ok_or_else(missing)?;
    let kid = format!("{}/keys/{name}/{}", state.url.borrow(), version.id);
    if method == "GET" {
        let mut jwk = match &version.material {
            Material::Symmetric(_) => json!({"kty": "oct-HSM"}),
            Material::Rsa(_, spki) => {
                // The number of a 2048-bit key stands at a fixed place of its SubjectPublicKeyInfo.
                json!({"kty": "RSA-HSM", "n": encode(&spki[33..289]), "e": "AQAB"})
            }
        };
        jwk["kid"] = json!(kid);
        jwk["key_ops"] = key.operations.clone();
        return Ok(Reply::json(200, &json!({"key": jwk, "attributes": {"enabled": key.enabled, "recoveryLevel": "Recoverable"}})));
    }
    if !key.enabled {
        return Err(error(403, "Forbidden", "KeyDisabled"));
    }
    let bad = || error(400, "BadParameter", "");
    let body: Value = serde_json::from_slice(body).map_err(|_| bad())?;
    let bytes = |field: &str| body[field].as_str().and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
    let value = bytes("value").ok_or_else(bad)?;
    let aad = bytes("aad").unwrap_or_default();
    let operation = match verb {
        "wrapkey" => "wrapKey",
        "unwrapkey" => "unwrapKey",
        verb => verb,
    };
    if !key.operations.as_array().unwrap().contains(&json!(operation)) {
        return Err(error(403, "Forbidden", "KeyOperationForbidden"));
    }
    match (verb, body["alg"].as_str().unwrap_or_default(), &version.material) {
        ("encrypt", "A256GCM", Material::Symmetric(secret)) => {
            let nonce = random::<12>();
            let mut sealed = Aes256Gcm::new(&(*secret).into()).encrypt(&nonce.into(), Payload { msg: &value, aad: &aad }).unwrap();
            let tag = sealed.split_off(value.len());
            let answer =
                json!({"kid": kid, "alg": "A256GCM", "value": encode(sealed), "iv": encode(nonce), "tag": encode(tag), "aad": encode(aad)});
            Ok(Reply::json(200, &answer))
        }
        ("decrypt", "A256GCM", Material::Symmetric(secret)) => {
            let nonce: [u8; 12] = bytes("iv").and_then(|iv| iv.try_into().ok()).ok_or_else(bad)?;
            let sealed = [value, bytes("tag").filter(|tag| tag.len() == 16).ok_or_else(bad)?].concat();
            let opened =
                Aes256Gcm::new(&(*secret).into()).decrypt(&nonce.into(), Payload { msg: &sealed, aad: &aad }).map_err(|_| bad())?;
            Ok(Reply::json(200, &json!({"kid": kid, "alg": "A256GCM", "value": encode(opened)})))
        }
        ("wrapkey" | "encrypt", "RSA-OAEP-256", Material::Rsa(_, spki)) => {
            let public = OaepPublicEncryptingKey::new(PublicEncryptingKey::from_der(spki).unwrap()).unwrap();
            let mut out = vec![0; 256];
            let sealed = public.encrypt(&OAEP_SHA256_MGF1SHA256, &value, &mut out, None).map_err(|_| bad())?;
            Ok(Reply::json(200, &json!({"kid": kid, "alg": "RSA-OAEP-256", "value": encode(sealed)})))
        }
        ("unwrapkey" | "decrypt", "RSA-OAEP-256", Material::Rsa(private, _)) => {
            let mut out = vec![0; 256];
            let opened = private.decrypt(&OAEP_SHA256_MGF1SHA256, &value, &mut out, None).map_err(|_| bad())?;
            Ok(Reply::json(200, &json!({"kid": kid, "alg": "RSA-OAEP-256", "value": encode(opened)})))
        }
        _ => Err(bad()),
    }
}

fn issue(state: &State, seconds: &Value) -> Reply {
    let token = format!("eyJ0.{}", hex::encode(random::<8>()));
    state.tokens.borrow_mut().insert(token.clone());
    Reply::json(200, &json!({"access_token": token, "expires_in": seconds, "token_type": "Bearer"}))
}

fn token(request: &Request, path: &str, state: &State) -> Reply {
    let form = request.form();
    let field = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
    let refuse = || Reply::json(401, &json!({"error": "invalid_client", "error_description": "AADSTS7000215: secret words"}));
    let asked = path == format!("/{TENANT}/oauth2/v2.0/token")
        && field("grant_type") == "client_credentials"
        && field("scope") == "https://managedhsm.azure.net/.default"
        && field("client_id") == CLIENT;
    if !asked {
        return refuse();
    }
    let assertion = field("client_assertion");
    let proved = if assertion.is_empty() {
        field("client_secret") == SECRET
    } else {
        field("client_assertion_type") == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
            && (assertion == FEDERATED || is_signed(assertion, path, state))
    };
    if proved { issue(state, &json!(state.lifetime.get())) } else { refuse() }
}

fn is_signed(assertion: &str, path: &str, state: &State) -> bool {
    let Some((signed, signature)) = assertion.rsplit_once('.') else { return false };
    let Some((header, claims)) = signed.split_once('.') else { return false };
    let json = |part: &str| serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(part).unwrap_or_default()).unwrap_or_default();
    let (header, claims) = (json(header), json(claims));
    let (public, thumbprint) = state.certificate.borrow().clone();
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap_or_default();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA256, public).verify(signed.as_bytes(), &signature).is_ok()
        && header["alg"] == "PS256"
        && header["x5t#S256"] == thumbprint
        && claims["aud"] == format!("{}{path}", state.url.borrow())
        && claims["iss"] == CLIENT
        && claims["sub"] == CLIENT
        && claims["jti"].as_str().is_some_and(|id| !id.is_empty())
        && (claims["nbf"].as_u64().unwrap()..=claims["exp"].as_u64().unwrap()).contains(&now)
}

fn metadata(request: &Request, path: &str, query: &str, state: &State) -> Reply {
    let form: BTreeMap<_, _> = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let fits = request.has("metadata", "true")
        && path == "/metadata/identity/oauth2/token"
        && form["api-version"] == "2018-02-01"
        && form["resource"] == "https://managedhsm.azure.net"
        && form.get("client_id").is_none_or(|id| id == CLIENT);
    if !fits {
        return Reply::json(400, &json!({"error": "invalid_request", "error_description": "secret words"}));
    }
    // The number is a text here.
    issue(state, &json!(state.lifetime.get().to_string()))
}
