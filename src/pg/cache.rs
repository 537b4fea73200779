//! This backend's opened DEKs, and what was read on the way to them. Memory only; nothing here asks the catalog or a provider.

use super::{
    catalog::policy::{Outage, Policy},
    gucs,
    report::Failure,
    revocation, transaction,
    uuid_hash::UuidMap,
};
use crate::{
    core::{
        blind_index::IndexKey,
        secret::Dek,
        value_key::{MessageKey, Run, ValueKey},
    },
    provider::entropy::SystemEntropy,
};
use std::{cell::RefCell, rc::Rc};

/// Message keys that one DEK keeps: rows of one transaction share one, rows of many writers have one each.
const MESSAGE_KEYS: usize = 64;

/// How long an outage is not looked at again for a stale DEK, in microseconds.
const EXTENSION: i64 = 5_000_000;

/// An opened DEK.
#[allow(clippy::struct_excessive_bools)] // facts that have nothing to do with each other
pub(crate) struct Entry {
    pub(crate) wrapper: [u8; 16],
    /// Its policy, as of the epoch.
    pub(crate) policy: Rc<Policy>,
    /// Made by kw_wrap_dek: bound to a caller's whole context, and not to a scope.
    pub(crate) is_callers: bool,
    /// What the wrapper authenticates as its context or scope.
    pub(crate) ctx_sha256: [u8; 32],
    /// Whether it may encrypt new values.
    pub(crate) is_active: bool,
    dek: Dek,
    cipher: Option<ValueCipher>,
    index: Option<IndexKey>,
    epoch: u64,
    opened: i64,
    /// Served until then although its time to live is over, since its provider could not be reached.
    extended: i64,
    uses_left: u64,
    touched: bool,
    tentative: bool,
}

/// What an entry is made of.
pub(crate) struct NewEntry {
    pub(crate) wrapper: [u8; 16],
    pub(crate) policy: Rc<Policy>,
    pub(crate) is_callers: bool,
    pub(crate) ctx_sha256: [u8; 32],
    pub(crate) is_active: bool,
    pub(crate) dek: Dek,
    /// Of rights and keys, when the catalog was read.
    pub(crate) epoch: u64,
}

/// A DEK's keys for values.
struct ValueCipher {
    key: ValueKey,
    /// The message key that was used last, by its prefix.
    last: Option<([u8; 12], MessageKey)>,
    others: Vec<([u8; 12], MessageKey)>,
    oldest: usize,
    /// Apart, so that what decrypting needs lies close together.
    run: Option<Box<OwnRun>>,
}

/// A run of nonces, with what it may not outlive.
struct OwnRun {
    run: Run,
    key: MessageKey,
    transaction: u64,
    process: i32,
}

impl Entry {
    /// The key of messages whose nonces start so.
    pub(crate) fn message_key(&mut self, prefix: &[u8; 12]) -> Result<&MessageKey, Failure> {
        let cipher = self.cipher()?;
        if cipher.last.as_ref().is_none_or(|(last, _)| last != prefix) {
            cipher.turn_to(prefix);
        }
        cipher.last.as_ref().map(|(_, key)| key).ok_or_else(|| Failure::internal("message key"))
    }

    /// A nonce that was never used with this DEK, and the key of it: prefix, second half, key.
    pub(crate) fn next_nonce(&mut self) -> Result<([u8; 12], [u8; 12], &MessageKey), Failure> {
        let (transaction, process) = (transaction::serial(), this_process());
        let cipher = self.cipher()?;
        let usable = cipher.run.as_ref().is_some_and(|r| r.transaction == transaction && r.process == process);
        let nonce = if usable { cipher.run.as_mut().and_then(|r| r.run.next_nonce()) } else { None };
        let nonce = if let Some(nonce) = nonce {
            nonce
        } else {
            let mut run = Run::start(&mut SystemEntropy)?;
            let nonce = run.next_nonce().ok_or_else(|| Failure::internal("run"))?;
            let key = cipher.key.message_key(run.prefix());
            cipher.run = Some(Box::new(OwnRun { run, key, transaction, process }));
            nonce
        };
        cipher.run.as_ref().map(|r| (*r.run.prefix(), nonce, &r.key)).ok_or_else(|| Failure::internal("run"))
    }

    /// The key of a blind index whose DEK this is.
    pub(crate) fn index_key(&mut self, column: &[u8; 16], generation: u8) -> Result<&IndexKey, Failure> {
        if self.index.is_none() {
            self.index = Some(IndexKey::derive(&self.dek, column, generation)?);
        }
        self.index.as_ref().ok_or_else(|| Failure::internal("index key"))
    }

