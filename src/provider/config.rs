//! What `provider_config.config` may hold for each kind, and the provider that it makes.

use super::{Capabilities, Provider, credentials::CredentialDirectory, endpoint::Endpoint, pkcs11_pin::Pins};
use serde_json::{Map, Value};
use std::{path::PathBuf, rc::Rc, time::Duration};

/// What the administrator's settings allow every provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// Where credential files lie.
    pub credentials: CredentialDirectory,
    /// Patterns of endpoints; none allows any.
    pub allowed_endpoints: Vec<String>,
    /// PKCS#11 modules that may be loaded; none allows none.
    pub pkcs11_modules: Vec<PathBuf>,
    /// Remembers refused PINs of PKCS#11 tokens; without it none is tried.
    pub pins: Pins,
    /// How long a call may take. The caller ends it; this is for what a call may spend a part of it on.
    pub deadline: Duration,
}

/// A field that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Its name.
    pub field: String,
    /// What it must be, as a full sentence.
    pub limit: String,
}

impl ConfigError {
    /// A field and its rule.
    #[must_use]
    pub fn new(field: &str, limit: impl Into<String>) -> Self {
        Self { field: field.to_owned(), limit: limit.into() }
    }
}

/// Reads the fields of a configuration: each at most once, none left over.
pub struct Fields<'a> {
    object: &'a Map<String, Value>,
    known: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// Starts reading.
    #[must_use]
    pub fn new(object: &'a Map<String, Value>) -> Self {
        Self { object, known: Vec::new() }
    }

    /// A text; `None` when the field is absent.
    ///
    /// # Errors
    /// [`ConfigError`] when it is no string, empty, longer than 512 characters, or has control characters.
    pub fn text(&mut self, field: &'static str) -> Result<Option<&'a str>, ConfigError> {
        self.known.push(field);
        let Some(value) = self.object.get(field) else { return Ok(None) };
        let text = value.as_str().filter(|t| !t.is_empty() && t.chars().count() <= 512 && !t.chars().any(char::is_control));
        text.map(Some).ok_or_else(|| ConfigError::new(field, "It must be a string of 1 to 512 characters without control characters."))
    }

    /// A text that must be there.
    ///
    /// # Errors
    /// As [`Self::text`], and when it is absent.
    pub fn required(&mut self, field: &'static str) -> Result<&'a str, ConfigError> {
        self.text(field)?.ok_or_else(|| ConfigError::new(field, "It is required."))
    }

    /// The name of a credential file.
    ///
    /// # Errors
    /// [`ConfigError`] when it is not a plain file name.
    pub fn file(&mut self, field: &'static str) -> Result<Option<&'a str>, ConfigError> {
        let name = self.text(field)?;
        if name.is_some_and(|name| !super::credentials::is_name(name)) {
            let limit =
                "It must name a file in kms_wrap.credential_directory: at most 64 characters out of A-Z a-z 0-9 _ . -, no dot first.";
            return Err(ConfigError::new(field, limit));
        }
        Ok(name)
    }

    /// An endpoint that the settings allow.
    ///
    /// # Errors
    /// [`ConfigError`] with the rule that it breaks.
    pub fn endpoint(&mut self, field: &'static str, environment: &Environment) -> Result<Option<Endpoint>, ConfigError> {
        let Some(text) = self.text(field)? else { return Ok(None) };
        let endpoint = Endpoint::parse(text).map_err(|limit| ConfigError::new(field, limit))?;
        if endpoint.is_allowed(&environment.allowed_endpoints) {
            return Ok(Some(endpoint));
        }
        Err(ConfigError::new(field, "The setting \"kms_wrap.allowed_endpoints\" does not allow it."))
    }

    /// Ends reading.
    ///
    /// # Errors
    /// [`ConfigError`] naming a field that nothing has asked for.
    pub fn finish(self, kind: &str) -> Result<(), ConfigError> {
        let unknown = self.object.keys().find(|field| !self.known.contains(&field.as_str()));
        unknown.map_or(Ok(()), |field| Err(ConfigError::new(field, format!("Kind {kind} knows the fields {}.", self.known.join(", ")))))
    }
}

/// What a kind can do; `None` for a kind that this build does not have.
#[must_use]
pub fn capabilities(kind: &str) -> Option<Capabilities> {
    match kind {
        super::local::KIND => Some(super::local::CAPABILITIES),
        super::pkcs11::KIND => Some(super::pkcs11::CAPABILITIES),
        "openbao" | "vault" => Some(super::transit::CAPABILITIES),
        #[cfg(feature = "aws")]
        super::aws::KIND => Some(super::aws::CAPABILITIES),
        #[cfg(feature = "azure")]
        super::azure::KIND => Some(super::azure::CAPABILITIES),
        #[cfg(feature = "gcp")]
        super::gcp::KIND => Some(super::gcp::CAPABILITIES),
        _ => None,
    }
}

/// Who can use the keys, as far as a configuration tells: kind, server or token, and tenant. Two namespaces of one server are one domain,
/// since whoever runs the server holds both, and so are two spellings of its address; and two regions of one cloud, unless their tenants are
/// told.
#[must_use]
pub fn trust_domain(kind: &str, config: &Value, project_tenant: Option<&str>) -> String {
    let kind = if kind == "openbao" { "vault" } else { kind };
    let fields: &[&str] = if matches!(kind, "vault" | "pkcs11") { &["endpoint", "module", "token_label", "serial"] } else { &[] };
    let place = |field: &&str| {
        let text = config.get(field)?.as_str()?;
        Some(Endpoint::parse(text).map_or_else(|_| text.to_owned(), |endpoint| endpoint.origin()))
    };
    let parts = std::iter::once(kind.to_owned()).chain(fields.iter().filter_map(place)).chain(project_tenant.map(str::to_owned));
    // The column's length.
    parts.collect::<Vec<_>>().join(":").chars().take(255).collect()
}

/// Checks a configuration and makes the provider of it. Opens no connection and reads no file, so that it works while the KMS is away.
///
/// # Errors
/// [`ConfigError`] naming the field. A kind that this build does not have, and `local`, whose keys the caller holds, have no field: `kind`.
pub fn provider(kind: &str, config: &Value, environment: &Environment) -> Result<Rc<dyn Provider>, ConfigError> {
    let object = config.as_object().ok_or_else(|| ConfigError::new("config", "It must be a JSON object."))?;
    match kind {
        super::pkcs11::KIND => super::pkcs11::configure(object, environment),
        "openbao" | "vault" => super::transit::configure(kind, object, environment),
        #[cfg(feature = "aws")]
        super::aws::KIND => super::aws_config::configure(object, environment),
        #[cfg(feature = "azure")]
        super::azure::KIND => super::azure_config::configure(object, environment),
        #[cfg(feature = "gcp")]
        super::gcp::KIND => super::gcp_config::configure(object, environment),
        _ => Err(ConfigError::new("kind", "It must be local, openbao, vault, pkcs11, or one of aws, gcp and azure that was built in.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn one_server_is_one_trust_domain_however_it_is_spelled() {
        let vault = |endpoint: &str| trust_domain("vault", &json!({"endpoint": endpoint, "mount": "m", "token_file": "t"}), None);
        assert_eq!(vault("https://kms.example:8200"), "vault:https://kms.example:8200");
        for same in ["https://kms.example:8200/", "https://KMS.Example:8200", "HTTPS://kms.example:8200/proxied"] {
            assert_eq!(vault(same), vault("https://kms.example:8200"), "{same}");
        }
        assert_eq!(vault("https://kms.example:443"), vault("https://kms.example"));
        assert_ne!(vault("https://kms.example:8201"), vault("https://kms.example:8200"));
        assert_eq!(
            trust_domain("openbao", &json!({"endpoint": "https://a"}), Some("t")),
            trust_domain("vault", &json!({"endpoint": "https://a/"}), Some("t"))
        );
    }

    #[test]
    fn regions_of_a_cloud_are_one_trust_domain_unless_tenants_are_told() {
        let aws = |config: Value, tenant| trust_domain("aws", &config, tenant);
        assert_eq!(aws(json!({"region": "eu-central-1"}), None), "aws");
        assert_eq!(aws(json!({"region": "us-east-1", "endpoint": "https://kms.us-east-1.amazonaws.com"}), None), "aws");
        assert_ne!(aws(json!({"region": "eu-central-1"}), Some("1")), aws(json!({"region": "eu-central-1"}), Some("2")));
    }

    #[test]
    fn a_token_is_told_by_module_and_name() {
        let token = |label: &str| trust_domain("pkcs11", &json!({"module": "/usr/lib/m.so", "token_label": label}), None);
        assert_eq!(token("a"), "pkcs11:/usr/lib/m.so:a");
        assert_ne!(token("a"), token("b"));
    }
}
