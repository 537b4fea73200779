//! AWS KMS: symmetric keys, RSA keys and ML-KEM keys.
//!
//! The API takes one item a request, so a batch is a sequence of requests with a few under way at once. A symmetric key authenticates the hash of
//! the slot's AAD as encryption context. Keys have no versions that a request could name: AWS keeps the old material of a rotated key, and finds
//! it by the blob.

use super::{
    Answer, Capabilities, Description, Provider, ProviderError, ProviderKey, ToOpen, ToWrap,
    aws_credentials::{Credentials, Keys},
    aws_request::{Call, send},
    cloud::{Connection, Failure, for_each},
    oaep, spki,
};
use crate::core::{
    kdf,
    kem::{self, SharedSecret},
    secret::{Secret, Share},
    suite::Algorithm,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};
use std::rc::Rc;
use zeroize::Zeroizing;

/// Name of this kind in `kms_providers.provider`.
pub const KIND: &str = "aws";

/// What AWS KMS can do.
pub const CAPABILITIES: Capabilities = Capabilities { binds_context: true, shows_version: false, batches: false, interruptible: true };

/// Longest blob that Decrypt takes.
const MAX_BLOB: usize = 6144;

/// AWS KMS in one region, with one identity.
pub struct Aws {
    region: String,
    kms: Connection,
    credentials: Credentials,
}

impl Aws {
    /// A provider. Opens no connection and reads no file yet.
    pub(super) fn new(region: String, kms: Connection, credentials: Credentials) -> Self {
        Self { region, kms, credentials }
    }

    fn origin(&self) -> String {
        self.kms.endpoint().origin()
    }

    /// Key and endpoint, for errors.
    fn what(&self, key: &str) -> String {
        format!("Key \"{key}\" at {}", self.origin())
    }

    /// Makes the calls, with fresh keys if the ones at hand have become invalid meanwhile. `None` for a call whose bytes the key rejects.
    async fn all(
        &self,
        what: &str,
        count: usize,
        call: &dyn Fn(usize) -> Option<Call>,
    ) -> Result<Vec<Option<Map<String, Value>>>, ProviderError> {
        if count == 0 {
            return Ok(Vec::new());
        }
        let keys = self.credentials.current().await?;
        let result = match self.all_with(&keys, what, count, call).await {
            Err(Failure::Stale(_)) => {
                let fresh = self.credentials.instead_of(&keys).await?;
                self.all_with(&fresh, what, count, call).await
            }
            result => result,
        };
        result.map_err(|failure| failure.into_error(&self.origin()))
    }

    async fn all_with(
        &self,
        keys: &Keys,
        what: &str,
        count: usize,
        call: &dyn Fn(usize) -> Option<Call>,
    ) -> Result<Vec<Option<Map<String, Value>>>, Failure> {
        let http = self.kms.http()?;
        for_each(count, call, |call| send(&http, &self.region, keys, call, what)).await
    }

    /// One call that is about no item.
    async fn one(&self, what: &str, action: &'static str, fields: &Value) -> Result<Map<String, Value>, ProviderError> {
        let mut answers = self.all(what, 1, &|_| Some(Call::new(action, fields))).await?;
        answers.pop().flatten().ok_or_else(|| ProviderError::Malformed(format!("{what}: the answer does not fit the request.")))
    }

    /// Refuses an answer that another key gave.
    fn check_key(&self, answer: &Map<String, Value>, key: &str) -> Result<(), ProviderError> {
        if text(answer, "KeyId") == Some(key) {
            return Ok(());
        }
        Err(ProviderError::Malformed(format!("{}: the answer names another key.", self.what(key))))
    }