    fn cipher(&mut self) -> Result<&mut ValueCipher, Failure> {
        if self.cipher.is_none() {
            if !matches!(self.dek.expose().len(), 32 | 64) {
                return Err(Failure::state(
                    "the wrapper's DEK is too short for values",
                    "Values need a DEK of 32 or 64 bytes; kw_encrypt() by policy makes one.",
                ));
            }
            let key = ValueKey::derive(&self.dek, &self.wrapper)?;
            self.cipher = Some(ValueCipher { key, last: None, others: Vec::new(), oldest: 0, run: None });
        }
        self.cipher.as_mut().ok_or_else(|| Failure::internal("cipher"))
    }

    /// Whether it may still be kept. Asked anew each time, so that a shorter time to live counts for what is held too.
    fn is_alive(&self) -> bool {
        let now = revocation::now();
        let in_time = now <= self.opened.saturating_add(ttl(&self.policy));
        self.uses_left > 0 && (in_time || (now <= self.extended && self.may_be_stale()))
    }

    /// Whether it may be kept for an outage, its time to live being over.
    fn may_be_stale(&self) -> bool {
        let Outage::Stale(longer) = self.policy.outage else { return false };
        self.uses_left > 0 && revocation::now() <= self.opened.saturating_add(ttl(&self.policy)).saturating_add(longer)
    }
}

impl ValueCipher {
    /// Makes the message key of a prefix the last one.
    fn turn_to(&mut self, prefix: &[u8; 12]) {
        if let Some(known) = self.others.iter_mut().find(|(p, _)| p == prefix) {
            if let Some(last) = &mut self.last {
                std::mem::swap(last, known);
            }
            return;
        }
        let Some(before) = self.last.replace((*prefix, self.key.message_key(prefix))) else { return };
        if self.others.len() < MESSAGE_KEYS - 1 {
            self.others.push(before);
        } else if let Some(oldest) = self.others.get_mut(self.oldest) {
            *oldest = before;
            self.oldest = (self.oldest + 1) % (MESSAGE_KEYS - 1);
        }
    }
}

/// The process that this is, which a fork changes; PostgreSQL keeps it, so that asking costs no system call.
#[allow(unsafe_code)]
fn this_process() -> i32 {
    // SAFETY: reads a variable of this process.
    unsafe { pgrx::pg_sys::MyProcPid }
}

/// Entries in places that stay, found by wrapper.
#[derive(Default)]
struct Cache {
    places: UuidMap<[u8; 16], usize>,
    entries: Vec<Entry>,
    last: usize,
    hand: usize,
    /// When what may not be used any more was wiped last.
    swept: i64,
}

thread_local! {
    static CACHE: RefCell<Cache> = RefCell::new(Cache::default());
}

impl Cache {
    fn place(&mut self, wrapper: &[u8; 16]) -> Option<usize> {
        if self.entries.get(self.last).is_none_or(|e| e.wrapper != *wrapper) {
            self.last = *self.places.get(wrapper)?;
        }
        Some(self.last)
    }

    fn remove(&mut self, place: usize) {
        if place < self.entries.len() {
            let removed = self.entries.swap_remove(place);
            self.places.remove(&removed.wrapper);
            if let Some(moved) = self.entries.get(place) {
                self.places.insert(moved.wrapper, place);
            }
        }
    }

    /// Wipes what nobody may use any more, once in a time to live: a look at every entry at each insertion would be a look at all of them for each.
    fn sweep(&mut self) {
        let now = revocation::now();
        if now.saturating_sub(self.swept) <= gucs::cache_ttl() {
            return;
        }
        self.swept = now;
        for place in (0..self.entries.len()).rev() {
            if self.entries.get(place).is_some_and(|entry| !entry.is_alive() && !entry.may_be_stale()) {
                self.remove(place);
            }
        }
    }

    /// Second chance: the first entry from the hand on that was not used since the hand came by last.
    fn evict(&mut self) {
        for _ in 0..=self.entries.len() {
            self.hand = if self.hand < self.entries.len() { self.hand } else { 0 };
            match self.entries.get_mut(self.hand) {
                Some(entry) if entry.touched => entry.touched = false,
                Some(_) => return self.remove(self.hand),
                None => return,
            }
            self.hand += 1;
        }
    }
}

