//! Protecting columns: the steps that the SQL of kw_protect_column, kw_encrypt_column and kw_unprotect_column can't do with the
//! caller's rights. Each checks that the caller owns the table and has the privilege on the policy, and does nothing else as owner.
#![allow(unsafe_code)]

use super::{
    catalog::{
        column::{self, NewColumn, Protected},
        policy, protected,
    },
    deks::{self, Scope},
    grants::{self, Privilege},
    owner::as_owner,
    protected::key_of,
    report::Failure,
    revocation, spi,
};
use crate::core::scope;
use pgrx::{
    Uuid,
    pg_sys::{self, Oid},
};

/// Of a new column's blind index: the default of `index_generation`.
const FIRST_GENERATION: u8 = 1;

/// Fails unless the current role owns the relation; returns its name.
fn check_owner(relation: Oid) -> Result<String, Failure> {
    match column::owned(relation)? {
        Some((name, true)) => Ok(name),
        Some((name, false)) => Err(Failure::not_owner(&name)),
        None => Err(Failure::unknown("relation with OID", relation.to_u32())),
    }
}

/// Fails unless the current role owns the table and may encrypt with the policy; returns the policy's id.
pub(crate) fn check_rights(relation: Oid, policy: &str) -> Result<i64, Failure> {
    check_owner(relation)?;
    revocation::poll();
    let policy = as_owner(|| policy::by_name(policy))?;
    grants::require(policy.id, &policy.name, Privilege::Encrypt)?;
    Ok(policy.id)
}

/// Makes a uuid for a column that is to be protected, and the keys that its first values need. Their providers are asked before the
/// table is locked, and the first writer need not make them in a transaction of its own, for whose end all others would wait.
pub(crate) fn new_keys(relation: Oid, policy: &str, has_data_key: bool, has_index: bool) -> Result<Uuid, Failure> {
    check_rights(relation, policy)?;
    let policy = deks::policy(policy)?;
    let uuid = column::new_uuid()?;
    let column = *uuid.as_bytes();
    if has_data_key {
        deks::current_or_new(&Scope { policy: &policy, ctx_sha256: scope::of_column(&column, None), column: Some((column, None)) })?;
    }
    if has_index {
        let ctx_sha256 = scope::of_index(&column, FIRST_GENERATION);
        deks::current_or_new(&Scope { policy: &policy, ctx_sha256, column: Some((column, Some(FIRST_GENERATION))) })?;
    }
    Ok(uuid)
}

/// Registers a column of a table of the caller's.
pub(crate) fn register(new: &NewColumn<'_>) -> Result<(), Failure> {
    let name = new.name;
    if !matches!(new.status, "encrypting" | "protected") {
        return Err(Failure::bad_argument("invalid value for argument \"status\"", "It must be encrypting or protected."));
    }
    as_owner(|| {
        let key = key_of(new.relation, new.tenant_column)?;
        if !column::insert(new, key.forms)? {
            return Err(Failure::unknown("column that can be protected", name));
        }
        protected::record(new.uuid, new.relation, key.columns)
    })
}

/// The protected columns of a table of the caller's, or the one of that name.
pub(crate) fn lookup(relation: Oid, column_name: Option<&str>) -> Result<Vec<Protected>, Failure> {
    let table = check_owner(relation)?;
    let found = as_owner(|| column::find(relation, column_name))?;
    if let Some(copy) = found.iter().find(|c| !c.is_genuine) {
        let holders: Vec<_> = as_owner(|| column::holders(copy.uuid))?.into_iter().map(|(table, _)| table).collect();
        return Err(Failure::state(
            format!("column \"{}\" of table {table} is marked as a protected column that other tables have too", copy.name),
            "Drop the kw_sealed_ constraint of tables that are copies, or give the protected table its old name.",
        )
        .detail(format!("Tables: {}.", holders.join(", "))));
    }
    // After a restore nothing is on record, and giving the column back needs to know its table to the end.
    if spi::may_write() {
        for c in found.iter().filter(|c| !c.is_recorded) {
            // Only of the key that the values are bound to.
            let key = key_of(relation, c.tenant_column.as_deref()).ok().filter(|key| key.forms == c.key_forms);
            let columns = key.and_then(|key| key.columns);
            as_owner(|| protected::record(c.uuid, relation, columns))?;
        }
    }
    Ok(found)
}

