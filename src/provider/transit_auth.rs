//! How a transit provider gets its token: from a file, by AppRole, or by a Kubernetes service account.
//!
//! Tokens stay in this process. A lease is renewed when two thirds of it are over, and before it ends there is a new login; both happen in
//! the call that needs the token, since nothing runs between calls, and in a part of its time.

use super::{
    ProviderError,
    ahead::Ahead,
    config::{ConfigError, Environment, Fields},
    credentials::CredentialDirectory,
    http::{Http, Reply},
    root_key::Stamp,
    transit_wire::status_error,
};
use reqwest::{
    Method,
    header::{CONTENT_TYPE, HeaderName},
};
use serde::Deserialize;
use std::{
    cell::RefCell,
    rc::Rc,
    time::{Duration, Instant},
};
use zeroize::Zeroizing;

const TOKEN: HeaderName = HeaderName::from_static("x-vault-token");
const NAMESPACE: HeaderName = HeaderName::from_static("x-vault-namespace");

/// Where the token comes from. Files are credential files.
enum Source {
    Token { file: String },
    AppRole { path: String, role_id_file: String, secret_id_file: String },
    Kubernetes { path: String, role: String, jwt_file: String },
}

/// Holds the token of one provider.
pub(super) struct Auth {
    source: Source,
    namespace: Option<String>,
    credentials: CredentialDirectory,
    session: RefCell<Option<Rc<Session>>>,
    ahead: Ahead,
}

/// A token as long as it is good.
pub(super) struct Session {
    token: Zeroizing<String>,
    /// Of the file that it came from.
    stamp: Option<Stamp>,
    /// None where it does not end, or nobody told.
    lease: Option<Lease>,
}

struct Lease {
    /// What the login gave. A renewal that gives less than half of it has met the token's last day.
    granted: Duration,
    renew_at: Instant,
    ends: Instant,
    renewable: bool,
}

/// The part of a login's answer that counts.
#[derive(Deserialize)]
struct Login<'a> {
    #[serde(borrow)]
    auth: Granted<'a>,
}

#[derive(Deserialize)]
struct Granted<'a> {
    client_token: &'a str,
    #[serde(default)]
    lease_duration: u64,
    #[serde(default)]
    renewable: bool,
}

/// What the server tells of a token. Times are seconds.
#[derive(Deserialize)]
struct Known {
    data: Facts,
}

#[derive(Deserialize)]
struct Facts {
    #[serde(default)]
    ttl: u64,
    #[serde(default)]
    creation_ttl: u64,
    #[serde(default)]
    period: u64,
    #[serde(default)]
    renewable: bool,
}

impl Facts {
    /// Whether two thirds of its time are over. A token without an end has a `ttl` of 0.
    fn is_due(&self) -> bool {
        self.renewable && self.ttl > 0 && self.ttl.saturating_mul(3) <= self.creation_ttl.max(self.period)
    }
}

impl Lease {
    fn new(seconds: u64, granted: Option<Duration>, renewable: bool) -> Option<Self> {
        let length = Duration::from_secs(seconds);
        let now = Instant::now();
        let renew_at = now.checked_add(length.checked_mul(2)?.checked_div(3)?)?;
        let ends = now.checked_add(length)?;
        (seconds > 0).then(|| Self { granted: granted.unwrap_or(length), renew_at, ends, renewable })
    }
}

impl Auth {
    /// Reads the fields of the configuration that say how to log in. Those of another method are nobody's, and so refused.
    pub(super) fn read(fields: &mut Fields<'_>, namespace: Option<String>, environment: &Environment) -> Result<Self, ConfigError> {
        let source = match fields.text("auth")?.unwrap_or("token") {
            "token" => Source::Token { file: file(fields, "token_file")? },
            "approle" => Source::AppRole {
                path: login_path(fields, "approle")?,
                role_id_file: file(fields, "role_id_file")?,
                secret_id_file: file(fields, "secret_id_file")?,
            },
            "kubernetes" => Source::Kubernetes {
                path: login_path(fields, "kubernetes")?,
                role: fields.required("role")?.to_owned(),
                jwt_file: file(fields, "jwt_file")?,
            },
            _ => return Err(ConfigError::new("auth", "It must be token, approle or kubernetes.")),
        };
        let (credentials, ahead) = (environment.credentials.clone(), Ahead::new(environment.deadline));
        Ok(Self { source, namespace, credentials, session: RefCell::new(None), ahead })
    }

