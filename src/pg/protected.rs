//! Protected columns, as held in memory: what they are, and where a table has them.

use super::{
    catalog::{
        policy::Policy,
        protected::{self as rows, Attribute, OnRecord},
    },
    deks, owner,
    report::Failure,
    revocation,
    row_key::KeyKind,
    uuid_hash::UuidMap,
};
use crate::core::{blind_index::Normalisation, scope};
use pgrx::{Uuid, pg_sys};
use std::{cell::RefCell, collections::HashMap, rc::Rc};

/// A protected column.
pub(crate) struct Column {
    pub(crate) uuid: [u8; 16],
    pub(crate) policy: Rc<Policy>,
    /// What its DEK is bound to; `None` when each tenant has one.
    pub(crate) scope: Option<[u8; 32]>,
    /// Armoured, and not raw.
    pub(crate) is_text: bool,
    /// Whether its own type is `char`, which does not count blanks at the end.
    pub(crate) is_blank_padded: bool,
    /// Characters that the column's own type allowed.
    pub(crate) max_chars: Option<usize>,
    /// Whether old rows may still be plain, or old snapshots show them so: until the table has been rewritten.
    pub(crate) is_encrypting: bool,
    pub(crate) index: Option<Index>,
    /// Of the primary key's columns and the tenant column, when the column was protected.
    key_forms: Vec<String>,
}

/// A column's blind index.
pub(crate) struct Index {
    /// Of the HMAC, in each entry.
    pub(crate) bytes: usize,
    pub(crate) is_unique: bool,
    pub(crate) normalisation: Normalisation,
    /// Of new entries.
    pub(crate) generation: u8,
    /// Of entries that were not made anew yet.
    pub(crate) old_generation: Option<u8>,
}

/// Where a relation has a column, by attribute number.
pub(crate) struct Place {
    pub(crate) value: i16,
    pub(crate) index: Option<i16>,
    /// Primary key, then tenant.
    pub(crate) keys: Vec<(i16, KeyKind)>,
}

#[derive(Default)]
struct Held {
    epoch: u64,
    columns: UuidMap<[u8; 16], Rc<Column>>,
}

#[derive(Default)]
struct Places {
    definitions: u64,
    by_column: UuidMap<(u32, [u8; 16]), Rc<Place>>,
    /// Of columns whose rows in protected_columns are not here.
    unregistered: UuidMap<(u32, [u8; 16]), i16>,
    by_name: HashMap<(pg_sys::Oid, String), [u8; 16]>,
}

thread_local! {
    static HELD: RefCell<Held> = RefCell::new(Held::default());
    static PLACES: RefCell<Places> = RefCell::new(Places::default());
}

/// A column by its uuid.
pub(crate) fn column(uuid: &[u8; 16]) -> Result<Rc<Column>, Failure> {
    let epoch = revocation::epoch();
    let held = HELD.with_borrow(|held| if held.epoch == epoch { held.columns.get(uuid).cloned() } else { None });
    if let Some(column) = held {
        return Ok(column);
    }
    let (column, epoch) = deks::settled(|| {
        let row = owner::reading_now(|| rows::column(Uuid::from_bytes(*uuid)))?;
        let policy = Rc::new(deks::policy_by_id(row.policy_id)?);
        made_of(uuid, &row, policy)
    })?;
    let column = Rc::new(column);
    HELD.with_borrow_mut(|held| {
        if held.epoch != epoch {
            *held = Held { epoch, columns: UuidMap::default() };
        }
        held.columns.insert(*uuid, Rc::clone(&column));
    });
    Ok(column)
}

fn made_of(uuid: &[u8; 16], row: &rows::ColumnRow, policy: Rc<Policy>) -> Result<Column, Failure> {
    let generation = |n: i16| u8::try_from(n).map_err(|_| Failure::internal("generation of a blind index"));
    let index = match (row.index_bytes, row.index_normalisation.as_deref().and_then(Normalisation::from_name)) {
        (Some(bytes), Some(normalisation)) => Some(Index {
            bytes: usize::try_from(bytes).map_err(Failure::internal)?,
            is_unique: row.index_is_unique,
            normalisation,
            generation: generation(row.index_generation)?,
            old_generation: row.index_old_generation.map(generation).transpose()?,
        }),
        _ => None,
    };
    // "character varying(11)", "character(2)": how format_type() writes them.
    let limit = row.original_type.strip_prefix("character").and_then(|rest| rest.split_once('('));
    Ok(Column {
        uuid: *uuid,
        policy,
        scope: (!row.has_tenant).then(|| scope::of_column(uuid, None)),
        is_text: row.is_text,
        is_blank_padded: row.original_type.starts_with("character(") || row.original_type == "bpchar",
        max_chars: limit.and_then(|(_, n)| n.strip_suffix(')')?.parse().ok()),
        is_encrypting: row.is_encrypting,
        index,
        key_forms: row.key_forms.clone(),
    })
}