/// Records how far the encryption of existing rows is, and the next status once the constraint proves that it is reached.
pub(crate) fn progress(
    relation: Oid,
    column_name: &str,
    status: Option<&str>,
    rows: (Option<i64>, Option<i64>),
    last_key: Option<Vec<String>>,
) -> Result<(), Failure> {
    let found = lookup(relation, Some(column_name))?.into_iter().next();
    let found = found.ok_or_else(|| Failure::unknown("protected column", column_name))?;
    check_rights(relation, &found.policy)?;
    if let Some(status) = status {
        let may = match status {
            "rewriting" => found.status == "encrypting",
            "protected" => found.status == "rewriting",
            _ => false,
        };
        if !may || !found.is_validated {
            return Err(Failure::state(
                format!("column \"{column_name}\" cannot change from \"{}\" to \"{status}\"", found.status),
                "kms_wrap.kw_encrypt_column() encrypts its rows, proves that by validating the constraint, and rewrites the table.",
            ));
        }
    }
    as_owner(|| column::progress(found.uuid, status, rows.0, rows.1, last_key))
}

/// Forgets a column that no table has any more. Returns the tables of other owners that have its constraint: while there are any, what they hold may
/// be values, of a partition that was detached and given away, and needs the column to be known.
pub(crate) fn unregister(uuid: Uuid) -> Result<Vec<String>, Failure> {
    let (id, name) = as_owner(|| column::policy(uuid))?.ok_or_else(|| Failure::unknown("protected column", uuid))?;
    grants::require(id, &name, Privilege::Decrypt)?;
    // A detached partition still has values. Tables of others stop nobody: anybody may make one with the constraint.
    let (holders, of_others): (Vec<_>, Vec<_>) = as_owner(|| column::holders(uuid))?.into_iter().partition(|(_, is_owners)| *is_owners);
    let names = |tables: Vec<(String, bool)>| tables.into_iter().map(|(table, _)| table).collect::<Vec<_>>();
    if !holders.is_empty() {
        return Err(Failure::state(
            format!("protected column \"{uuid}\" still has values"),
            "Give it back with kms_wrap.kw_unprotect_column(), or drop the table.",
        )
        .detail(format!("Tables: {}.", names(holders).join(", "))));
    }
    if of_others.is_empty() {
        as_owner(|| column::delete(uuid))?;
    }
    Ok(names(of_others))
}

/// Removes the statistics of a column, which hold its most common values.
pub(crate) fn drop_statistics(relation: Oid, column_name: &str) -> Result<(), Failure> {
    check_owner(relation)?;
    let attribute = protected::attribute(relation, column_name)?.number;
    // SAFETY: deletes rows of pg_statistic, in a transaction, for a table of the caller's.
    unsafe { pg_sys::RemoveStatistics(relation, attribute) };
    Ok(())
}

/// Fails inside a transaction block, where a procedure cannot commit.
pub(crate) fn no_block(procedure: &str) -> Result<(), Failure> {
    // SAFETY: reads the state of the transaction.
    if unsafe { pg_sys::IsTransactionBlock() } { Err(Failure::in_block(procedure)) } else { Ok(()) }
}

/// Whether no snapshot, prepared transaction or replication slot can see rows of the table that were dead before transaction `boundary`.
pub(crate) fn is_past(relation: Oid, boundary: i64) -> Result<bool, Failure> {
    check_owner(relation)?;
    // Transaction ids are compared as PostgreSQL does, modulo 2^32.
    let boundary = u32::try_from(boundary & i64::from(u32::MAX)).map_err(Failure::internal)?;
    let lock = pg_sys::AccessShareLock.cast_signed();
    // SAFETY: the relation is open, and locked, while its horizon is asked for.
    let oldest = unsafe {
        let open = pg_sys::relation_open(relation, lock);
        let oldest = pg_sys::GetOldestNonRemovableTransactionId(open);
        pg_sys::relation_close(open, lock);
        oldest.into_inner()
    };
    Ok(oldest.wrapping_sub(boundary).cast_signed() >= 0)
}
