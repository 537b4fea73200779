//! Requests to a cloud whose API takes one item each, in JSON, with an access token.
//!
//! A batch is a sequence of requests with a few under way at once. A token is kept for as long as it lasts, and fetched anew once when the API
//! does not take it any more.

use super::{
    Answer, ProviderError,
    ahead::Ahead,
    cloud::{Connection, Failure, for_each},
    http::{Http, Reply},
    root_key::Stamp,
    secret_json,
};
use reqwest::{Method, header};
use serde_json::{Map, Value};
use std::{
    cell::RefCell,
    rc::Rc,
    time::{Duration, Instant},
};
use url::form_urlencoded;
use zeroize::Zeroizing;

/// A token is replaced this long before it expires, so that none expires on its way. Metadata services keep theirs until shortly before.
const EARLY: Duration = Duration::from_mins(2);

/// An access token.
pub(super) struct Token {
    value: Zeroizing<String>,
    expires: Instant,
    /// The project of its owner, where a health check has to know it.
    pub(super) project: Option<String>,
}

impl Token {
    /// The same, of a project.
    pub(super) fn of(self, project: &str) -> Self {
        Self { project: Some(project.to_owned()), ..self }
    }

    fn lasts(&self, time: Duration) -> bool {
        Instant::now().checked_add(time).is_some_and(|then| then < self.expires)
    }

    /// The token in an answer of an OAuth 2.0 token endpoint (RFC 6749, section 5.1).
    pub(super) fn read(reply: &Reply) -> Option<Self> {
        let Ok(Value::Object(mut answer)) = serde_json::from_slice(&reply.body) else { return None };
        let value = secret_json::take(&mut answer, "access_token")?;
        // Azure's metadata service writes the number as a text.
        let seconds = answer.get("expires_in").and_then(|s| s.as_u64().or_else(|| s.as_str()?.parse().ok()))?;
        let bearer = answer.get("token_type").and_then(Value::as_str).is_some_and(|kind| kind.eq_ignore_ascii_case("bearer"));
        let expires = Instant::now().checked_add(Duration::from_secs(seconds))?;
        (bearer && !value.is_empty()).then_some(Self { value, expires, project: None })
    }
}

/// Where tokens come from.
pub(super) trait Source {
    /// Gets a token.
    fn fetch(&self) -> Answer<'_, Token>;

    /// Stamp of the credential file, if there is one: when it has changed, the token at hand is of yesterday's credentials.
    fn stamp(&self) -> Option<Stamp>;
}

/// Posts a form with secrets in it to a token endpoint.
pub(super) async fn post_form(http: &Http, path: &str, pairs: &[(&str, &str)]) -> Result<Reply, ProviderError> {
    // Large enough at once: each character takes three at most.
    let room =
        pairs.iter().fold(0_usize, |sum, (name, value)| sum.saturating_add(name.len()).saturating_add(value.len()).saturating_add(2));
    let mut form = form_urlencoded::Serializer::new(String::with_capacity(room.saturating_mul(3)));
    let form = Zeroizing::new(form.extend_pairs(pairs).finish().into_bytes());
    http.send(Method::POST, path, &[(header::CONTENT_TYPE, "application/x-www-form-urlencoded")], Some(form)).await
}

/// What an answer of a token endpoint that is no success means: an outage, or a refusal in the given words.
pub(super) fn token_refused(reply: &Reply, what: &str, refusal: &str) -> ProviderError {
    match reply.status {
        429 => ProviderError::Throttled(format!("{what}: fewer requests are wanted.")),
        500.. => ProviderError::Unavailable(format!("{what}: the service cannot answer now.")),
        _ => ProviderError::Denied(format!("{what}: {refusal}.")),
    }
}

/// Whether the answer's text has these words. Its text is looked at, never shown.
pub(super) fn says(reply: &Reply, words: &str) -> bool {
    reply.body.windows(words.len()).any(|part| part.eq_ignore_ascii_case(words.as_bytes()))
}

/// One request.
pub(super) struct Call {
    pub(super) method: Method,
    /// With the query, encoded.
    pub(super) path: String,
    pub(super) body: Option<Zeroizing<Vec<u8>>>,
    /// Whether it opens bytes that somebody may have altered.
    pub(super) opens: bool,
}

impl Call {
    /// A look-up.
    pub(super) fn get(path: String) -> Self {
        Self { method: Method::GET, path, body: None, opens: false }
    }
}