fn with_places<T>(f: impl FnOnce(&mut Places) -> T) -> T {
    let definitions = revocation::definitions();
    PLACES.with_borrow_mut(|places| {
        if places.definitions != definitions {
            *places = Places { definitions, ..Places::default() };
        }
        f(places)
    })
}

/// Keeps what was read, unless a definition has changed since it began to be.
fn keep_place<T>(definitions: u64, f: impl FnOnce(&mut Places) -> T) {
    if definitions == revocation::definitions() {
        with_places(f);
    }
}

/// Where a relation has a column.
pub(crate) fn place(relation: pg_sys::Oid, column: &Column) -> Result<Rc<Place>, Failure> {
    let index = (relation.to_u32(), column.uuid);
    if let Some(place) = with_places(|places| places.by_column.get(&index).cloned()) {
        return Ok(place);
    }
    revocation::listen()?;
    let definitions = revocation::definitions();
    let (marks, mut key) = owner::reading_now(|| Ok((rows::marks(relation)?, rows::primary_key(relation)?)))?;
    let hex = hex::encode(column.uuid);
    let mark = |prefix: &str| marks.iter().find(|(name, ..)| *name == format!("{prefix}{hex}"));
    let lost = |what: &str| {
        let hint = "kms_wrap.kw_health() shows it; kw_unprotect_column() and kw_protect_column() make it anew.";
        Failure::state(format!("a protected column has lost its {what}"), hint)
    };
    // The table's owner may have put another constraint of that name: it must not make us read a number as a pointer.
    let of_type = |found: &&(String, Attribute), wanted: pg_sys::Oid| found.1.type_oid == wanted;
    let sealed_type = if column.is_text { pg_sys::TEXTOID } else { pg_sys::BYTEAOID };
    let (name, value) = mark("kw_sealed_").filter(|m| of_type(m, sealed_type)).ok_or_else(|| lost("CHECK constraint"))?;
    let uuid = Uuid::from_bytes(column.uuid);
    let found = on_record(relation, uuid, name)?;
    if key.is_empty() {
        return Err(lost("primary key"));
    }
    if column.scope.is_none() {
        let (_, tenant) = mark("kw_tenant_").ok_or_else(|| lost("constraint on the tenant column"))?;
        key.push(*tenant);
    }
    // Before a value is bound to it: going back would then leave rows of both kinds, which open under neither.
    if !forms(&key).is_ok_and(|forms| forms == column.key_forms) {
        return Err(Failure::key_changed());
    }
    check_key_columns(relation, uuid, found, &key)?;
    let keys = key.iter().map(|a| Ok((a.number, KeyKind::of(a.type_oid)?))).collect::<Result<_, Failure>>()?;
    let entry = mark("kw_index_").filter(|m| of_type(m, pg_sys::BYTEAOID)).map(|(_, a)| a.number);
    let place = Rc::new(Place { value: value.number, index: entry, keys });
    keep_place(definitions, |places| places.by_column.insert(index, Rc::clone(&place)));
    Ok(place)
}

/// What the bytes of key columns depend on.
fn forms(key: &[Attribute]) -> Result<Vec<String>, Failure> {
    key.iter().map(|a| KeyKind::form(a.type_oid, a.type_modifier)).collect()
}

/// The columns of a table that values are bound to: of its primary key, if it has one, and the tenant column if each tenant has a DEK.
pub(crate) fn key_of(relation: pg_sys::Oid, tenant_column: Option<&str>) -> Result<Key, Failure> {
    let mut key = rows::primary_key(relation)?;
    let has_primary_key = !key.is_empty();
    if let Some(tenant) = tenant_column {
        key.push(rows::attribute(relation, tenant)?);
    }
    Ok(Key { forms: forms(&key)?, columns: has_primary_key.then(|| numbers(&key)) })
}

/// What values are bound to.
pub(crate) struct Key {
    pub(crate) forms: Vec<String>,
    /// Numbers of the columns in their table, if they are known: they don't survive a dump.
    pub(crate) columns: Option<Vec<i16>>,
}

