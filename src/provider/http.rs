//! HTTPS to a KMS: one client a provider, which keeps its connections.
//!
//! No thread: names are resolved by a client of our own thread (the system's resolver would block or want one), and connections are tasks of
//! the caller's runtime. No redirect and no proxy is followed, and nothing of an answer's text goes into an error.

use super::{ProviderError, credentials::CredentialDirectory, endpoint::Endpoint, root_key::Stamp};
use hickory_resolver::TokioResolver;
use reqwest::{
    Client, Method,
    dns::{Addrs, Name, Resolve, Resolving},
    header::{HeaderMap, HeaderName, HeaderValue},
    redirect,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use std::{
    error::Error as _,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use zeroize::Zeroizing;

/// Most bytes of an answer's body. A batch of 150 shares takes 40 kB.
pub const MAX_BODY: usize = 4 << 20;

/// Longest time to wait for a connection with its TLS handshake. Shorter than a call's deadline, so that another address can be tried.
const CONNECT: Duration = Duration::from_secs(3);

/// How long an idle connection is kept. Servers and firewalls drop silent ones after a minute or more.
const IDLE: Duration = Duration::from_secs(50);

/// Names of credential files for TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// Certificates (PEM) that a server's must chain to; the operating system's when there is none.
    pub ca_file: Option<String>,
    /// Our certificate chain (PEM), for servers that ask for one.
    pub client_cert_file: Option<String>,
    /// Its private key (PEM).
    pub client_key_file: Option<String>,
}

/// A client of one endpoint.
pub struct Http {
    client: Client,
    endpoint: Endpoint,
}

/// An answer. The body may hold a share, so it is wiped.
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// At most [`MAX_BODY`] bytes.
    pub body: Zeroizing<Vec<u8>>,
    /// The headers. Never shown.
    pub headers: HeaderMap,
}

impl Http {
    /// A client. Reads the TLS files, and opens no connection yet.
    ///
    /// # Errors
    /// [`ProviderError::Denied`] when a file is missing, unfit or holds no certificate or key.
    pub fn new(endpoint: Endpoint, tls: &Tls, credentials: &CredentialDirectory) -> Result<Self, ProviderError> {
        let failed = |_| ProviderError::Denied("The HTTP client could not be set up.".to_owned());
        let client = Client::builder()
            .tls_backend_preconfigured(tls_config(tls, credentials)?)
            .dns_resolver(Arc::new(Resolver::default()))
            .redirect(redirect::Policy::none())
            // A request that wraps is not repeated behind our back; what may be repeated is the caller's to say.
            .retry(reqwest::retry::never())
            .no_proxy()
            .http1_only()
            .referer(false)
            .connect_timeout(CONNECT)
            .pool_idle_timeout(IDLE)
            .tcp_nodelay(true)
            .build()
            .map_err(failed)?;
        Ok(Self { client, endpoint })
    }

    /// Where it goes.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Sends one request and reads the whole answer. `path` starts with `/` and is encoded already. Header values are taken for secret.
    ///
    /// # Errors
    /// [`ProviderError::Unavailable`] when there is no whole answer, [`ProviderError::Malformed`] when it is too long or a redirect.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, &str)],
        body: Option<Zeroizing<Vec<u8>>>,
    ) -> Result<Reply, ProviderError> {
        let url = self.endpoint.join(path).ok_or_else(|| ProviderError::Denied("The key's name makes no valid address.".to_owned()))?;
        let mut request = self.client.request(method, url);
        for (name, value) in headers {
            let mut value = HeaderValue::from_str(value)
                .map_err(|_| ProviderError::Denied(format!("The value for header \"{name}\" has characters that no header may have.")))?;
            value.set_sensitive(true);
            request = request.header(name, value);
        }
        if let Some(body) = body {
            // Owned, and not copied: wiped when it was sent.
            request = request.body(bytes::Bytes::from_owner(body));
        }
        let mut response = request.send().await.map_err(|e| self.unavailable(&e))?;
        let status = response.status();
        if status.is_redirection() {
            return Err(ProviderError::Malformed(format!("{} answered with a redirect, which is not followed.", self.endpoint.origin())));
        }
        let mut whole = Zeroizing::new(Vec::new());
        while let Some(part) = response.chunk().await.map_err(|e| self.unavailable(&e))? {
            if whole.len().saturating_add(part.len()) > MAX_BODY {
                return Err(ProviderError::Malformed(format!("{} answered with more than {MAX_BODY} bytes.", self.endpoint.origin())));
            }
            append(&mut whole, &part);
        }
        Ok(Reply { status: status.as_u16(), body: whole, headers: std::mem::take(response.headers_mut()) })
    }

    fn unavailable(&self, error: &reqwest::Error) -> ProviderError {
        ProviderError::Unavailable(format!("{}: {}.", self.endpoint.origin(), reason(error)))
    }
}

/// Appends without leaving an unwiped copy behind when the buffer has to grow.
fn append(whole: &mut Zeroizing<Vec<u8>>, part: &[u8]) {
    let needed = whole.len().saturating_add(part.len());
    if needed > whole.capacity() {
        let mut larger = Zeroizing::new(Vec::with_capacity(needed.saturating_mul(2)));
        larger.extend_from_slice(whole);
        *whole = larger;
    }
    whole.extend_from_slice(part);
}

