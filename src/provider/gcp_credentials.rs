//! Where access tokens of Google Cloud come from.

use super::{
    Answer, ProviderError,
    bearer::{Source, Token, post_form, says, token_refused},
    cloud::Connection,
    credentials::CredentialDirectory,
    endpoint::Endpoint,
    gcp::is_project,
    http::Reply,
    jwt,
    root_key::Stamp,
    secret_json,
};
use aws_lc_rs::signature::RSA_PKCS1_SHA256;
use reqwest::{Method, header::HeaderName};
use serde_json::{Map, Value, json};
use std::time::Duration;
use url::Url;

/// What the tokens are good for.
const SCOPE: &str = "https://www.googleapis.com/auth/cloudkms";

/// Whom a signed statement is for, wherever it is sent: Google's documentation has this very address, and so have its libraries.
const AUDIENCE: &str = "https://oauth2.googleapis.com/token";

/// The longest that Google accepts a signed statement.
const LIFETIME: Duration = Duration::from_hours(1);

/// Exactly one place: a search through several would use another identity when the right one is missing.
pub(super) enum Place {
    /// The key of a service account, as Google hands it out.
    File { name: String, ca_file: Option<String>, allowed_endpoints: Vec<String> },
    /// The service account of the machine.
    Metadata(Connection),
}

/// Who asks.
pub(super) struct Identity {
    place: Place,
    directory: CredentialDirectory,
}

impl Source for Identity {
    fn fetch(&self) -> Answer<'_, Token> {
        Box::pin(async move {
            match &self.place {
                Place::File { name, ca_file, allowed_endpoints } => self.sign_in(name, ca_file.as_deref(), allowed_endpoints).await,
                Place::Metadata(metadata) => from_metadata(metadata).await,
            }
        })
    }

    fn stamp(&self) -> Option<Stamp> {
        match &self.place {
            Place::File { name, .. } => self.directory.stamp(name),
            Place::Metadata(_) => None,
        }
    }
}

impl Identity {
    pub(super) fn new(place: Place, directory: CredentialDirectory) -> Self {
        Self { place, directory }
    }

    /// The service account's own signature is exchanged for a token (RFC 7523).
    async fn sign_in(&self, name: &str, ca_file: Option<&str>, allowed_endpoints: &[String]) -> Result<Token, ProviderError> {
        let file = self.directory.secret(name)?;
        let unfit = |why: &str| ProviderError::Denied(format!("Credential file \"{name}\" {why}."));
        let fields: Option<Map<String, Value>> = serde_json::from_slice(&file.bytes).ok();
        let mut fields = fields.ok_or_else(|| unfit("is not the JSON of a service account's key"))?;
        // Taken first, so that it is wiped whatever else may be wrong.
        let private_key = secret_json::take(&mut fields, "private_key");
        let field = |field: &str| fields.get(field).and_then(Value::as_str).ok_or_else(|| unfit(&format!("lacks {field}")));
        if field("type")? != "service_account" {
            return Err(unfit("is not the key of a service account"));
        }
        let private_key = private_key.ok_or_else(|| unfit("lacks private_key"))?;
        let private_key = jwt::key(private_key.as_bytes()).ok_or_else(|| unfit("holds no private RSA key in PEM"))?;
        let (email, key_id, address) = (field("client_email")?, field("private_key_id")?, field("token_uri")?);
        let project = field("project_id").ok().filter(|project| is_project(project)).ok_or_else(|| unfit("lacks a usable project_id"))?;
        // Its path is part of the address here, so the endpoint is what is before.
        let whole = Endpoint::parse(address).map_err(|_| unfit("has a token_uri that is not an https:// URL"))?;
        if !whole.is_allowed(allowed_endpoints) {
            return Err(unfit("has a token_uri that the setting \"kms_wrap.allowed_endpoints\" does not allow"));
        }
        let path = Url::parse(address).map(|url| url.path().to_owned()).map_err(|_| unfit("has no usable token_uri"))?;
        let endpoint = Endpoint::parse(&whole.origin()).map_err(|_| unfit("has no usable token_uri"))?;
        let what = format!("Token for credential file \"{name}\" at {}", endpoint.origin());
        let signed = || {
            let (now, end) = jwt::times(LIFETIME)?;
            let claims = json!({"iss": email, "scope": SCOPE, "aud": AUDIENCE, "iat": now, "exp": end});
            jwt::sign(&json!({"alg": "RS256", "typ": "JWT", "kid": key_id}), &claims, &private_key, &RSA_PKCS1_SHA256)
        };
        let assertion = signed().ok_or_else(|| unfit("holds a private key that does not sign"))?;
        let connection = Connection::new(endpoint, ca_file.map(str::to_owned), self.directory.clone());
        let pairs = [("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", assertion.as_str())];
        let reply = post_form(&*connection.http()?, &path, &pairs).await?;
        if reply.status != 200 {
            let clocks = says(&reply, "reasonable timeframe");
            let why = if clocks { "the clocks of this server and of Google differ" } else { "the service account's key is not accepted" };
            return Err(token_refused(&reply, &what, why));
        }
        let token = Token::read(&reply).ok_or_else(|| ProviderError::Malformed(format!("{what}: the answer holds no access token.")))?;
        Ok(token.of(project))
    }
}

/// The token of the machine's service account.
async fn from_metadata(metadata: &Connection) -> Result<Token, ProviderError> {
    let http = metadata.http()?;
    let what = format!("Instance metadata at {}", metadata.endpoint().origin());
    let malformed = |text: &str| ProviderError::Malformed(format!("{what}: {text}."));
    // No forged request of a browser or proxy has it, and no other service answers with it.
    let flavor = (HeaderName::from_static("metadata-flavor"), "Google");
    let check = |reply: Reply| match reply.status {
        200 if reply.headers.get(&flavor.0).is_none_or(|value| value != flavor.1) => Err(malformed("the answer is not Google's")),
        200 => Ok(reply),
        404 => Err(ProviderError::Denied(format!("{what}: this machine has no service account."))),
        _ => Err(token_refused(&reply, &what, "the request is refused")),
    };
    let get = async |path| check(http.send(Method::GET, path, std::slice::from_ref(&flavor), None).await?);
    let reply = get("/computeMetadata/v1/instance/service-accounts/default/token").await?;
    let token = Token::read(&reply).ok_or_else(|| malformed("the answer holds no access token"))?;
    let reply = get("/computeMetadata/v1/project/project-id").await?;
    let project = std::str::from_utf8(&reply.body).ok().map(str::trim).filter(|project| is_project(project));
    Ok(token.of(project.ok_or_else(|| malformed("the answer names no project"))?))
}
