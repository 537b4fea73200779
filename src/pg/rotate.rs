//! Rotation: a new DEK for what an old one was for.

use super::{
    catalog::{policy, protected as rows, wrapper},
    columns,
    grants::{self, Privilege},
    make, open, owner, protected,
    report::Failure,
    revocation,
};
use pgrx::{Uuid, pg_sys};

/// Gives the scope of a current wrapper a new DEK; returns the new wrapper's uuid.
pub(crate) fn rotate_dek(wrapper: Uuid) -> Result<[u8; 16], Failure> {
    revocation::poll();
    let row = owner::as_owner(|| wrapper::by_uuid(wrapper))?;
    grants::require(row.policy_id, &row.policy_name, Privilege::Manage)?;
    if row.purpose != "values" {
        let hint = "Its DEK was handed to a caller, who knows what is encrypted with it: make another with kms_wrap.kw_wrap_dek().";
        return Err(Failure::state(format!("wrapper \"{wrapper}\" is not for values"), hint));
    }
    if row.status != wrapper::WrapperStatus::Active {
        let hint = "Only the current DEK of a scope is rotated; kms_wrap.kw_describe_wrapper() shows its status.";
        return Err(Failure::state(format!("wrapper \"{wrapper}\" is {}", row.status.name()), hint));
    }
    let ctx_sha256 = *open::parse(&row)?.ctx_sha256();
    owner::as_owner(|| {
        let policy = policy::by_id(row.policy_id)?;
        if rows::is_index_key(row.id)? {
            let hint = "kms_wrap.kw_rotate_column_index() makes a new generation of the index.";
            return Err(Failure::state(format!("wrapper \"{wrapper}\" is the key of a blind index"), hint));
        }
        let uuid = make::rotate(&policy, &row, ctx_sha256)?;
        rows::bind_like(row.id, Uuid::from_bytes(uuid))?;
        Ok(uuid)
    })
}

/// Begins a new generation of a column's blind index, with a key of its own; returns its number.
pub(crate) fn rotate_index(relation: pg_sys::Oid, name: &str) -> Result<i16, Failure> {
    revocation::poll();
    let column = protected::column(&protected::by_name(relation, name)?)?;
    grants::require(column.policy.id, &column.policy.name, Privilege::Manage)?;
    let Some(index) = &column.index else {
        let hint = "Protect it with blind_index => 'index' or 'unique'.";
        return Err(Failure::state(format!("column \"{name}\" has no blind index"), hint));
    };
    if index.is_unique {
        // Equal values have different entries in two generations: duplicates would pass.
        let hint = "kw_unprotect_column() and kw_protect_column() give the column another key.";
        return Err(Failure::state(format!("the blind index of column \"{name}\" is unique and cannot have two generations"), hint));
    }
    owner::as_owner(|| rows::next_generation(Uuid::from_bytes(column.uuid)))?.ok_or_else(|| {
        let hint = "CALL kms_wrap.kw_encrypt_column() finishes the one before. There are 255 generations at most.";
        Failure::state(format!("the blind index of column \"{name}\" has two generations already"), hint)
    })
}

/// Ends a rotation: no row has an entry of the old generation any more.
pub(crate) fn settle_index(relation: pg_sys::Oid, name: &str) -> Result<(), Failure> {
    let found = columns::lookup(relation, Some(name))?.into_iter().next();
    let found = found.ok_or_else(|| Failure::unknown("protected column", name))?;
    columns::check_rights(relation, &found.policy)?;
    owner::as_owner(|| rows::settle_generation(found.uuid))
}
