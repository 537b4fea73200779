//! Doing something as the extension's owner: reading and writing the key tables, which nobody else may.
//!
//! Only the extension's own statements run so, never an expression or a function of the caller's.
#![allow(unsafe_code)]

use super::report::Failure;
use pgrx::pg_sys;

/// An empty table whose relcache entry is invalidated whenever rights or keys change; its owner is the extension's.
const MARKER: &std::ffi::CStr = c"revocation";

/// The marker table's oid.
pub(crate) fn marker() -> Result<pg_sys::Oid, Failure> {
    // SAFETY: syscache lookups by name, in a transaction.
    let oid = unsafe {
        let schema = pg_sys::get_namespace_oid(c"kms_wrap".as_ptr(), true);
        if schema == pg_sys::InvalidOid { schema } else { pg_sys::get_relname_relid(MARKER.as_ptr(), schema) }
    };
    if oid == pg_sys::InvalidOid {
        Err(Failure::state("extension kms_wrap is not installed here", "CREATE EXTENSION kms_wrap;"))
    } else {
        Ok(oid)
    }
}

/// The role that owns the extension's objects.
pub(crate) fn owner() -> Result<pg_sys::Oid, Failure> {
    let marker = marker()?;
    // SAFETY: the entry is released before returning; GETSTRUCT of a pg_class tuple is its fixed part, aligned by PostgreSQL.
    #[allow(clippy::cast_ptr_alignment)]
    unsafe {
        let tuple = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::RELOID.cast_signed(), pg_sys::Datum::from(marker));
        if tuple.is_null() {
            return Err(Failure::internal("marker table"));
        }
        let owner = (*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_class>()).relowner;
        pg_sys::ReleaseSysCache(tuple);
        Ok(owner)
    }
}

unsafe extern "C" {
    /// Without pgrx's guard against errors, of which it raises none: this is asked once a row.
    fn GetUserId() -> pg_sys::Oid;
}

/// The role that rights are checked for: SET ROLE and SECURITY DEFINER count.
pub(crate) fn current_user() -> pg_sys::Oid {
    // SAFETY: reads a variable of this process.
    unsafe { GetUserId() }
}

/// Puts the caller's identity back, whatever happened.
struct Restore(pg_sys::Oid, i32);

impl Drop for Restore {
    fn drop(&mut self) {
        // SAFETY: sets two variables of this process to what they were.
        unsafe { pg_sys::SetUserIdAndSecContext(self.0, self.1) };
    }
}

/// Runs `f` as the extension's owner.
pub(crate) fn as_owner<T>(f: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    let owner = owner()?;
    let mut caller = Restore(pg_sys::InvalidOid, 0);
    // SAFETY: what SECURITY DEFINER does; the guard undoes it on every way out.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&raw mut caller.0, &raw mut caller.1);
        pg_sys::SetUserIdAndSecContext(owner, caller.1 | pg_sys::SECURITY_LOCAL_USERID_CHANGE.cast_signed());
    }
    let result = f();
    drop(caller);
    result
}

/// Pops the snapshot on every way out but an ERROR, which pops it itself.
struct Snapshot;

impl Snapshot {
    fn push() -> Result<Self, Failure> {
        let marker = marker()?;
        // SAFETY: pushes a copy. A catalog snapshot is new at each call for a table without a syscache, in REPEATABLE READ and parallel
        // mode too, where no other snapshot could be taken.
        unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetCatalogSnapshot(marker)) };
        Ok(Self)
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: the snapshot pushed above is the active one: statements under it have popped theirs.
            unsafe { pg_sys::PopActiveSnapshot() };
        }
    }
}

/// Reads with `f` as the extension's owner what is committed now, whatever snapshot the caller's transaction has.
pub(crate) fn reading_now<T>(f: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    as_owner(|| {
        let snapshot = Snapshot::push()?;
        let result = super::spi::with_active_snapshot(f);
        drop(snapshot);
        result
    })
}