/// Whether a table still has the key that the values of a column are bound to.
pub(crate) fn has_its_key(relation: pg_sys::Oid, tenant_column: Option<&str>, forms: &[String], columns: Option<&[i16]>) -> bool {
    // A type that no value can be bound to is another one.
    key_of(relation, tenant_column).is_ok_and(|key| key.forms == forms && (columns.is_none() || key.columns.as_deref() == columns))
}

fn numbers(key: &[Attribute]) -> Vec<i16> {
    key.iter().map(|a| a.number).collect()
}

/// What is on record of a column's table. Anybody may make a table with another's constraint and trigger; sealing for its rows would move values there.
fn on_record(relation: pg_sys::Oid, column: Uuid, mark: &str) -> Result<OnRecord, Failure> {
    let found = owner::reading_now(|| rows::on_record(column, relation, mark))?;
    if found.is_its_table {
        return Ok(found);
    }
    Err(Failure::state(
        "this table is not the one whose column is protected",
        "A copy of a protected table needs kw_protect_column() of its own: drop its kw_sealed_ constraint and its seal trigger first.",
    ))
}

/// Whether a relation has the key columns that are on record, which they are from now on.
fn check_key_columns(relation: pg_sys::Oid, column: Uuid, found: OnRecord, key: &[Attribute]) -> Result<(), Failure> {
    // A partition may have other numbers for its columns than its root.
    let columns = if found.root == relation { Some(numbers(key)) } else { root_key(found.root, column)? };
    if found.key_columns.is_some() && found.key_columns != columns {
        return Err(Failure::key_changed());
    }
    if found.is_recorded && found.key_columns.is_some() {
        return Ok(());
    }
    owner::as_owner(|| rows::record(column, found.root, columns))
}

/// `None` when it has lost its primary key.
fn root_key(root: pg_sys::Oid, column: Uuid) -> Result<Option<Vec<i16>>, Failure> {
    let (marks, mut key) = owner::reading_now(|| Ok((rows::marks(root)?, rows::primary_key(root)?)))?;
    if key.is_empty() {
        return Ok(None);
    }
    let tenant = format!("kw_tenant_{}", hex::encode(column.as_bytes()));
    key.extend(marks.iter().find(|(name, _)| *name == tenant).map(|(_, a)| *a));
    Ok(Some(numbers(&key)))
}

/// Where a relation has the values of a column that need not be registered here: what the trigger can know of rows that come by replication or
/// restore before the extension's own.
pub(crate) fn unregistered_place(relation: pg_sys::Oid, uuid: &[u8; 16]) -> Result<i16, Failure> {
    let index = (relation.to_u32(), *uuid);
    if let Some(attribute) = with_places(|places| places.unregistered.get(&index).copied()) {
        return Ok(attribute);
    }
    revocation::listen()?;
    let definitions = revocation::definitions();
    let name = format!("kw_sealed_{}", hex::encode(uuid));
    let marks = owner::reading_now(|| rows::marks(relation))?;
    let mark = marks
        .iter()
        .find(|(mark, a)| *mark == name && matches!(a.type_oid, pg_sys::TEXTOID | pg_sys::BYTEAOID))
        .ok_or_else(|| Failure::unknown("protected column", Uuid::from_bytes(*uuid)))?;
    keep_place(definitions, |places| places.unregistered.insert(index, mark.1.number));
    Ok(mark.1.number)
}

/// The uuid of a protected column by its name of today.
pub(crate) fn by_name(relation: pg_sys::Oid, name: &str) -> Result<[u8; 16], Failure> {
    let index = (relation, name.to_owned());
    if let Some(uuid) = with_places(|places| places.by_name.get(&index).copied()) {
        return Ok(uuid);
    }
    revocation::listen()?;
    let definitions = revocation::definitions();
    let (marks, attribute) = owner::reading_now(|| Ok((rows::marks(relation)?, rows::attribute(relation, name)?)))?;
    let found = marks.iter().filter(|(_, a)| a.number == attribute.number).find_map(|(mark, _)| {
        let mut uuid = [0; 16];
        hex::decode_to_slice(mark.strip_prefix("kw_sealed_")?, &mut uuid).ok()?;
        Some(uuid)
    });
    let uuid =
        found.ok_or_else(|| Failure::state(format!("column \"{name}\" is not protected"), "kms_wrap.kw_protect_column() protects it."))?;
    keep_place(definitions, |places| places.by_name.insert(index, uuid));
    Ok(uuid)
}
