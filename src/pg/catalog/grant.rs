//! Rights on policies.

use crate::pg::{report::Failure, spi};

const ROLES: &str = "SELECT role_name::pg_catalog.text FROM kms_wrap.policy_grants
     WHERE policy_id OPERATOR(pg_catalog.=) $1 AND privilege OPERATOR(pg_catalog.=) $2";

/// Names of the roles that have a privilege on a policy.
pub(crate) fn roles(policy: i64, privilege: &str) -> Result<Vec<String>, Failure> {
    spi::select(ROLES, &[policy.into(), privilege.into()], |row| row.next())
}

const GRANT: &str = "INSERT INTO kms_wrap.policy_grants (policy_id, role_name, privilege)
     VALUES ($1, $2::pg_catalog.name, $3) ON CONFLICT DO NOTHING";
const REVOKE: &str = "DELETE FROM kms_wrap.policy_grants
     WHERE policy_id OPERATOR(pg_catalog.=) $1 AND role_name OPERATOR(pg_catalog.=) $2::pg_catalog.name AND privilege OPERATOR(pg_catalog.=) $3";

/// Grants; `false` when the role has it already.
pub(crate) fn insert(policy: i64, role: &str, privilege: &str) -> Result<bool, Failure> {
    Ok(spi::execute(GRANT, &[policy.into(), role.into(), privilege.into()])? > 0)
}

/// Revokes; `false` when the role did not have it.
pub(crate) fn delete(policy: i64, role: &str, privilege: &str) -> Result<bool, Failure> {
    Ok(spi::execute(REVOKE, &[policy.into(), role.into(), privilege.into()])? > 0)
}

const PRIVILEGES_ANYWHERE: &str =
    "SELECT DISTINCT privilege FROM kms_wrap.policy_grants WHERE role_name OPERATOR(pg_catalog.=) $1::pg_catalog.name";

/// Privileges that a role has on any policy.
pub(crate) fn privileges_of(role: &str) -> Result<Vec<String>, Failure> {
    spi::select(PRIVILEGES_ANYWHERE, &[role.into()], |row| row.next())
}