/// What the cache has for a wrapper.
pub(crate) enum Found<T> {
    /// The DEK, used.
    Fresh(T),
    /// The DEK, but rights or keys have changed since: has to be looked at again.
    Outdated,
    /// The DEK, but its time to live is over: good for an outage only.
    Stale,
    /// Nothing, or what may be kept no longer.
    Nothing,
}

/// Uses a held DEK. `f` may not come back here.
pub(crate) fn find<T>(wrapper: &[u8; 16], f: impl FnOnce(&mut Entry) -> T) -> Found<T> {
    let epoch = revocation::epoch();
    CACHE.with_borrow_mut(|cache| {
        let Some(place) = cache.place(wrapper) else { return Found::Nothing };
        let Some(entry) = cache.entries.get_mut(place) else { return Found::Nothing };
        if entry.is_alive() {
            if entry.epoch != epoch {
                return Found::Outdated;
            }
            entry.touched = true;
            entry.uses_left -= 1;
            return Found::Fresh(f(entry));
        }
        if entry.may_be_stale() {
            return Found::Stale;
        }
        cache.remove(place);
        Found::Nothing
    })
}

/// Counts a held DEK as looked at again, at an epoch.
pub(crate) fn confirm(wrapper: &[u8; 16], epoch: u64, policy: Rc<Policy>, is_active: bool) {
    let tentative = transaction::is_tentative();
    CACHE.with_borrow_mut(|cache| {
        if let Some(entry) = cache.place(wrapper).and_then(|place| cache.entries.get_mut(place)) {
            entry.epoch = epoch;
            entry.uses_left = entry.uses_left.min(uses(&policy));
            entry.policy = policy;
            entry.is_active = is_active;
            entry.tentative |= tentative;
        }
    });
}

/// Serves a stale DEK for a while, until its provider is to be asked again.
pub(crate) fn extend(wrapper: &[u8; 16]) {
    CACHE.with_borrow_mut(|cache| {
        if let Some(entry) = cache.place(wrapper).and_then(|place| cache.entries.get_mut(place)) {
            entry.extended = revocation::now().saturating_add(EXTENSION);
        }
    });
}

/// How long a policy's DEKs may be held, in microseconds.
fn ttl(policy: &Policy) -> i64 {
    policy.cache_ttl.min(gucs::cache_ttl())
}

/// How often a policy's DEKs may be used before they are opened again.
fn uses(policy: &Policy) -> u64 {
    let own = policy.cache_uses.and_then(|uses| u64::try_from(uses).ok());
    own.map_or(gucs::cache_uses(), |own| own.min(gucs::cache_uses()))
}

/// Takes a DEK in.
pub(crate) fn insert(new: NewEntry) {
    let limit = gucs::cache_entries();
    // Without a time to live it serves the call that it was read for.
    let uses_left = if ttl(&new.policy) == 0 { 1 } else { uses(&new.policy) };
    let entry = Entry {
        wrapper: new.wrapper,
        policy: new.policy,
        is_callers: new.is_callers,
        ctx_sha256: new.ctx_sha256,
        is_active: new.is_active,
        dek: new.dek,
        cipher: None,
        index: None,
        epoch: new.epoch,
        opened: revocation::now(),
        extended: 0,
        uses_left,
        touched: false,
        tentative: transaction::is_tentative(),
    };
    CACHE.with_borrow_mut(|cache| {
        cache.sweep();
        if let Some(place) = cache.place(&entry.wrapper) {
            cache.remove(place);
        }
        while cache.entries.len() >= limit {
            cache.evict();
        }
        cache.places.insert(entry.wrapper, cache.entries.len());
        cache.entries.push(entry);
    });
}

/// Forgets one DEK.
pub(crate) fn forget(wrapper: &[u8; 16]) {
    CACHE.with_borrow_mut(|cache| {
        if let Some(place) = cache.place(wrapper) {
            cache.remove(place);
        }
    });
}

/// Forgets what came of rows that this transaction wrote and that are gone.
pub(crate) fn drop_tentative() {
    CACHE.with_borrow_mut(|cache| {
        for place in (0..cache.entries.len()).rev() {
            if cache.entries.get(place).is_some_and(|e| e.tentative) {
                cache.remove(place);
            }
        }
    });
}

/// What this transaction wrote is committed.
pub(crate) fn promote_tentative() {
    CACHE.with_borrow_mut(|cache| cache.entries.iter_mut().for_each(|e| e.tentative = false));
}

/// Forgets everything. Keys are wiped as they go.
pub(crate) fn wipe() {
    // At the end of the process thread-local storage may be gone already, and with it the cache.
    let _ = CACHE.try_with(|cache| cache.take());
}