    async fn wrap_symmetric(&self, key: ProviderKey<'_>, items: &[ToWrap<'_>]) -> Result<Vec<Vec<u8>>, ProviderError> {
        let what = self.what(key.name);
        let call = |i: usize| {
            let (share, aad) = items.get(i)?;
            let fields = json!({"KeyId": key.name, "EncryptionAlgorithm": SYMMETRIC, "EncryptionContext": context(aad)});
            Some(Call::with_bytes("Encrypt", &fields, "Plaintext", share.expose()))
        };
        let answers = self.all(&what, items.len(), &call).await?;
        let blob = |answer: Option<Map<String, Value>>| {
            let malformed = || ProviderError::Malformed(format!("{what}: the answer holds no usable ciphertext."));
            let answer = answer.ok_or_else(malformed)?;
            self.check_key(&answer, key.name)?;
            let blob = text(&answer, "CiphertextBlob").and_then(|blob| STANDARD.decode(blob).ok());
            blob.filter(|blob| (1..=MAX_BLOB).contains(&blob.len())).ok_or_else(malformed)
        };
        answers.into_iter().map(blob).collect()
    }

    /// Makes calls that open something, and takes the 32 secret bytes out of `field` of each answer.
    async fn open(
        &self,
        key: ProviderKey<'_>,
        count: usize,
        field: &str,
        call: &dyn Fn(usize) -> Option<Call>,
    ) -> Result<Vec<Option<Secret<32>>>, ProviderError> {
        let what = self.what(key.name);
        let answers = self.all(&what, count, call).await?;
        let secret = |answer: Option<Map<String, Value>>| {
            let Some(mut answer) = answer else { return Ok(None) };
            // Into a buffer that is wiped before anything can fail.
            let Some(Value::String(encoded)) = answer.remove(field) else {
                return Err(ProviderError::Malformed(format!("{what}: the answer lacks a field.")));
            };
            let encoded = Zeroizing::new(encoded);
            self.check_key(&answer, key.name)?;
            let mut bytes = Zeroizing::new(vec![0; encoded.len()]);
            let len = STANDARD
                .decode_slice(encoded.as_bytes(), &mut bytes)
                .map_err(|_| ProviderError::Malformed(format!("{what}: the answer is not Base64.")))?;
            Ok(bytes.get(..len).and_then(Secret::copy_from))
        };
        answers.into_iter().map(secret).collect()
    }

    fn unsuitable(&self, key: ProviderKey<'_>) -> ProviderError {
        ProviderError::Denied(format!("{}: {} is not among the algorithms of this kind.", self.what(key.name), key.algorithm.name()))
    }

    async fn look_up(&self, name: &str, algorithm: Algorithm) -> Result<Description, ProviderError> {
        let what = self.what(name);
        let malformed = |text: String| ProviderError::Malformed(format!("{what}: {text}."));
        let answer = self.one(&what, "DescribeKey", &json!({"KeyId": name})).await?;
        let metadata = answer.get("KeyMetadata").and_then(Value::as_object);
        let metadata = metadata.ok_or_else(|| malformed("the answer describes no key".to_owned()))?;
        let arn = text(metadata, "Arn").filter(|arn| is_key_arn(arn) && names(name, arn));
        let arn = arn.ok_or_else(|| malformed("the answer names another key".to_owned()))?;
        match text(metadata, "KeyState") {
            Some("Enabled") => {}
            Some("Disabled") => return Err(ProviderError::Denied(format!("{what}: the key is disabled."))),
            Some("PendingDeletion" | "PendingReplicaDeletion") => {
                return Err(ProviderError::Denied(format!("{what}: the deletion of the key is scheduled.")));
            }
            _ => return Err(ProviderError::Denied(format!("{what}: the key is not enabled."))),
        }
        let (kind, offered) = offered(metadata);
        if !offered.contains(&algorithm) {
            return Err(malformed(format!("the key is of type {kind}, not {}", algorithm.name())));
        }
        let public_key = if algorithm.has_public_key() { Some(self.public_key(arn, algorithm).await?) } else { None };
        Ok(Description { name: arn.to_owned(), version: String::new(), algorithm, public_key })
    }

    async fn public_key(&self, arn: &str, algorithm: Algorithm) -> Result<Vec<u8>, ProviderError> {
        let what = self.what(arn);
        let answer = self.one(&what, "GetPublicKey", &json!({"KeyId": arn})).await?;
        self.check_key(&answer, arn)?;
        let key = || {
            let der = STANDARD.decode(text(&answer, "PublicKey")?).ok()?;
            if !algorithm.is_kem() {
                return oaep::is_valid_public_key(&der).then_some(der);
            }
            spki::from_der(algorithm, &der).filter(|key| kem::is_valid_encapsulation_key(algorithm, key))
        };
        key().ok_or_else(|| ProviderError::Malformed(format!("{what}: its public key is not one of {}.", algorithm.name())))
    }
}

