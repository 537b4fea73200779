//! Where requests to AWS get their keys from, and how long those are kept.

use super::{
    ProviderError,
    ahead::Ahead,
    aws_request::{classify, element},
    cloud::{Connection, Failure},
    config::Environment,
    credentials::CredentialDirectory,
    http::Reply,
    root_key::Stamp,
};
use aws_smithy_types::{DateTime, date_time::Format};
use reqwest::{Method, header::HeaderName};
use serde_json::Value;
use std::{
    cell::RefCell,
    rc::Rc,
    time::{Duration, SystemTime},
};
use url::form_urlencoded;
use zeroize::Zeroizing;

/// Temporary keys are replaced this long before they expire, so that none expires on its way.
const EARLY: Duration = Duration::from_mins(5);

/// Where keys come from. Exactly one place: a search through several would use another identity when the right one is missing.
pub(super) enum Source {
    /// A profile of a shared credentials file.
    File { name: String, profile: String },
    /// The environment of the server's process.
    Environment,
    /// A role, for a token of an identity provider.
    WebIdentity { token_file: String, role_arn: String, sts: Connection },
    /// The role of the machine, from its metadata service, version 2.
    Instance { metadata: Connection },
}

/// Keys that requests are signed with.
pub(super) struct Keys {
    /// Wiped when the last copy is dropped.
    pub(super) credentials: aws_credential_types::Credentials,
    /// Of the file that they were read from.
    stamp: Option<Stamp>,
}

impl Keys {
    fn new(access: &str, secret: &str, token: Option<&str>, expires: Option<SystemTime>) -> Self {
        let token = token.map(str::to_owned);
        Self { credentials: aws_credential_types::Credentials::new(access, secret, token, expires, "kms_wrap"), stamp: None }
    }

    fn lasts(&self, time: Duration) -> bool {
        self.credentials.expiry().is_none_or(|end| SystemTime::now().checked_add(time).is_some_and(|then| then < end))
    }
}

/// The keys of one provider.
pub(super) struct Credentials {
    source: Source,
    directory: CredentialDirectory,
    cached: RefCell<Option<Rc<Keys>>>,
    ahead: Ahead,
}

impl Credentials {
    pub(super) fn new(source: Source, environment: &Environment) -> Self {
        let (directory, ahead) = (environment.credentials.clone(), Ahead::new(environment.deadline));
        Self { source, directory, cached: RefCell::new(None), ahead }
    }

    /// Keys that are valid now, as far as can be known here.
    pub(super) async fn current(&self) -> Result<Rc<Keys>, ProviderError> {
        let kept = self.cached.borrow().clone().filter(|keys| self.is_unchanged(keys));
        if let Some(keys) = kept.as_ref().filter(|keys| keys.lasts(EARLY)) {
            return Ok(Rc::clone(keys));
        }
        let keys = match kept.filter(|keys| keys.lasts(Duration::ZERO)) {
            // They are to be replaced early; until they expire they serve.
            Some(kept) => match self.ahead.get(self.load()).await? {
                Some(keys) => keys,
                None => return Ok(kept),
            },
            None => self.load().await?,
        };
        let keys = Rc::new(keys);
        *self.cached.borrow_mut() = Some(Rc::clone(&keys));
        Ok(keys)
    }

    /// Keys in place of some that AWS does not take any more.
    pub(super) async fn instead_of(&self, stale: &Rc<Keys>) -> Result<Rc<Keys>, ProviderError> {
        self.cached.borrow_mut().take_if(|keys| Rc::ptr_eq(keys, stale));
        self.current().await
    }

    fn is_unchanged(&self, keys: &Keys) -> bool {
        match &self.source {
            Source::File { name, .. } => self.directory.stamp(name) == keys.stamp,
            _ => true,
        }
    }

    async fn load(&self) -> Result<Keys, ProviderError> {
        match &self.source {
            Source::File { name, profile } => self.read_file(name, profile),
            Source::Environment => from_environment(|name| std::env::var(name).ok()),
            Source::WebIdentity { token_file, role_arn, sts } => self.assume_role(token_file, role_arn, sts).await,
            Source::Instance { metadata } => from_metadata(metadata).await,
        }
    }

    fn read_file(&self, name: &str, profile: &str) -> Result<Keys, ProviderError> {
        let file = self.directory.secret(name)?;
        let unfit = |why: &str| ProviderError::Denied(format!("Credential file \"{name}\" {why} profile \"{profile}\"."));
        let text = std::str::from_utf8(&file.bytes).map_err(|_| unfit("is not UTF-8, so it has no"))?;
        let keys = parse_profile(text, profile).ok_or_else(|| unfit("has no"))?;
        let (Some(access), Some(secret)) = (keys.access, keys.secret) else {
            return Err(unfit("lacks aws_access_key_id or aws_secret_access_key in"));
        };
        Ok(Keys { stamp: Some(file.stamp), ..Keys::new(access, secret, keys.token, None) })
    }

