//! Who may do what with the wrappers of a policy: `policy_grants`, by role membership, in the backend, on the caller's own rights.
#![allow(unsafe_code)]

use super::{catalog::grant, owner, report::Failure, revocation, transaction};
use pgrx::pg_sys;
use std::{cell::RefCell, collections::HashMap, ffi::CString};

/// A right on a policy (`policy_grants.privilege`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Privilege {
    /// Making wrappers with a new DEK, encrypting values.
    Encrypt,
    /// Decrypting values.
    Decrypt,
    /// Having a DEK handed out.
    Unwrap,
    /// Wrapping a DEK of one's own.
    Import,
    /// Computing blind index entries.
    Index,
    /// Rewrapping and rotating.
    Manage,
}

impl Privilege {
    pub(crate) const ALL: [Self; 6] = [Self::Encrypt, Self::Decrypt, Self::Unwrap, Self::Import, Self::Index, Self::Manage];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Encrypt => "encrypt",
            Self::Decrypt => "decrypt",
            Self::Unwrap => "unwrap",
            Self::Import => "import",
            Self::Index => "index",
            Self::Manage => "manage",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.name() == name)
    }
}

/// Role, policy, privilege.
type Question = (pg_sys::Oid, i64, Privilege);

/// Answers, as of an epoch; the last one apart, since most calls ask it again.
#[derive(Default)]
struct Answers {
    epoch: u64,
    last: Option<Question>,
    granted: HashMap<Question, bool>,
}

thread_local! {
    static ANSWERS: RefCell<Answers> = RefCell::new(Answers::default());
}

/// Fails with 42501 unless the current role has the privilege on the policy.
pub(crate) fn require(policy: i64, policy_name: &str, privilege: Privilege) -> Result<(), Failure> {
    if is_granted(policy, privilege)? { Ok(()) } else { Err(Failure::no_right(policy_name, privilege.name())) }
}

/// Whether the current role has the privilege on the policy.
pub(crate) fn is_granted(policy: i64, privilege: Privilege) -> Result<bool, Failure> {
    match held(policy, privilege) {
        Some(granted) => Ok(granted),
        None => look_up((owner::current_user(), policy, privilege)),
    }
}

/// The same from memory alone; `None` if it was not asked since rights changed.
pub(crate) fn held(policy: i64, privilege: Privilege) -> Option<bool> {
    let question = (owner::current_user(), policy, privilege);
    let epoch = revocation::epoch();
    ANSWERS.with_borrow_mut(|answers| {
        if answers.epoch != epoch {
            *answers = Answers { epoch, ..Answers::default() };
        }
        if answers.last == Some(question) {
            return Some(true);
        }
        let held = answers.granted.get(&question).copied();
        if held == Some(true) {
            answers.last = Some(question);
        }
        held
    })
}

fn look_up(question: Question) -> Result<bool, Failure> {
    loop {
        revocation::listen()?;
        revocation::take_in();
        let epoch = revocation::epoch();
        let granted = read(question)?;
        revocation::take_in();
        if epoch != revocation::epoch() {
            continue;
        }
        // What is not committed yet counts for this transaction: its end moves the epoch if it is rolled back.
        transaction::is_tentative();
        ANSWERS.with_borrow_mut(|answers| {
            if answers.epoch != epoch {
                *answers = Answers { epoch, ..Answers::default() };
            }
            answers.granted.insert(question, granted);
        });
        return Ok(granted);
    }
}

/// Whether the current role is a superuser or has the rights of the extension's owner.
pub(crate) fn is_owner() -> Result<bool, Failure> {
    has_all(owner::current_user())
}

fn has_all(user: pg_sys::Oid) -> Result<bool, Failure> {
    let owner = owner::owner()?;
    // SAFETY: look-ups in system caches, for oids that came from there.
    Ok(unsafe { pg_sys::superuser_arg(user) || pg_sys::has_privs_of_role(user, owner) })
}

fn read((user, policy, privilege): Question) -> Result<bool, Failure> {
    if has_all(user)? {
        return Ok(true);
    }
    let roles = owner::reading_now(|| grant::roles(policy, privilege.name()))?;
    for role in roles {
        let Ok(name) = CString::new(role) else { continue };
        // A name without a role grants nothing.
        // SAFETY: as above; the name is NUL-terminated.
        let granted = unsafe {
            let role = pg_sys::get_role_oid(name.as_ptr(), true);
            role != pg_sys::InvalidOid && pg_sys::has_privs_of_role(user, role)
        };
        if granted {
            return Ok(true);
        }
    }
    Ok(false)
}
