//! Where a KMS is reached, and the patterns of what may be.

use url::Url;

/// Where a machine in a cloud asks for its own credentials: the link-local address of AWS and Google.
pub const INSTANCE_METADATA: &str = "http://169.254.169.254";

/// An `https://` address, or an `http://` address of this very machine. Without user, query and fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(Url);

impl Endpoint {
    /// Parses and checks an address.
    ///
    /// # Errors
    /// The rule that it breaks, as a full sentence.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let url = Url::parse(text).map_err(|_| "It must be a URL such as https://kms.example:8200.")?;
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
            return Err("It must have no user, password, query or fragment; credentials are files.");
        }
        match (url.scheme(), url.host()) {
            ("https", Some(_)) => Ok(Self(url)),
            ("http", Some(host)) if is_loopback(&host) => Ok(Self(url)),
            ("http", Some(_)) => Err("It must be https://; http:// is for a KMS on this machine's loopback address only."),
            _ => Err("It must be an https:// URL."),
        }
    }

    /// Parses the address of an instance metadata service. It has no TLS, but link-local packets do not leave the machine's own link.
    ///
    /// # Errors
    /// As [`Self::parse`] for anything but [`INSTANCE_METADATA`].
    pub fn parse_metadata(text: &str) -> Result<Self, &'static str> {
        match Url::parse(text) {
            Ok(url) if text == INSTANCE_METADATA => Ok(Self(url)),
            _ => Self::parse(text),
        }
    }

    /// Scheme, host and port, as `https://kms.example:8200`.
    #[must_use]
    pub fn origin(&self) -> String {
        self.0.origin().ascii_serialization()
    }

    /// Host, with the port where it is not the scheme's own: the `Host` header.
    #[must_use]
    pub fn authority(&self) -> String {
        let host = self.0.host_str().unwrap_or_default();
        self.0.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }

    /// The address of `path`, which starts with `/` and is encoded already, under this one; `None` when it makes no URL here.
    #[must_use]
    pub fn join(&self, path: &str) -> Option<Url> {
        let base = self.0.as_str().trim_end_matches('/');
        let url = Url::parse(&format!("{base}{path}")).ok()?;
        (url.origin() == self.0.origin()).then_some(url)
    }

    /// Whether one of the patterns allows it; no pattern at all allows any.
    ///
    /// A pattern is compared with [`Self::origin`]; `*` stands for any part of a host name or any port, never for `/`.
    #[must_use]
    pub fn is_allowed(&self, patterns: &[String]) -> bool {
        patterns.is_empty() || patterns.iter().any(|pattern| matches(pattern.trim_end_matches('/'), &self.origin()))
    }
}

fn is_loopback(host: &url::Host<&str>) -> bool {
    match host {
        url::Host::Domain(name) => *name == "localhost",
        url::Host::Ipv4(address) => address.is_loopback(),
        url::Host::Ipv6(address) => address.is_loopback(),
    }
}

/// Whether a text fits a pattern in which `*` stands for any run of characters but `/`, also the empty one.
#[must_use]
pub fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(tail) = text.strip_prefix(head) else { return false };
    // Every place where the star may end, the shortest first.
    let mut end = 0;
    loop {
        let Some(left) = tail.get(end..) else { return false };
        if matches(rest, left) {
            return true;
        }
        match left.chars().next() {
            Some(c) if c != '/' => end = end.saturating_add(c.len_utf8()),
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_leaves_the_machine() {
        for good in [
            "https://kms.example",
            "https://kms.example:8200/",
            "http://127.0.0.1:8200",
            "http://localhost:1",
            "http://[::1]:1",
            "https://10.0.0.1",
        ] {
            assert!(Endpoint::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "http://kms.example",
            "http://10.0.0.1",
            "ftp://localhost",
            "kms.example",
            "",
            "https://",
            "https://u:p@kms.example",
            "https://kms.example?a=b",
            "https://kms.example#a",
            "http://localhost.example",
            "unix:///run/kms",
        ] {
            assert!(Endpoint::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn metadata_is_one_link_local_address() {
        assert!(Endpoint::parse(INSTANCE_METADATA).is_err());
        assert!(Endpoint::parse_metadata(INSTANCE_METADATA).is_ok_and(|e| e.origin() == INSTANCE_METADATA));
        assert!(Endpoint::parse_metadata("http://127.0.0.1:1338").is_ok());
        for bad in ["http://169.254.169.253", "http://169.254.169.254:81", "http://169.254.169.254/x", "http://169.254.169.254@kms.example"]
        {
            assert!(Endpoint::parse_metadata(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn patterns_stay_within_a_host() {
        let endpoint = Endpoint::parse("https://eu.kms.example:8200").unwrap();
        for pattern in [
            "https://eu.kms.example:8200",
            "https://*.kms.example:8200",
            "https://*.kms.example:*",
            "https://*:8200",
            "https://eu.kms.example:8200/",
        ] {
            assert!(endpoint.is_allowed(&[pattern.to_owned()]), "{pattern}");
        }
        for pattern in ["https://eu.kms.example", "http://*", "https://*.other:8200", "", "https://eu.kms.example:82", "*/x"] {
            assert!(!endpoint.is_allowed(&[pattern.to_owned()]), "{pattern}");
        }
        assert!(endpoint.is_allowed(&[]));
        assert!(matches("arn:aws:kms:*:key/*", "arn:aws:kms:eu-1:1:key/12"));
        assert!(!matches("a*", "a/b"));
    }

    #[test]
    fn a_path_stays_at_the_endpoint() {
        let endpoint = Endpoint::parse("https://kms.example:8200").unwrap();
        assert_eq!(endpoint.join("/v1/x").map(|u| u.to_string()).as_deref(), Some("https://kms.example:8200/v1/x"));
        assert_eq!(endpoint.join("@evil.example/"), None);
        assert_eq!(endpoint.authority(), "kms.example:8200");
    }
}
