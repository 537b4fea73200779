//! kw_verify: opens and checks every selected wrapper, one row each, batch by batch, stopping at none.

use super::{
    catalog::{
        campaign::{Selector, select_ids},
        key, wrapper,
        wrapper::{WrapperRow, WrapperStatus},
    },
    open,
    report::Failure,
};
use pgrx::Uuid;
use std::collections::HashMap;

/// Wrappers read at once: bounds memory however many there are.
const BATCH: i64 = 200;

/// One wrapper's verdict.
pub(crate) struct Verdict {
    pub(crate) wrapper: Uuid,
    pub(crate) failure: Option<Failure>,
}

/// Walks over the selected wrappers in the order of their ids.
pub(crate) struct Walk {
    selector: Selector,
    after: i64,
    pending: std::vec::IntoIter<Verdict>,
}

impl Walk {
    pub(crate) fn new(selector: Selector) -> Self {
        Self { selector, after: 0, pending: Vec::new().into_iter() }
    }

    /// The next verdict; `None` at the end.
    pub(crate) fn step(&mut self) -> Result<Option<Verdict>, Failure> {
        pgrx::check_for_interrupts!();
        if let Some(verdict) = self.pending.next() {
            return Ok(Some(verdict));
        }
        let ids = select_ids(&self.selector, self.after, BATCH)?;
        let Some(last) = ids.last() else { return Ok(None) };
        self.after = *last;
        let rows = wrapper::by_ids(&ids)?;
        let key_ids: std::collections::HashSet<i64> = rows.iter().flat_map(WrapperRow::key_ids).collect();
        let keys = key::by_ids(&key_ids.into_iter().collect::<Vec<_>>())?;
        let verdicts: Vec<_> = rows.iter().map(|row| Verdict { wrapper: row.label(), failure: check(row, &keys).err() }).collect();
        self.pending = verdicts.into_iter();
        Ok(self.pending.next())
    }
}

/// Everything that opening checks, on every path. The context is the stored one: who verifies need not know it. A retired wrapper is checked like
/// the others, since it can be set back.
fn check(row: &WrapperRow, keys: &HashMap<i64, key::Key>) -> Result<(), Failure> {
    if row.status != WrapperStatus::Retired {
        open::check_status(row)?;
    }
    let parsed = open::parse(row)?;
    open::open(row, &parsed, keys, true).map(drop)
}