impl Provider for Aws {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    fn wraps_here(&self, algorithm: Algorithm) -> bool {
        matches!(algorithm, Algorithm::RsaOaepSha256 | Algorithm::RsaOaepSha1)
    }

    fn wrap<'a>(&'a self, key: ProviderKey<'a>, items: &'a [ToWrap<'a>]) -> Answer<'a, Vec<Vec<u8>>> {
        Box::pin(async move {
            match key.algorithm {
                Algorithm::Aes256Gcm => self.wrap_symmetric(key, items).await,
                // RSA takes no encryption context, and needs nobody for wrapping.
                Algorithm::RsaOaepSha256 | Algorithm::RsaOaepSha1 => items.iter().map(|(share, _)| oaep::wrap(key, share)).collect(),
                _ => Err(self.unsuitable(key)),
            }
        })
    }

    fn unwrap<'a>(&'a self, key: ProviderKey<'a>, items: &'a [ToOpen<'a>]) -> Answer<'a, Vec<Option<Share>>> {
        Box::pin(async move {
            let Some(scheme) = encryption_algorithm(key.algorithm) else { return Err(self.unsuitable(key)) };
            let call = |i: usize| {
                let (blob, aad) = items.get(i)?;
                // The API refuses other lengths as an invalid request, which would say nothing about the key.
                if !(1..=MAX_BLOB).contains(&blob.len()) {
                    return None;
                }
                let mut fields = json!({"KeyId": key.name, "EncryptionAlgorithm": scheme});
                if let (Algorithm::Aes256Gcm, Some(fields)) = (key.algorithm, fields.as_object_mut()) {
                    fields.insert("EncryptionContext".to_owned(), context(aad));
                }
                Some(Call::with_bytes("Decrypt", &fields, "CiphertextBlob", blob))
            };
            self.open(key, items.len(), "Plaintext", &call).await
        })
    }

    fn decapsulate<'a>(&'a self, key: ProviderKey<'a>, ciphertexts: &'a [&'a [u8]]) -> Answer<'a, Vec<Option<SharedSecret>>> {
        Box::pin(async move {
            let (Algorithm::MlKem768 | Algorithm::MlKem1024, Some(sizes)) = (key.algorithm, kem::sizes(key.algorithm)) else {
                return Err(self.unsuitable(key));
            };
            let call = |i: usize| {
                let ciphertext = ciphertexts.get(i).filter(|ciphertext| ciphertext.len() == sizes.ciphertext)?;
                let fields = json!({"KeyId": key.name, "EncapsulationAlgorithm": "ML_KEM"});
                Some(Call::with_bytes("Decapsulate", &fields, "SharedSecretCiphertextBlob", ciphertext))
            };
            self.open(key, ciphertexts.len(), "SharedSecret", &call).await
        })
    }

    fn describe<'a>(&'a self, name: &'a str, version: Option<&'a str>, algorithm: Algorithm) -> Answer<'a, Description> {
        Box::pin(async move {
            if version.is_some_and(|version| !version.is_empty()) {
                return Err(ProviderError::NotFound(format!("{}: keys of AWS KMS have no versions to choose from.", self.what(name))));
            }
            self.look_up(name, algorithm).await
        })
    }

    fn health(&self) -> Answer<'_, ()> {
        Box::pin(async move {
            let what = format!("AWS KMS at {}", self.origin());
            let keys = self.credentials.current().await?;
            let list = |keys: Rc<Keys>| {
                let what = &what;
                async move { send(&*self.kms.http()?, &self.region, &keys, Call::new("ListKeys", &json!({"Limit": 1})), what).await }
            };
            let result = match list(Rc::clone(&keys)).await {
                Err(Failure::Stale(_)) => list(self.credentials.instead_of(&keys).await?).await,
                result => result,
            };
            match result {
                // Rights are looked at after the signature was found good, and few identities may list keys.
                Ok(_) | Err(Failure::Forbidden(_)) => Ok(()),
                Err(failure) => Err(failure.into_error(&self.origin())),
            }
        })
    }
}

const SYMMETRIC: &str = "SYMMETRIC_DEFAULT";

