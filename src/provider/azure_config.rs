//! What a configuration of kind `azure` may say.

use super::{
    Provider,
    azure::{self, Azure},
    azure_credentials::{Identity, Place, Proof},
    bearer::Api,
    cloud::Connection,
    config::{ConfigError, Environment, Fields},
    endpoint::{Endpoint, INSTANCE_METADATA},
};
use serde_json::{Map, Value};
use std::rc::Rc;

/// Where applications of the public cloud get their tokens.
const AUTHORITY: &str = "https://login.microsoftonline.com";

/// Checks the fields of a configuration and makes the provider.
///
/// # Errors
/// [`ConfigError`] naming the field.
pub(super) fn configure(object: &Map<String, Value>, environment: &Environment) -> Result<Rc<dyn Provider>, ConfigError> {
    let mut fields = Fields::new(object);
    let ca_file = fields.file("ca_file")?.map(str::to_owned);
    let connect = |endpoint| Connection::new(endpoint, ca_file.clone(), environment.credentials.clone());
    let vault_url = fields.required("vault_url")?;
    let vault = fields.endpoint("vault_url", environment)?.ok_or_else(|| ConfigError::new("vault_url", "It is required."))?;
    let stated = fields.text("resource")?;
    let resource = resource(stated.unwrap_or(vault_url), stated.is_some())?;
    let place = place(&mut fields, environment, &connect)?;
    fields.finish(azure::KIND)?;
    let identity = Identity::new(place, resource, environment.credentials.clone());
    Ok(Rc::new(Azure::new(Api::new(connect(vault), identity, azure::classify, environment.deadline))))
}

/// What tokens are asked for: the service that a vault's host name ends with, or the one that is stated.
fn resource(text: &str, is_stated: bool) -> Result<String, ConfigError> {
    const SERVICES: [&str; 6] = [
        "https://vault.azure.net",
        "https://managedhsm.azure.net",
        "https://vault.azure.cn",
        "https://managedhsm.azure.cn",
        "https://vault.usgovcloudapi.net",
        "https://managedhsm.usgovcloudapi.net",
    ];
    if is_stated {
        let found = SERVICES.iter().find(|service| **service == text.trim_end_matches('/'));
        let limit = || ConfigError::new("resource", format!("It must be one of {}.", SERVICES.join(", ")));
        return found.map(|service| (*service).to_owned()).ok_or_else(limit);
    }
    let origin = Endpoint::parse(text).map(|endpoint| endpoint.origin()).unwrap_or_default();
    let of = |service: &&&str| service.strip_prefix("https://").is_some_and(|domain| origin.ends_with(&format!(".{domain}")));
    let found = SERVICES.iter().find(of).copied();
    let limit = "It is required where vault_url is not an address of Azure's own: https://vault.azure.net or https://managedhsm.azure.net.";
    found.map(str::to_owned).ok_or_else(|| ConfigError::new("resource", limit))
}

fn allowed(field: &str, endpoint: Result<Endpoint, &'static str>, environment: &Environment) -> Result<Endpoint, ConfigError> {
    let endpoint = endpoint.map_err(|limit| ConfigError::new(field, limit))?;
    if endpoint.is_allowed(&environment.allowed_endpoints) {
        return Ok(endpoint);
    }
    Err(ConfigError::new(field, format!("The setting \"kms_wrap.allowed_endpoints\" does not allow {}.", endpoint.origin())))
}

/// Who asks: what `credentials` says, or else what the one file that is named is good for.
fn place(fields: &mut Fields<'_>, environment: &Environment, connect: &dyn Fn(Endpoint) -> Connection) -> Result<Place, ConfigError> {
    let stated = fields.text("credentials")?;
    let tenant = fields.text("tenant_id")?;
    let client = fields.text("client_id")?;
    let secret = fields.file("client_secret_file")?;
    let certificate = fields.file("client_cert_file")?;
    let key = fields.file("client_key_file")?;
    let token = fields.file("federated_token_file")?;
    let authority = fields.endpoint("authority", environment)?;
    let metadata = fields.text("metadata_endpoint")?;
    let kind = match (stated, secret, certificate, token) {
        (Some(stated), ..) => stated,
        (None, Some(_), None, None) => "secret",
        (None, None, Some(_), None) => "certificate",
        (None, None, None, Some(_)) => "federated",
        _ => {
            let limit = "It must be secret, certificate, federated or managed; it may be left out when exactly one of client_secret_file, \
                         client_cert_file and federated_token_file is given.";
            return Err(ConfigError::new("credentials", limit));
        }
    };
    let given = [
        ("client_secret_file", &["secret"][..], secret.is_some()),
        ("client_cert_file", &["certificate"], certificate.is_some()),
        ("client_key_file", &["certificate"], key.is_some()),
        ("federated_token_file", &["federated"], token.is_some()),
        ("tenant_id", &["secret", "certificate", "federated"], tenant.is_some()),
        ("authority", &["secret", "certificate", "federated"], authority.is_some()),
        ("metadata_endpoint", &["managed"], metadata.is_some()),
    ];
    if let Some((field, owners, _)) = given.into_iter().find(|(_, owners, given)| *given && !owners.contains(&kind)) {
        return Err(ConfigError::new(field, format!("It belongs to credentials = {}, not {kind}.", owners.join(" or "))));
    }
    let id = |field, value: Option<&str>| match value {
        Some(id) if !id.starts_with('.') && id.chars().all(|c| c.is_ascii_alphanumeric() || "-.".contains(c)) => Ok(id.to_owned()),
        Some(_) => Err(ConfigError::new(field, "It must be an id such as 72f988bf-86f1-41af-91ab-2d7cd011db47.")),
        None => Err(ConfigError::new(field, format!("It is required for credentials = {kind}."))),
    };
    let required = |field, value: Option<&str>| {
        value.map(str::to_owned).ok_or_else(|| ConfigError::new(field, format!("It is required for credentials = {kind}.")))
    };
    let proof = match kind {
        "secret" => Proof::Secret(required("client_secret_file", secret)?),
        "certificate" => Proof::Certificate { cert: required("client_cert_file", certificate)?, key: required("client_key_file", key)? },
        "federated" => Proof::Federated(required("federated_token_file", token)?),
        "managed" => {
            let client = client.map(|client| id("client_id", Some(client))).transpose()?;
            let endpoint = Endpoint::parse_metadata(metadata.unwrap_or(INSTANCE_METADATA));
            return Ok(Place::Managed { metadata: connect(allowed("metadata_endpoint", endpoint, environment)?), client });
        }
        _ => return Err(ConfigError::new("credentials", "It must be secret, certificate, federated or managed.")),
    };
    let (tenant, client) = (id("tenant_id", tenant)?, id("client_id", client)?);
    let authority = authority.map_or_else(|| allowed("authority", Endpoint::parse(AUTHORITY), environment), Ok)?;
    Ok(Place::Application { authority: connect(authority), tenant, client, proof })
}
