//! What a configuration of kind `gcp` may say.

use super::{
    Provider,
    bearer::Api,
    cloud::Connection,
    config::{ConfigError, Environment, Fields},
    endpoint::{Endpoint, INSTANCE_METADATA},
    gcp::{self, Gcp},
    gcp_credentials::{Identity, Place},
};
use serde_json::{Map, Value};
use std::rc::Rc;

/// Where Cloud KMS is, unless a configuration says otherwise.
const ENDPOINT: &str = "https://cloudkms.googleapis.com";

/// Checks the fields of a configuration and makes the provider.
///
/// # Errors
/// [`ConfigError`] naming the field.
pub(super) fn configure(object: &Map<String, Value>, environment: &Environment) -> Result<Rc<dyn Provider>, ConfigError> {
    let mut fields = Fields::new(object);
    let ca_file = fields.file("ca_file")?.map(str::to_owned);
    let connect = |endpoint| Connection::new(endpoint, ca_file.clone(), environment.credentials.clone());
    let endpoint = match fields.endpoint("endpoint", environment)? {
        Some(endpoint) => endpoint,
        None => allowed("endpoint", Endpoint::parse(ENDPOINT), environment)?,
    };
    let stated = fields.text("credentials")?;
    let file = fields.file("credentials_file")?;
    let metadata = fields.text("metadata_endpoint")?;
    fields.finish(gcp::KIND)?;
    let belongs = |field, owner, kind| Err(ConfigError::new(field, format!("It belongs to credentials = {owner}, not {kind}.")));
    let place = match (stated.or(file.map(|_| "file")), file, metadata) {
        (Some("file"), Some(_), Some(_)) => return belongs("metadata_endpoint", "metadata", "file"),
        (Some("file"), Some(name), None) => {
            Place::File { name: name.to_owned(), ca_file: ca_file.clone(), allowed_endpoints: environment.allowed_endpoints.clone() }
        }
        (Some("file"), None, _) => return Err(ConfigError::new("credentials_file", "It is required for credentials = file.")),
        (Some("metadata"), Some(_), _) => return belongs("credentials_file", "file", "metadata"),
        (Some("metadata"), None, metadata) => {
            let endpoint = Endpoint::parse_metadata(metadata.unwrap_or(INSTANCE_METADATA));
            Place::Metadata(connect(allowed("metadata_endpoint", endpoint, environment)?))
        }
        _ => {
            let limit = "It must be file or metadata; it may be left out when credentials_file is given.";
            return Err(ConfigError::new("credentials", limit));
        }
    };
    let identity = Identity::new(place, environment.credentials.clone());
    Ok(Rc::new(Gcp::new(Api::new(connect(endpoint), identity, gcp::classify, environment.deadline))))
}

fn allowed(field: &str, endpoint: Result<Endpoint, &'static str>, environment: &Environment) -> Result<Endpoint, ConfigError> {
    let endpoint = endpoint.map_err(|limit| ConfigError::new(field, limit))?;
    if endpoint.is_allowed(&environment.allowed_endpoints) {
        return Ok(endpoint);
    }
    Err(ConfigError::new(field, format!("The setting \"kms_wrap.allowed_endpoints\" does not allow {}.", endpoint.origin())))
}
