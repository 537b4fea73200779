//! What providers of clouds have in common: a client of an endpoint, and how a request may fail.

use super::{
    ProviderError,
    credentials::CredentialDirectory,
    endpoint::Endpoint,
    http::{Http, Tls},
    root_key::Stamp,
};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::{Map, Value};
use std::{cell::RefCell, future::Future, rc::Rc};

/// Requests under way at once. Clouds limit requests a second, not connections; more would reach that limit sooner without being faster.
const AT_ONCE: usize = 8;

/// A client that reads its CA file when it is first used, and again when the file has changed.
pub(super) struct Connection {
    endpoint: Endpoint,
    tls: Tls,
    directory: CredentialDirectory,
    made: RefCell<Option<(Rc<Http>, Option<Stamp>)>>,
}

impl Connection {
    pub(super) fn new(endpoint: Endpoint, ca_file: Option<String>, directory: CredentialDirectory) -> Self {
        Self { endpoint, tls: Tls { ca_file, ..Tls::default() }, directory, made: RefCell::new(None) }
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(super) fn http(&self) -> Result<Rc<Http>, ProviderError> {
        let stamp = self.tls.ca_file.as_deref().and_then(|name| self.directory.stamp(name));
        let mut made = self.made.borrow_mut();
        if let Some((http, of)) = made.as_ref()
            && *of == stamp
        {
            return Ok(Rc::clone(http));
        }
        let http = Rc::new(Http::new(self.endpoint.clone(), &self.tls, &self.directory)?);
        *made = Some((Rc::clone(&http), stamp));
        Ok(http)
    }
}

/// Sends one call an item, a few at once. `None` for an item without a call, and for one whose bytes the key rejects. Answers stand in the order of
/// the items.
pub(super) async fn for_each<C, F>(
    count: usize,
    call: &dyn Fn(usize) -> Option<C>,
    send: impl Fn(C) -> F,
) -> Result<Vec<Option<Map<String, Value>>>, Failure>
where
    F: Future<Output = Result<Map<String, Value>, Failure>>,
{
    let requests = stream::iter(0..count).map(|i| {
        let request = call(i).map(&send);
        async move {
            let Some(request) = request else { return Ok(None) };
            match request.await {
                Ok(answer) => Ok(Some(answer)),
                Err(Failure::Rejected) => Ok(None),
                Err(failure) => Err(failure),
            }
        }
    });
    requests.buffered(AT_ONCE).try_collect().await
}

/// Why one request gave no result.
pub(super) enum Failure {
    /// The key does not open these bytes.
    Rejected,
    /// The credentials are not valid any more: fresh ones may be.
    Stale(ProviderError),
    /// The credentials are good, but do not allow this action.
    Forbidden(ProviderError),
    /// Anything else.
    Failed(ProviderError),
}

impl From<ProviderError> for Failure {
    fn from(error: ProviderError) -> Self {
        Self::Failed(error)
    }
}

impl Failure {
    /// The error where only an error can be the answer.
    pub(super) fn into_error(self, origin: &str) -> ProviderError {
        match self {
            Self::Rejected => ProviderError::Malformed(format!("{origin} refused bytes that it was not given.")),
            Self::Stale(error) | Self::Forbidden(error) | Self::Failed(error) => error,
        }
    }
}
