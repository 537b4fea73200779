//! Where access tokens of Azure come from.

use super::{
    Answer, ProviderError,
    bearer::{Source, Token, post_form, says, token_refused},
    cloud::Connection,
    credentials::CredentialDirectory,
    jwt,
    root_key::Stamp,
};
use crate::core::kdf;
use aws_lc_rs::signature::RSA_PSS_SHA256;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::{Method, header::HeaderName};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::json;
use std::time::Duration;
use url::form_urlencoded;
use zeroize::Zeroizing;

/// How long a signed statement is good for: it is used at once.
const LIFETIME: Duration = Duration::from_mins(10);

const ASSERTION: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// Exactly one place: a search through several would use another identity when the right one is missing.
pub(super) enum Place {
    /// An application that is registered with Microsoft Entra ID.
    Application { authority: Connection, tenant: String, client: String, proof: Proof },
    /// The managed identity of the machine; of several the one of this client id.
    Managed { metadata: Connection, client: Option<String> },
}

/// How an application proves that it is itself: by names of credential files.
pub(super) enum Proof {
    /// A client secret.
    Secret(String),
    /// A certificate (PEM) and its private RSA key (PEM).
    Certificate { cert: String, key: String },
    /// A token of an identity provider that the application trusts, such as Kubernetes.
    Federated(String),
}

/// Who asks.
pub(super) struct Identity {
    place: Place,
    resource: String,
    directory: CredentialDirectory,
}

impl Source for Identity {
    fn fetch(&self) -> Answer<'_, Token> {
        Box::pin(async move {
            match &self.place {
                Place::Application { authority, tenant, client, proof } => self.sign_in(authority, tenant, client, proof).await,
                Place::Managed { metadata, client } => self.ask_metadata(metadata, client.as_deref()).await,
            }
        })
    }

    fn stamp(&self) -> Option<Stamp> {
        match &self.place {
            Place::Application { proof: Proof::Secret(name) | Proof::Certificate { key: name, .. } | Proof::Federated(name), .. } => {
                self.directory.stamp(name)
            }
            Place::Managed { .. } => None,
        }
    }
}

impl Identity {
    pub(super) fn new(place: Place, resource: String, directory: CredentialDirectory) -> Self {
        Self { place, resource, directory }
    }

    /// Client credentials of OAuth 2.0 (RFC 6749, section 4.4), with a statement in place of a secret where there is none (RFC 7523).
    async fn sign_in(&self, authority: &Connection, tenant: &str, client: &str, proof: &Proof) -> Result<Token, ProviderError> {
        let origin = authority.endpoint().origin();
        let what = format!("Token for application \"{client}\" at {origin}");
        let path = format!("/{tenant}/oauth2/v2.0/token");
        let (name, value) = match proof {
            Proof::Secret(file) => ("client_secret", self.directory.secret(file)?.text(file)?),
            Proof::Federated(file) => ("client_assertion", self.directory.secret(file)?.text(file)?),
            Proof::Certificate { cert, key } => ("client_assertion", self.statement(&format!("{origin}{path}"), client, cert, key)?),
        };
        let scope = format!("{}/.default", self.resource);
        let mut pairs = vec![("client_id", client), ("grant_type", "client_credentials"), ("scope", &scope), (name, value.as_str())];
        if name == "client_assertion" {
            pairs.push(("client_assertion_type", ASSERTION));
        }
        let reply = post_form(&*authority.http()?, &path, &pairs).await?;
        if reply.status != 200 {
            // Numbers of Entra ID: a statement that is not valid yet or not any more.
            let clocks = says(&reply, "AADSTS700024");
            let why =
                if clocks { "the clocks of this server and of Azure differ" } else { "the application's credentials are not accepted" };
            return Err(token_refused(&reply, &what, why));
        }
        Token::read(&reply).ok_or_else(|| ProviderError::Malformed(format!("{what}: the answer holds no access token.")))
    }

    fn statement(&self, audience: &str, client: &str, cert: &str, key: &str) -> Result<Zeroizing<String>, ProviderError> {
        let unfit = |name: &str, what: &str| ProviderError::Denied(format!("Credential file \"{name}\" holds no {what}."));
        let certificate = CertificateDer::from_pem_slice(&self.directory.public(cert)?.bytes);
        let certificate = certificate.map_err(|_| unfit(cert, "certificate in PEM"))?;
        let private = jwt::key(&self.directory.secret(key)?.bytes).ok_or_else(|| unfit(key, "private RSA key in PEM"))?;
        let signed = || {
            let (now, end) = jwt::times(LIFETIME)?;
            let mut id = [0; 16];
            getrandom::fill(&mut id).ok()?;
            let thumbprint = URL_SAFE_NO_PAD.encode(kdf::sha256(&[certificate.as_ref()]));
            let header = json!({"alg": "PS256", "typ": "JWT", "x5t#S256": thumbprint});
            let claims = json!({"iss": client, "sub": client, "aud": audience, "jti": hex::encode(id), "nbf": now, "iat": now, "exp": end});
            jwt::sign(&header, &claims, &private, &RSA_PSS_SHA256)
        };
        signed().ok_or_else(|| unfit(key, "private key that signs"))
    }

    /// The token of the machine's managed identity.
    async fn ask_metadata(&self, metadata: &Connection, client: Option<&str>) -> Result<Token, ProviderError> {
        let what = format!("Instance metadata at {}", metadata.endpoint().origin());
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("api-version", "2018-02-01").append_pair("resource", &self.resource);
        if let Some(client) = client {
            query.append_pair("client_id", client);
        }
        let path = format!("/metadata/identity/oauth2/token?{}", query.finish());
        // No forged request of a browser or proxy has it.
        let header = [(HeaderName::from_static("metadata"), "true")];
        let reply = metadata.http()?.send(Method::GET, &path, &header, None).await?;
        match reply.status {
            200 => Token::read(&reply).ok_or_else(|| ProviderError::Malformed(format!("{what}: the answer holds no access token."))),
            // While the identity is being set up, too, which is over in seconds.
            404 | 410 => Err(ProviderError::Unavailable(format!("{what}: the service cannot answer now."))),
            _ => Err(token_refused(&reply, &what, "this machine has no such managed identity")),
        }
    }
}
