//! kw_grant and kw_revoke: a row that says who may, and EXECUTE on exactly the functions that the privilege is for.
//!
//! The row decides, in the backend (`grants`). EXECUTE keeps everybody else out before, and keeps a role from being dropped unnoticed.
#![allow(unsafe_code)]

use super::{
    catalog::{grant, policy},
    grants::Privilege,
    owner,
    report::Failure,
};
use pgrx::{Spi, pg_sys};
use std::{collections::BTreeSet, ffi::CStr};

/// With what kw_protect_column and kw_encrypt_column call in their caller's name.
const ENCRYPT: &[&str] = &[
    "kw_encrypt",
    "kw_encrypt_text",
    "kw_wrap_dek",
    "kw_seal_column",
    "kw_is_current(uuid, bytea, \"any\")",
    "kw_is_current(uuid, text, \"any\")",
    "kw_belongs(uuid, bytea, \"any\")",
    "kw_belongs(uuid, text, \"any\")",
    "kw_wrapper_of(bytea)",
    "kw_wrapper_of(text)",
    "kw_protect_column",
    "kw_encrypt_column",
    "kw_column_check_index",
    "kw_column_check_rights",
    "kw_column_check_table",
    "kw_column_check_type",
    "kw_column_check_view",
    "kw_column_check",
    "kw_column_derived_name",
    "kw_column_drop_statistics",
    "kw_column_is_past",
    "kw_column_lookup",
    "kw_column_new_keys",
    "kw_column_no_block",
    "kw_column_notes",
    "kw_column_obstacles",
    "kw_column_plan",
    "kw_column_progress",
    "kw_column_register",
    "kw_column_rewrites",
    "kw_column_row_key",
    "kw_column_settle_index",
    "kw_column_size",
    "kw_column_statements",
    "kw_column_tables",
    "kw_column_trigger_name",
    "kw_column_view_keep",
    "kw_column_view_text",
];

/// With what kw_unprotect_column calls in its caller's name.
const DECRYPT: &[&str] = &[
    "kw_decrypt",
    "kw_decrypt_text",
    "kw_open_column",
    "kw_open_column_text",
    "kw_wrapper_of(bytea)",
    "kw_wrapper_of(text)",
    "kw_unprotect_column",
    "kw_column_check_table",
    "kw_column_check_view",
    "kw_column_lookup",
    "kw_column_obstacles",
    "kw_column_row_key",
    "kw_column_tables",
    "kw_column_unregister",
    "kw_column_view_keep",
    "kw_column_view_text",
];

/// Functions and procedures of a privilege.
fn routines(privilege: Privilege) -> &'static [&'static str] {
    match privilege {
        Privilege::Encrypt => ENCRYPT,
        Privilege::Decrypt => DECRYPT,
        Privilege::Unwrap => &["kw_unwrap"],
        Privilege::Import => &["kw_wrap_dek"],
        Privilege::Index => &["kw_blind_index", "kw_blind_index_bytea"],
        Privilege::Manage => {
            &["kw_rewrap", "kw_rotate_dek", "kw_rotate_column_index", "kw_schedule_rewrap", "kw_wrapper_of(bytea)", "kw_wrapper_of(text)"]
        }
    }
}

/// Gives a role a privilege on a policy; `false` when it has it already.
pub(crate) fn grant(privilege: &str, policy: &str, role: pg_sys::Oid) -> Result<bool, Failure> {
    let (privilege, role) = (known(privilege)?, role_name(role)?);
    let policy = policy::by_name(policy)?;
    // EXECUTE would bring those of an older role of the name to life.
    let mut unusable = grant::unusable(Some(&role))?;
    unusable.retain(|(_, p, name)| (p.as_str(), name.as_str()) != (policy.name.as_str(), privilege.name()));
    if !unusable.is_empty() {
        let grants: Vec<_> = unusable.into_iter().map(|(_, policy, privilege)| format!("{privilege} on policy {policy}")).collect();
        return Err(Failure::state(
            format!("role \"{role}\" has grants that it cannot use: it was dropped and made anew, or its rights were not restored"),
            "Take them away with kms_wrap.kw_revoke(), then grant what it is to have.",
        )
        .detail(format!("Grants: {}.", grants.join(", "))));
    }
    let is_new = grant::insert(policy.id, &role, privilege.name())?;
    run(&format!("GRANT EXECUTE ON ROUTINE {} TO {}", list(routines(privilege).iter().copied()), quoted(&role)?), privilege)?;
    Ok(is_new)
}

/// Takes it away; `false` when the role did not have it.
pub(crate) fn revoke(privilege: &str, policy: &str, role: pg_sys::Oid) -> Result<bool, Failure> {
    let (privilege, role) = (known(privilege)?, role_name(role)?);
    let policy = policy::by_name(policy)?;
    let had = grant::delete(policy.id, &role, privilege.name())?;
    // A function may serve another privilege too, and a privilege another policy.
    let kept: BTreeSet<&str> = grant::privileges_of(&role)?
        .iter()
        .filter_map(|name| Privilege::from_name(name))
        .flat_map(|p| routines(p).iter().copied())
        .collect();
    let gone: Vec<&str> = routines(privilege).iter().copied().filter(|r| !kept.contains(r)).collect();
    if !gone.is_empty() {
        run(&format!("REVOKE EXECUTE ON ROUTINE {} FROM {}", list(gone.into_iter()), quoted(&role)?), privilege)?;
    }
    Ok(had)
}

fn known(privilege: &str) -> Result<Privilege, Failure> {
    Privilege::from_name(privilege).ok_or_else(|| {
        let all: Vec<&str> = Privilege::ALL.into_iter().map(Privilege::name).collect();
        Failure::bad_argument("invalid value for argument \"privilege\"", format!("It must be one of: {}.", all.join(", ")))
    })
}

fn role_name(role: pg_sys::Oid) -> Result<String, Failure> {
    // SAFETY: a syscache look-up that does not raise an error; the result is a NUL-terminated string.
    let name = unsafe {
        let name = pg_sys::GetUserNameFromId(role, true);
        if name.is_null() { None } else { CStr::from_ptr(name).to_str().ok().map(str::to_owned) }
    };
    name.ok_or_else(|| Failure::unknown("role", role.to_u32()))
}

fn quoted(name: &str) -> Result<String, Failure> {
    let name = std::ffi::CString::new(name).map_err(Failure::internal)?;
    // SAFETY: a NUL-terminated string in, one out.
    let quoted = unsafe { CStr::from_ptr(pg_sys::quote_identifier(name.as_ptr())) };
    Ok(quoted.to_string_lossy().into_owned())
}

fn list<'a>(routines: impl Iterator<Item = &'a str>) -> String {
    routines.map(|r| format!("kms_wrap.{r}")).collect::<Vec<_>>().join(", ")
}

/// As the extension's owner, who owns the functions; that the caller may do this was shown by the row that was written.
fn run(command: &str, privilege: Privilege) -> Result<(), Failure> {
    if routines(privilege).is_empty() { Ok(()) } else { owner::as_owner(|| Ok(Spi::run(command)?)) }
}