    /// AssumeRoleWithWebIdentity of AWS STS. It is not signed: the token is the proof.
    async fn assume_role(&self, token_file: &str, role_arn: &str, sts: &Connection) -> Result<Keys, ProviderError> {
        let token = self.directory.secret(token_file)?.text(token_file)?;
        // Large enough at once: each character takes three at most.
        let room = token.len().saturating_add(role_arn.len()).saturating_mul(3).saturating_add(200);
        let form = form_urlencoded::Serializer::new(String::with_capacity(room))
            .append_pair("Action", "AssumeRoleWithWebIdentity")
            .append_pair("Version", "2011-06-15")
            .append_pair("RoleSessionName", "kms_wrap")
            .append_pair("RoleArn", role_arn)
            .append_pair("WebIdentityToken", &token)
            .finish();
        let headers = [(HeaderName::from_static("content-type"), "application/x-www-form-urlencoded")];
        let reply = sts.http()?.send(Method::POST, "/", &headers, Some(Zeroizing::new(form.into_bytes()))).await?;
        let what = format!("Role \"{role_arn}\" at {}", sts.endpoint().origin());
        if reply.status != 200 {
            return Err(match classify(&reply, false, &what).into_error(&sts.endpoint().origin()) {
                outage if outage.is_outage() => outage,
                _ => ProviderError::Denied(format!("{what}: the token in credential file \"{token_file}\" is not accepted for it.")),
            });
        }
        let keys = || {
            let xml = std::str::from_utf8(&reply.body).ok()?;
            let expires = expiry(element(xml, "Expiration")?)?;
            let token = element(xml, "SessionToken")?;
            Some(Keys::new(element(xml, "AccessKeyId")?, element(xml, "SecretAccessKey")?, Some(token), Some(expires)))
        };
        keys().ok_or_else(|| ProviderError::Malformed(format!("{what}: the answer holds no credentials.")))
    }
}

fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Keys, ProviderError> {
    let read = |name| variable(name).filter(|value| !value.is_empty()).map(Zeroizing::new);
    let (Some(access), Some(secret)) = (read("AWS_ACCESS_KEY_ID"), read("AWS_SECRET_ACCESS_KEY")) else {
        let text = "The server's environment lacks AWS_ACCESS_KEY_ID or AWS_SECRET_ACCESS_KEY.";
        return Err(ProviderError::Denied(text.to_owned()));
    };
    Ok(Keys::new(&access, &secret, read("AWS_SESSION_TOKEN").as_deref().map(String::as_str), None))
}

/// The role's keys from the instance metadata service: version 2 only, whose token no forged request of a browser or proxy can get.
async fn from_metadata(metadata: &Connection) -> Result<Keys, ProviderError> {
    const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
    let http = metadata.http()?;
    let what = format!("Instance metadata at {}", metadata.endpoint().origin());
    let malformed = |text: &str| ProviderError::Malformed(format!("{what}: {text}."));
    let lifetime = [(HeaderName::from_static("x-aws-ec2-metadata-token-ttl-seconds"), "60")];
    let reply = http.send(Method::PUT, "/latest/api/token", &lifetime, None).await?;
    let token = Zeroizing::new(text(&reply, &what)?.to_owned());
    let token = [(HeaderName::from_static("x-aws-ec2-metadata-token"), token.as_str())];
    let reply = http.send(Method::GET, ROLES, &token, None).await?;
    let role = text(&reply, &what)?.lines().next().unwrap_or_default().trim().to_owned();
    // IAM's rule for names; it goes into a path.
    if role.is_empty()
        || role.len() > 64
        || !role.chars().all(|c| c.is_ascii_alphanumeric() || "+=,.@_-".contains(c))
        || role.contains("..")
    {
        return Err(malformed("the answer names no role"));
    }
    let reply = http.send(Method::GET, &format!("{ROLES}{role}"), &token, None).await?;
    let mut answer: Value = serde_json::from_str(text(&reply, &what)?).map_err(|_| malformed("the answer is not JSON"))?;
    let mut take = |name: &str| match answer.get_mut(name).map(Value::take) {
        Some(Value::String(text)) => Some(Zeroizing::new(text)),
        _ => None,
    };
    let (access, secret, token) = (take("AccessKeyId"), take("SecretAccessKey"), take("Token"));
    let expires = take("Expiration").and_then(|time| expiry(&time));
    match (access, secret, token, expires) {
        (Some(access), Some(secret), Some(token), Some(expires)) => Ok(Keys::new(&access, &secret, Some(&token), Some(expires))),
        _ => Err(malformed("the answer holds no credentials")),
    }
}