/// What went wrong with a connection, in words of ours: an error's own text may quote what the server sent.
fn reason(error: &reqwest::Error) -> String {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
            return match tls {
                rustls::Error::InvalidCertificate(_) => "the server's certificate is not trusted".to_owned(),
                rustls::Error::AlertReceived(_) => "the server ended the TLS handshake".to_owned(),
                _ => "TLS failed".to_owned(),
            };
        }
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            match tls_inside(io) {
                Some(rustls::Error::InvalidCertificate(_)) => return "the server's certificate is not trusted".to_owned(),
                Some(rustls::Error::AlertReceived(_)) => return "the server ended the TLS handshake".to_owned(),
                Some(_) => return "TLS failed".to_owned(),
                None if cause.source().is_none() => return super::root_key::reason(io),
                None => {}
            }
        }
        source = cause.source();
    }
    let what = match error {
        e if e.is_timeout() => "no connection in time",
        e if e.is_connect() => "no connection",
        e if e.is_body() || e.is_decode() => "the answer broke off",
        _ => "the request failed",
    };
    what.to_owned()
}

/// The TLS error that travels inside of an I/O error, or inside of one inside of it.
fn tls_inside(error: &std::io::Error) -> Option<&rustls::Error> {
    let inner = error.get_ref()?;
    inner.downcast_ref().or_else(|| tls_inside(inner.downcast_ref()?))
}

fn tls_config(tls: &Tls, credentials: &CredentialDirectory) -> Result<ClientConfig, ProviderError> {
    let unfit = |name: &str, what: &str| ProviderError::Denied(format!("Credential file \"{name}\" holds no {what} in PEM."));
    let mut roots = RootCertStore::empty();
    if let Some(name) = &tls.ca_file {
        let file = credentials.public(name)?;
        for certificate in certificates(&file.bytes) {
            roots.add(certificate).map_err(|_| unfit(name, "usable certificate"))?;
        }
        if roots.is_empty() {
            return Err(unfit(name, "certificate"));
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    // Hybrid with ML-KEM where the server can, so that recorded traffic does not give a share to a quantum computer.
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|_| ProviderError::Denied("TLS could not be set up.".to_owned()))?
        .with_root_certificates(roots);
    let (Some(cert_file), Some(key_file)) = (&tls.client_cert_file, &tls.client_key_file) else {
        return Ok(builder.with_no_client_auth());
    };
    let chain: Vec<_> = certificates(&credentials.public(cert_file)?.bytes).collect();
    let key = PrivateKeyDer::from_pem_slice(&credentials.secret(key_file)?.bytes).map_err(|_| unfit(key_file, "private key"))?;
    builder.with_client_auth_cert(chain, key).map_err(|_| unfit(cert_file, "certificate that fits the key"))
}

fn certificates(pem: &[u8]) -> impl Iterator<Item = CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem).filter_map(Result::ok)
}

/// What the system's configuration of names stands in.
const NAMES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

/// Resolves names by the system's configuration on the caller's thread.
#[derive(Default)]
struct Resolver(Kept<TokioResolver>);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        // Without a configuration there is no resolver: a public one would be told the names of internal hosts.
        let make = || TokioResolver::builder_tokio().and_then(hickory_resolver::ResolverBuilder::build).ok();
        let resolver = self.0.get(NAMES.map(Path::new), make);
        Box::pin(async move {
            let resolver = resolver.ok_or("no resolver")?;
            let found = resolver.lookup_ip(name.as_str()).await?;
            let addresses: Vec<SocketAddr> = found.iter().map(|ip| SocketAddr::new(ip, 0)).collect();
            Ok::<Addrs, Box<dyn std::error::Error + Send + Sync>>(Box::new(addresses.into_iter()))
        })
    }
}

/// What was made of two files, until one of them changes: a session may last for months, and outlive a name server.
struct Kept<T>(Mutex<Option<([Option<Stamp>; 2], T)>>);

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T: Clone> Kept<T> {
    /// As it was made, or made anew. What could not be made is tried again each time.
    fn get(&self, files: [&Path; 2], read: impl FnOnce() -> Option<T>) -> Option<T> {
        // Links are followed: the configuration may lie elsewhere.
        let stamps = files.map(|file| std::fs::metadata(file).ok().map(|meta| Stamp::of(&meta)));
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, made)) = &*kept
            && *of == stamps
        {
            return Some(made.clone());
        }
        let made = read()?;
        *kept = Some((stamps, made.clone()));
        Some(made)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_configuration_of_names_is_read_again() {
        let directory = std::env::temp_dir().join(format!("kms_wrap-names-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let files = ["resolv.conf", "hosts"].map(|name| directory.join(name));
        let get = |kept: &Kept<u8>, made: Option<u8>| kept.get([&files[0], &files[1]], || made);
        let kept = Kept::default();
        assert_eq!(get(&kept, None), None);
        assert_eq!(get(&kept, Some(1)), Some(1), "a failure is not kept");
        assert_eq!(get(&kept, Some(2)), Some(1));
        for (n, file) in [(3, &files[0]), (4, &files[1])] {
            std::fs::write(directory.join("new"), b"x").unwrap();
            std::fs::rename(directory.join("new"), file).unwrap();
            assert_eq!(get(&kept, Some(n)), Some(n));
            assert_eq!(get(&kept, Some(9)), Some(n));
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