    /// The token to use now: as it is, renewed, or new.
    pub(super) async fn session(&self, http: &Http) -> Result<Rc<Session>, ProviderError> {
        let held = self.session.borrow().clone();
        let Source::Token { file } = &self.source else {
            let Some(held) = held else { return self.log_in(http).await };
            return self.extend(http, held).await;
        };
        if let Some(held) = held.filter(|held| held.stamp.is_some() && held.stamp == self.credentials.stamp(file)) {
            return Ok(held);
        }
        let read = self.credentials.secret(file)?;
        Ok(self.keep(Session { token: read.text(file)?, stamp: Some(read.stamp), lease: None }))
    }

    /// Whether a token that is refused can be replaced by another one. A token's file has been read already, if it changed.
    pub(super) fn can_log_in(&self) -> bool {
        !matches!(self.source, Source::Token { .. })
    }

    /// Whether the server knows the token at all. If so, a refusal is a matter of its policies, and a new token would be refused too.
    pub(super) async fn is_accepted(&self, http: &Http, session: &Session) -> Result<bool, ProviderError> {
        let reply = self.send(http, Method::GET, "/v1/auth/token/lookup-self", Some(session), None).await?;
        match reply.status {
            200 => Ok(true),
            403 => Ok(false),
            status => Err(status_error(status, &format!("The token at {}", http.endpoint().origin()))),
        }
    }

    /// Renews the token of a file when it is due by what the server has just told of it. Whoever probes providers does it for all sessions: they
    /// use one token, and would have to ask for its end first.
    pub(super) async fn renew_file_token(&self, http: &Http, told: &Reply) -> Result<(), ProviderError> {
        let facts = serde_json::from_slice::<Known>(&told.body).ok().map(|known| known.data);
        let Some(facts) = facts.filter(|facts| !self.can_log_in() && facts.is_due()) else { return Ok(()) };
        let session = self.session(http).await?;
        let reply = self.send(http, Method::POST, "/v1/auth/token/renew-self", Some(&session), None).await;
        let refused = match reply {
            Ok(reply) if reply.status == 200 => {
                let length = serde_json::from_slice::<Login<'_>>(&reply.body).map_or(0, |login| login.auth.lease_duration);
                // One that is renewed to no longer than it had anyway has met its last day.
                (length <= facts.ttl).then_some("no more than it has")
            }
            Ok(reply) => Some(status_error(reply.status, "")).filter(|e| !e.is_outage()).map(|_| "nothing"),
            // Good for a while yet, and asked again by the next probe.
            Err(_) => None,
        };
        let origin = http.endpoint().origin();
        refused.map_or(Ok(()), |what| {
            Err(ProviderError::Denied(format!("The token at {origin} ends in {} s, and renewing it gives {what}.", facts.ttl)))
        })
    }

    /// Forgets a token that the server no longer knows.
    pub(super) fn forget(&self, session: &Rc<Session>) {
        let mut held = self.session.borrow_mut();
        if held.as_ref().is_some_and(|held| Rc::ptr_eq(held, session)) {
            *held = None;
        }
    }

    /// Sends one request with the token and within the namespace.
    pub(super) async fn send(
        &self,
        http: &Http,
        method: Method,
        path: &str,
        session: Option<&Session>,
        body: Option<Zeroizing<Vec<u8>>>,
    ) -> Result<Reply, ProviderError> {
        let mut headers = Vec::with_capacity(3);
        if let Some(session) = session {
            headers.push((TOKEN, session.token.as_str()));
        }
        if let Some(namespace) = &self.namespace {
            headers.push((NAMESPACE, namespace.as_str()));
        }
        if body.is_some() {
            headers.push((CONTENT_TYPE, "application/json"));
        }
        http.send(method, path, &headers, body).await
    }