/// What an answer that is no success means: the answer, whether the request was to open bytes, and what is asked about.
type Classify = fn(&Reply, bool, &str) -> Failure;

/// The API with one identity.
pub(super) struct Api<S> {
    kms: Connection,
    source: S,
    cached: RefCell<Option<(Rc<Token>, Option<Stamp>)>>,
    ahead: Ahead,
    classify: Classify,
}

impl<S: Source> Api<S> {
    pub(super) fn new(kms: Connection, source: S, classify: Classify, deadline: Duration) -> Self {
        Self { kms, source, cached: RefCell::new(None), ahead: Ahead::new(deadline), classify }
    }

    pub(super) fn origin(&self) -> String {
        self.kms.endpoint().origin()
    }

    /// A token that is valid now, as far as can be known here.
    pub(super) async fn token(&self) -> Result<Rc<Token>, ProviderError> {
        let stamp = self.source.stamp();
        let kept = self.cached.borrow().as_ref().filter(|(_, of)| *of == stamp).map(|(token, _)| Rc::clone(token));
        if let Some(token) = kept.as_ref().filter(|token| token.lasts(EARLY)) {
            return Ok(Rc::clone(token));
        }
        let token = match kept.filter(|token| token.lasts(Duration::ZERO)) {
            // It is to be replaced early; until it expires it serves.
            Some(kept) => match self.ahead.get(self.source.fetch()).await? {
                Some(token) => token,
                None => return Ok(kept),
            },
            None => self.source.fetch().await?,
        };
        let token = Rc::new(token);
        *self.cached.borrow_mut() = Some((Rc::clone(&token), stamp));
        Ok(token)
    }

    async fn instead_of(&self, stale: &Rc<Token>) -> Result<Rc<Token>, ProviderError> {
        self.cached.borrow_mut().take_if(|(token, _)| Rc::ptr_eq(token, stale));
        self.token().await
    }

    /// Makes the calls. `None` for a call that is none, or whose bytes the key rejects. Answers stand in the order of the calls.
    pub(super) async fn all(
        &self,
        what: &str,
        count: usize,
        call: &dyn Fn(usize) -> Option<Call>,
    ) -> Result<Vec<Option<Map<String, Value>>>, ProviderError> {
        if count == 0 {
            return Ok(Vec::new());
        }
        self.try_all(what, count, call).await.map_err(|failure| failure.into_error(&self.origin()))
    }

    async fn try_all(
        &self,
        what: &str,
        count: usize,
        call: &dyn Fn(usize) -> Option<Call>,
    ) -> Result<Vec<Option<Map<String, Value>>>, Failure> {
        let token = self.token().await?;
        match self.all_with(&token, what, count, call).await {
            Err(Failure::Stale(_)) => {
                let fresh = self.instead_of(&token).await?;
                self.all_with(&fresh, what, count, call).await
            }
            result => result,
        }
    }

    async fn all_with(
        &self,
        token: &Token,
        what: &str,
        count: usize,
        call: &dyn Fn(usize) -> Option<Call>,
    ) -> Result<Vec<Option<Map<String, Value>>>, Failure> {
        let http = self.kms.http()?;
        for_each(count, call, |call| self.send(&http, token, call, what)).await
    }

    /// One call that is about no item.
    pub(super) async fn one(&self, what: &str, path: &str) -> Result<Map<String, Value>, Failure> {
        let mut answers = self.try_all(what, 1, &|_| Some(Call::get(path.to_owned()))).await?;
        answers.pop().flatten().ok_or(Failure::Rejected)
    }

    async fn send(&self, http: &Http, token: &Token, call: Call, what: &str) -> Result<Map<String, Value>, Failure> {
        let bearer = Zeroizing::new(["Bearer ", token.value.as_str()].concat());
        let mut headers = vec![(header::AUTHORIZATION, bearer.as_str())];
        if call.body.is_some() {
            headers.push((header::CONTENT_TYPE, "application/json"));
        }
        let opens = call.opens;
        let reply = http.send(call.method, &call.path, &headers, call.body).await?;
        if reply.status != 200 {
            return Err((self.classify)(&reply, opens, what));
        }
        match serde_json::from_slice(&reply.body) {
            Ok(Value::Object(fields)) => Ok(fields),
            _ => Err(ProviderError::Malformed(format!("{what}: the answer is not a JSON object.")).into()),
        }
    }
}
