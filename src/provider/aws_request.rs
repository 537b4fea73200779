//! One signed request to AWS KMS, and what its error codes mean.

use super::{
    ProviderError,
    aws_credentials::Keys,
    cloud::Failure,
    endpoint::Endpoint,
    http::{Http, Reply},
    secret_json,
};
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SigningSettings, sign},
    sign::v4::SigningParams,
};
use base64::engine::general_purpose::STANDARD;
use reqwest::{Method, header::HeaderName};
use serde_json::{Map, Value};
use std::time::SystemTime;
use zeroize::Zeroizing;

/// A call's name and JSON body. The body may hold a share.
pub(super) struct Call {
    pub(super) action: &'static str,
    pub(super) body: Zeroizing<Vec<u8>>,
}

impl Call {
    /// A call without secrets.
    pub(super) fn new(action: &'static str, fields: &Value) -> Self {
        Self { action, body: Zeroizing::new(fields.to_string().into_bytes()) }
    }

    /// A call with one more field of bytes.
    pub(super) fn with_bytes(action: &'static str, fields: &Value, name: &str, bytes: &[u8]) -> Self {
        Self { action, body: secret_json::with_bytes(fields, name, bytes, &STANDARD) }
    }
}

/// Signs and sends a call, and gives the fields of its answer. `what` names key and endpoint in errors.
pub(super) async fn send(http: &Http, region: &str, keys: &Keys, call: Call, what: &str) -> Result<Map<String, Value>, Failure> {
    let target = format!("TrentService.{}", call.action);
    let mut headers = vec![
        (HeaderName::from_static("content-type"), Zeroizing::new("application/x-amz-json-1.1".to_owned())),
        (HeaderName::from_static("x-amz-target"), Zeroizing::new(target)),
    ];
    let signed = signature(http.endpoint(), region, keys, &headers, &call.body)
        .ok_or_else(|| ProviderError::Denied(format!("{what}: the request could not be signed with the given credentials.")))?;
    headers.extend(signed);
    let call_action = call.action;
    let headers: Vec<_> = headers.iter().map(|(name, value)| (name.clone(), value.as_str())).collect();
    let reply = http.send(Method::POST, "/", &headers, Some(call.body)).await?;
    if reply.status != 200 {
        return Err(classify(&reply, matches!(call_action, "Decrypt" | "Decapsulate"), what));
    }
    match serde_json::from_slice(&reply.body) {
        Ok(Value::Object(fields)) => Ok(fields),
        _ => Err(ProviderError::Malformed(format!("{what}: the answer is not a JSON object.")).into()),
    }
}

type Headers = Vec<(HeaderName, Zeroizing<String>)>;

/// Signature Version 4 over the request as [`Http`] sends it: with the host and port that its `Host` header has.
fn signature(endpoint: &Endpoint, region: &str, keys: &Keys, headers: &Headers, body: &[u8]) -> Option<Headers> {
    let url = endpoint.join("/")?;
    let authority = endpoint.authority();
    let shown = headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let shown = shown.chain(std::iter::once(("host", authority.as_str())));
    let request = SignableRequest::new("POST", url.as_str(), shown, SignableBody::Bytes(body)).ok()?;
    let identity = keys.credentials.clone().into();
    let params = SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("kms")
        .time(SystemTime::now())
        .settings(SigningSettings::default())
        .build()
        .ok()?;
    let (instructions, _) = sign(request, &params.into()).ok()?.into_parts();
    let added = instructions
        .headers()
        .map(|(name, value)| Some((HeaderName::from_bytes(name.to_ascii_lowercase().as_bytes()).ok()?, Zeroizing::new(value.to_owned()))));
    added.collect()
}

/// The error code of an answer, without namespace and address; empty when it has none. Three places, since proxies and emulators answer in the
/// older ways.
pub(super) fn code(reply: &Reply) -> String {
    let header = reply.headers.get("x-amzn-errortype").and_then(|v| v.to_str().ok()).map(str::to_owned);
    let json = || {
        let body: Value = serde_json::from_slice(&reply.body).ok()?;
        body.get("__type").or_else(|| body.get("code"))?.as_str().map(str::to_owned)
    };
    let xml = || element(std::str::from_utf8(&reply.body).ok()?, "Code").map(str::to_owned);
    let full = header.or_else(json).or_else(xml).unwrap_or_default();
    let name = full.rsplit('#').next().unwrap_or_default();
    name.split(':').next().unwrap_or_default().trim().to_owned()
}

