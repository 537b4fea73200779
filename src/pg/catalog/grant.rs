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

// One function tells: a later version may give a privilege more.
const UNUSABLE: &str = "SELECT g.role_name::pg_catalog.text, p.policy_name::pg_catalog.text, g.privilege
     FROM kms_wrap.policy_grants g
     JOIN kms_wrap.encryption_policies p ON p.id OPERATOR(pg_catalog.=) g.policy_id
     JOIN pg_catalog.pg_roles r ON r.rolname OPERATOR(pg_catalog.=) g.role_name
     JOIN (VALUES ('encrypt', 'kw_encrypt'), ('decrypt', 'kw_decrypt'), ('unwrap', 'kw_unwrap'), ('import', 'kw_wrap_dek'),
                  ('index', 'kw_blind_index'), ('manage', 'kw_rewrap')) v (privilege, routine) ON v.privilege OPERATOR(pg_catalog.=) g.privilege
     WHERE ($1 IS NULL OR g.role_name OPERATOR(pg_catalog.=) $1::pg_catalog.name)
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_proc f
                       WHERE f.pronamespace OPERATOR(pg_catalog.=) 'kms_wrap'::pg_catalog.regnamespace
                         AND f.proname OPERATOR(pg_catalog.=) v.routine::pg_catalog.name
                         AND pg_catalog.has_function_privilege(r.oid, f.oid, 'EXECUTE'))
     ORDER BY g.role_name, p.id, g.privilege";

/// Grants to a role, or to any, that it lacks EXECUTE for: role, policy, privilege. It was dropped and made anew, and nobody meant the new one.
pub(crate) fn unusable(role: Option<&str>) -> Result<Vec<(String, String, String)>, Failure> {
    spi::select(UNUSABLE, &[role.into()], |row| Ok((row.next()?, row.next()?, row.next()?)))
}

const PRIVILEGES_ANYWHERE: &str =
    "SELECT DISTINCT privilege FROM kms_wrap.policy_grants WHERE role_name OPERATOR(pg_catalog.=) $1::pg_catalog.name";

/// Privileges that a role has on any policy.
pub(crate) fn privileges_of(role: &str) -> Result<Vec<String>, Failure> {
    spi::select(PRIVILEGES_ANYWHERE, &[role.into()], |row| row.next())
}
