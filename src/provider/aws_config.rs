//! What a configuration of kind `aws` may say.

use super::{
    Provider,
    aws::{self, Aws},
    aws_credentials::{Credentials, Source},
    cloud::Connection,
    config::{ConfigError, Environment, Fields},
    endpoint::{Endpoint, INSTANCE_METADATA},
};
use serde_json::{Map, Value};
use std::rc::Rc;

/// Checks the fields of a configuration and makes the provider.
///
/// # Errors
/// [`ConfigError`] naming the field.
pub(super) fn configure(object: &Map<String, Value>, environment: &Environment) -> Result<Rc<dyn Provider>, ConfigError> {
    let mut fields = Fields::new(object);
    let region = fields.required("region")?;
    if region.len() > 32 || !region.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-') {
        return Err(ConfigError::new("region", "It must be the name of a region, such as eu-central-1."));
    }
    let ca_file = fields.file("ca_file")?.map(str::to_owned);
    let connect = |endpoint| Connection::new(endpoint, ca_file.clone(), environment.credentials.clone());
    let endpoint = match fields.endpoint("endpoint", environment)? {
        Some(endpoint) => endpoint,
        None => default_endpoint("endpoint", "kms", region, environment)?,
    };
    let source = source(&mut fields, region, environment, &connect)?;
    fields.finish(aws::KIND)?;
    let credentials = Credentials::new(source, environment);
    Ok(Rc::new(Aws::new(region.to_owned(), connect(endpoint), credentials)))
}

/// The public endpoint of a service in a region.
fn default_endpoint(field: &str, service: &str, region: &str, environment: &Environment) -> Result<Endpoint, ConfigError> {
    let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    let url = format!("https://{service}.{region}.{domain}");
    let endpoint = Endpoint::parse(&url).map_err(|limit| ConfigError::new(field, limit))?;
    allowed(field, endpoint, environment)
}

fn allowed(field: &str, endpoint: Endpoint, environment: &Environment) -> Result<Endpoint, ConfigError> {
    if endpoint.is_allowed(&environment.allowed_endpoints) {
        return Ok(endpoint);
    }
    Err(ConfigError::new(field, format!("The setting \"kms_wrap.allowed_endpoints\" does not allow {}.", endpoint.origin())))
}

/// Where the keys come from: what `credentials` says, or else what the one file that is named is good for.
fn source(
    fields: &mut Fields<'_>,
    region: &str,
    environment: &Environment,
    connect: &dyn Fn(Endpoint) -> Connection,
) -> Result<Source, ConfigError> {
    let stated = fields.text("credentials")?;
    let file = fields.file("credentials_file")?;
    let profile = fields.text("profile")?;
    let token_file = fields.file("web_identity_token_file")?;
    let role_arn = fields.text("role_arn")?;
    let sts = fields.endpoint("sts_endpoint", environment)?;
    let metadata = fields.text("metadata_endpoint")?;
    let kind = match (stated, file, token_file) {
        (Some(stated), ..) => stated,
        (None, Some(_), None) => "file",
        (None, None, Some(_)) => "web_identity",
        _ => {
            let limit = "It must be file, environment, web_identity or instance; it may be left out when exactly one of credentials_file and \
                         web_identity_token_file is given.";
            return Err(ConfigError::new("credentials", limit));
        }
    };
    let given = [
        ("credentials_file", "file", file.is_some()),
        ("profile", "file", profile.is_some()),
        ("web_identity_token_file", "web_identity", token_file.is_some()),
        ("role_arn", "web_identity", role_arn.is_some()),
        ("sts_endpoint", "web_identity", sts.is_some()),
        ("metadata_endpoint", "instance", metadata.is_some()),
    ];
    if let Some((field, owner, _)) = given.into_iter().find(|(_, owner, given)| *given && *owner != kind) {
        return Err(ConfigError::new(field, format!("It belongs to credentials = {owner}, not {kind}.")));
    }
    let required = |field, value: Option<&str>| {
        value.map(str::to_owned).ok_or_else(|| ConfigError::new(field, format!("It is required for credentials = {kind}.")))
    };
    match kind {
        "file" => Ok(Source::File { name: required("credentials_file", file)?, profile: profile.unwrap_or("default").to_owned() }),
        "environment" => Ok(Source::Environment),
        "web_identity" => {
            let sts = sts.map_or_else(|| default_endpoint("sts_endpoint", "sts", region, environment), Ok)?;
            let role_arn = required("role_arn", role_arn)?;
            Ok(Source::WebIdentity { token_file: required("web_identity_token_file", token_file)?, role_arn, sts: connect(sts) })
        }
        "instance" => {
            let endpoint = Endpoint::parse_metadata(metadata.unwrap_or(INSTANCE_METADATA));
            let endpoint = endpoint.map_err(|limit| ConfigError::new("metadata_endpoint", limit))?;
            Ok(Source::Instance { metadata: connect(allowed("metadata_endpoint", endpoint, environment)?) })
        }
        _ => Err(ConfigError::new("credentials", "It must be file, environment, web_identity or instance.")),
    }
}