const fn encryption_algorithm(algorithm: Algorithm) -> Option<&'static str> {
    match algorithm {
        Algorithm::Aes256Gcm => Some(SYMMETRIC),
        Algorithm::RsaOaepSha256 => Some("RSAES_OAEP_SHA_256"),
        Algorithm::RsaOaepSha1 => Some("RSAES_OAEP_SHA_1"),
        Algorithm::Xaes256Gcm | Algorithm::MlKem768 | Algorithm::MlKem1024 | Algorithm::XWing => None,
    }
}

/// The encryption context: AWS authenticates it, and shows it in CloudTrail, so it is a hash.
fn context(aad: &[u8]) -> Value {
    json!({"kms_wrap": hex::encode(kdf::sha256(&[aad]))})
}

fn text<'a>(object: &'a Map<String, Value>, field: &str) -> Option<&'a str> {
    object.get(field).and_then(Value::as_str)
}

/// Whether a text is the ARN of a key, not of an alias.
fn is_key_arn(arn: &str) -> bool {
    let parts: Vec<_> = arn.split(':').collect();
    let [scheme, partition, service, region, account, resource] = parts.as_slice() else { return false };
    let id = resource.strip_prefix("key/");
    *scheme == "arn"
        && *service == "kms"
        && !partition.is_empty()
        && !region.is_empty()
        && !account.is_empty()
        && id.is_some_and(|id| !id.is_empty() && id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'))
}

/// Whether an ARN may be the answer to a name. An alias may lead to any key.
fn names(name: &str, arn: &str) -> bool {
    let is_alias = name.starts_with("alias/") || (name.starts_with("arn:") && name.contains(":alias/"));
    is_alias || name == arn || arn.strip_suffix(name).is_some_and(|head| head.ends_with(":key/"))
}

/// What a key is, in words of ours, and which algorithms it can do.
fn offered(metadata: &Map<String, Value>) -> (&'static str, Vec<Algorithm>) {
    let schemes: Vec<_> = metadata.get("EncryptionAlgorithms").and_then(Value::as_array).into_iter().flatten().collect();
    let does =
        |algorithm: &Algorithm| encryption_algorithm(*algorithm).is_some_and(|name| schemes.iter().any(|s| s.as_str() == Some(name)));
    match text(metadata, "KeySpec") {
        Some(SYMMETRIC) => ("AES-256-GCM", [Algorithm::Aes256Gcm].into_iter().filter(does).collect()),
        Some("RSA_2048" | "RSA_3072" | "RSA_4096") => {
            ("RSA", [Algorithm::RsaOaepSha256, Algorithm::RsaOaepSha1].into_iter().filter(does).collect())
        }
        Some("ML_KEM_512") => ("ML-KEM-512", Vec::new()),
        Some("ML_KEM_768") => (Algorithm::MlKem768.name(), vec![Algorithm::MlKem768]),
        Some("ML_KEM_1024") => (Algorithm::MlKem1024.name(), vec![Algorithm::MlKem1024]),
        _ => ("another kind", Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARN: &str = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";

    #[test]
    fn only_key_arns_are_kept() {
        assert!(is_key_arn(ARN));
        assert!(is_key_arn("arn:aws-cn:kms:cn-north-1:1:key/mrk-12ab"));
        for bad in [
            "",
            "arn:aws:kms:eu-west-1:1:alias/a",
            "arn:aws:s3:eu-west-1:1:key/a",
            "arn:aws:kms:eu-west-1:1:key/",
            "arn:aws:kms:e:1:key/a/b",
        ] {
            assert!(!is_key_arn(bad), "{bad}");
        }
    }

    #[test]
    fn an_answer_fits_the_name_that_was_asked_for() {
        for good in [ARN, "1234abcd-12ab-34cd-56ef-1234567890ab", "alias/x", "arn:aws:kms:eu-west-1:111122223333:alias/x"] {
            assert!(names(good, ARN), "{good}");
        }
        for bad in ["", "0ab", "1234abcd", "key/1234abcd-12ab-34cd-56ef-1234567890ab", "arn:aws:kms:eu-west-1:1:key/other"] {
            assert!(!names(bad, ARN), "{bad}");
        }
    }
}