    /// Renews or replaces a token whose lease is going to end.
    async fn extend(&self, http: &Http, held: Rc<Session>) -> Result<Rc<Session>, ProviderError> {
        let now = Instant::now();
        let Some(lease) = held.lease.as_ref().filter(|lease| now >= lease.renew_at) else { return Ok(held) };
        if now >= lease.ends {
            return self.log_in(http).await;
        }
        let replaced = self.ahead.get(async {
            if lease.renewable {
                let reply = self.send(http, Method::POST, "/v1/auth/token/renew-self", Some(&held), None).await;
                let renewed = reply.and_then(|reply| granted(http, &reply, Some(lease.granted)));
                if let Ok(renewed) = renewed
                    && renewed.lease.as_ref().is_none_or(|new| new.ends.saturating_duration_since(now).saturating_mul(2) >= lease.granted)
                {
                    return Ok(self.keep(renewed));
                }
            }
            self.log_in(http).await
        });
        // The token is good for a while yet, and what keeps us from a new one may have passed by then.
        Ok(replaced.await?.unwrap_or(held))
    }

    async fn log_in(&self, http: &Http) -> Result<Rc<Session>, ProviderError> {
        let (path, body) = match &self.source {
            Source::Token { file } => return Err(ProviderError::Denied(format!("The token of file \"{file}\" was refused."))),
            Source::AppRole { path, role_id_file, secret_id_file } => {
                (path, object([("role_id", &self.secret(role_id_file)?), ("secret_id", &self.secret(secret_id_file)?)])?)
            }
            Source::Kubernetes { path, role, jwt_file } => (path, object([("role", role), ("jwt", &self.secret(jwt_file)?)])?),
        };
        let reply = self.send(http, Method::POST, path, None, Some(body)).await?;
        Ok(self.keep(granted(http, &reply, None)?))
    }

    fn secret(&self, name: &str) -> Result<Zeroizing<String>, ProviderError> {
        self.credentials.secret(name)?.text(name)
    }

    fn keep(&self, session: Session) -> Rc<Session> {
        let session = Rc::new(session);
        *self.session.borrow_mut() = Some(Rc::clone(&session));
        session
    }
}

/// The token that a login or a renewal gives. `granted` is the lease that the login gave, when this is a renewal.
fn granted(http: &Http, reply: &Reply, granted: Option<Duration>) -> Result<Session, ProviderError> {
    let login = format!("Login at {}", http.endpoint().origin());
    match reply.status {
        200 => {}
        // How a wrong role, secret id or service account token is answered.
        400 | 401 => return Err(ProviderError::Denied(format!("{login}: role or credentials were refused."))),
        404 => return Err(ProviderError::Denied(format!("{login}: nothing is mounted at auth_mount."))),
        status => return Err(status_error(status, &login)),
    }
    let auth = serde_json::from_slice::<Login<'_>>(&reply.body).ok().map(|answer| answer.auth);
    // A token that no header can carry would be kept for the time of its lease, and fail each call.
    let fits = |token: &str| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    let auth = auth.filter(|auth| fits(auth.client_token));
    let auth = auth.ok_or_else(|| ProviderError::Malformed(format!("{login}: the answer has no token.")))?;
    let lease = Lease::new(auth.lease_duration, granted, auth.renewable);
    Ok(Session { token: Zeroizing::new(auth.client_token.to_owned()), stamp: None, lease })
}

fn file(fields: &mut Fields<'_>, field: &'static str) -> Result<String, ConfigError> {
    let name = fields.file(field)?;
    name.map(str::to_owned).ok_or_else(|| ConfigError::new(field, "It is required."))
}

fn login_path(fields: &mut Fields<'_>, default: &str) -> Result<String, ConfigError> {
    Ok(format!("/v1/auth/{}/login", super::transit::mount(fields, "auth_mount", default)?))
}

/// A JSON object of texts, in a buffer that never grows.
fn object<const N: usize>(members: [(&str, &str); N]) -> Result<Zeroizing<Vec<u8>>, ProviderError> {
    // Each byte of a text takes six characters at most.
    let len: usize = members.iter().map(|(_, text)| text.len().saturating_mul(6).saturating_add(32)).sum();
    let mut body = Zeroizing::new(Vec::with_capacity(len.saturating_add(2)));
    for (i, (name, text)) in members.iter().enumerate() {
        body.extend_from_slice(if i == 0 { b"{\"" } else { b",\"" });
        body.extend_from_slice(name.as_bytes());
        body.extend_from_slice(b"\":");
        serde_json::to_writer(&mut *body, text).map_err(|_| ProviderError::Denied("The credentials make no request.".to_owned()))?;
    }
    body.push(b'}');
    Ok(body)
}