/// The text of the first XML element of a name. Only for texts without markup inside, as AWS's codes and credentials are.
pub(super) fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    (!text.contains(['<', '&'])).then_some(text.trim())
}

/// Whether the answer's text has these words. Its text is looked at, never shown.
fn says(reply: &Reply, words: &str) -> bool {
    reply.body.windows(words.len()).any(|part| part.eq_ignore_ascii_case(words.as_bytes()))
}

/// What an answer that is no success means; `opens` when the request was to open bytes that somebody may have altered.
pub(super) fn classify(reply: &Reply, opens: bool, what: &str) -> Failure {
    use ProviderError::{Denied, Malformed, NotFound, Throttled, Unavailable};
    let code = code(reply);
    let say = |text: &str| format!("{what}: {text}.");
    let clocks = || Failure::Failed(Denied(say("the time of the request is refused: the clocks of this server and of AWS differ")));
    match code.as_str() {
        "InvalidCiphertextException" | "IncorrectKeyException" if opens => Failure::Rejected,
        "ThrottlingException"
        | "Throttling"
        | "ThrottledException"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "SlowDown"
        | "TooManyRequestsException"
        | "LimitExceededException"
        | "LimitExceeded"
        | "RequestLimitExceeded" => Failure::Failed(Throttled(say("fewer requests are wanted"))),
        "KMSInternalException"
        | "DependencyTimeoutException"
        | "KeyUnavailableException"
        | "InternalFailure"
        | "InternalError"
        | "ServiceUnavailable"
        | "ServiceUnavailableException"
        | "RequestTimeout"
        | "RequestTimeoutException" => Failure::Failed(Unavailable(say("the service cannot answer now"))),
        "DisabledException" => Failure::Failed(Denied(say("the key is disabled"))),
        "KMSInvalidStateException" => Failure::Failed(Denied(say("the state of the key forbids its use; its deletion may be scheduled"))),
        "NotFoundException" => Failure::Failed(NotFound(say("there is no such key"))),
        "InvalidArnException" => Failure::Failed(NotFound(say("the name is not one that a key can have"))),
        "InvalidKeyUsageException" => Failure::Failed(Malformed(say("the key is not for this use"))),
        "ExpiredToken" | "ExpiredTokenException" => Failure::Stale(Denied(say("the credentials have expired"))),
        "UnrecognizedClientException" | "InvalidClientTokenId" | "InvalidAccessKeyId" => {
            Failure::Stale(Denied(say("the access key or session token is not known")))
        }
        "RequestExpired" | "RequestTimeTooSkewed" => clocks(),
        "InvalidSignatureException" | "SignatureDoesNotMatch" | "IncompleteSignature" | "IncompleteSignatureException"
            if says(reply, "Signature expired") || says(reply, "Signature not yet current") =>
        {
            clocks()
        }
        "InvalidSignatureException" | "SignatureDoesNotMatch" => Failure::Failed(Denied(say(
            "the signature is wrong: the secret access key does not belong to the access key, or the region differs",
        ))),
        // KMS answers so, too, when altered bytes name a key that it does not know. What a policy forbids is always said in these words.
        "AccessDeniedException" if opens && !says(reply, "not authorized") => Failure::Rejected,
        "AccessDeniedException" | "AccessDenied" | "NotAuthorized" => {
            Failure::Forbidden(Denied(say("the credentials are not allowed to do this")))
        }
        _ => match reply.status {
            429 => Failure::Failed(Throttled(say("fewer requests are wanted"))),
            500.. => Failure::Failed(Unavailable(say("the service cannot answer now"))),
            401 | 403 => Failure::Failed(Denied(say("the request is refused"))),
            status => Failure::Failed(Malformed(say(&format!("the request fails with status {status}")))),
        },
    }
}