fn text<'a>(reply: &'a Reply, what: &str) -> Result<&'a str, ProviderError> {
    let text = || std::str::from_utf8(&reply.body).map_err(|_| ProviderError::Malformed(format!("{what}: the answer is not text.")));
    match reply.status {
        200 => text(),
        404 => Err(ProviderError::Denied(format!("{what}: this machine has no role."))),
        status if status == 429 || status >= 500 => match classify(reply, false, what) {
            Failure::Failed(error) | Failure::Stale(error) | Failure::Forbidden(error) => Err(error),
            Failure::Rejected => Err(ProviderError::Unavailable(format!("{what}: the service cannot answer now."))),
        },
        _ => Err(ProviderError::Denied(format!("{what}: the request is refused."))),
    }
}

fn expiry(time: &str) -> Option<SystemTime> {
    DateTime::from_str(time, Format::DateTimeWithOffset).ok()?.try_into().ok()
}

/// What a profile says, borrowed from the file's text.
#[derive(Default)]
struct Profile<'a> {
    access: Option<&'a str>,
    secret: Option<&'a str>,
    token: Option<&'a str>,
}

/// The keys of `[profile]` in a shared credentials file; `None` when there is no such section.
fn parse_profile<'a>(text: &'a str, profile: &str) -> Option<Profile<'a>> {
    let mut found: Option<Profile<'a>> = None;
    let mut inside = false;
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#', ';'])) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            inside = name.trim() == profile;
            if inside {
                found.get_or_insert_default();
            }
        } else if let (true, Some((name, value)), Some(found)) = (inside, line.split_once('='), found.as_mut()) {
            let value = Some(value.trim()).filter(|value| !value.is_empty());
            match name.trim() {
                "aws_access_key_id" => found.access = value,
                "aws_secret_access_key" => found.secret = value,
                "aws_session_token" => found.token = value,
                _ => {}
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# people\n[default]\naws_access_key_id = A1\naws_secret_access_key=s=1/+\n\n[other]\r\naws_access_key_id=A2\r\n\
                        aws_secret_access_key=S2\r\naws_session_token = T2\r\nregion = x\n[empty]\n; [no]\n";

    #[test]
    fn a_profile_is_read_alone() {
        let profile = |name| parse_profile(FILE, name).map(|p| (p.access, p.secret, p.token));
        assert_eq!(profile("default"), Some((Some("A1"), Some("s=1/+"), None)));
        assert_eq!(profile("other"), Some((Some("A2"), Some("S2"), Some("T2"))));
        assert_eq!(profile("empty"), Some((None, None, None)));
        assert_eq!(profile("no"), None);
    }

    #[test]
    fn the_environment_needs_both_keys() {
        let with = |names: &'static [&'static str]| from_environment(move |n| names.contains(&n).then(|| format!("v-{n}")));
        let keys = with(&["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]).ok().map(|k| k.credentials);
        let keys = keys.unwrap();
        assert_eq!(keys.access_key_id(), "v-AWS_ACCESS_KEY_ID");
        assert_eq!(keys.session_token(), None);
        let keys = with(&["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"]).ok().map(|k| k.credentials);
        assert_eq!(keys.unwrap().session_token(), Some("v-AWS_SESSION_TOKEN"));
        for lacking in [&["AWS_ACCESS_KEY_ID"][..], &["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"], &[]] {
            assert!(with(lacking).is_err_and(|e| e.class() == "denied"));
        }
    }

    #[test]
    fn keys_are_replaced_before_they_expire() {
        let keys = |seconds| Keys::new("a", "s", None, SystemTime::now().checked_add(Duration::from_secs(seconds)));
        assert!(!keys(290).lasts(EARLY) && keys(290).lasts(Duration::ZERO));
        assert!(keys(310).lasts(EARLY));
        assert!(!keys(0).lasts(Duration::ZERO));
        assert!(Keys::new("a", "s", None, None).lasts(EARLY));
        assert_eq!(expiry("1970-01-01T00:01:40Z"), SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(100)));
        assert!(expiry("1970-01-01T00:01:40.5Z").is_some());
        assert_eq!(expiry("soon"), None);
    }
}
