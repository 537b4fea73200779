//! Opening: a stored wrapper, its keys in the catalog and their providers give a DEK, or one error.

use super::{
    catalog::{
        key::{Key, KeyStatus},
        policy::Outage,
        wrapper::{WrapperRow, WrapperStatus},
    },
    gucs, kms, remote,
    report::Failure,
};
use crate::{
    core::{
        error::Error,
        kdf,
        path::Mode,
        projection,
        secret::Dek,
        slot::{Container, SlotNo},
        suite::SUITE_1,
        wrapper::{Outcome, Stored, Unopened, Wrapper},
    },
    provider::binds_aad,
};
use std::collections::HashMap;

/// What a slot's key is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Intent {
    /// The DEK, to be used.
    Use,
    /// The share, to be put under another key: what a compromised key is still good for.
    MoveAway,
}

/// Reads a wrapper's bytes and checks them against its row.
///
/// A row whose describing JSON disagrees with the bytes was edited: it does not open, whatever the bytes say.
pub(crate) fn parse(row: &WrapperRow) -> Result<Wrapper, Failure> {
    parse_to_move(row, |_| true)
}

/// The same for a rewrap, which looks only at the JSON of layers that it moves: that of others stays as it is, and opens or not as before.
pub(crate) fn parse_to_move(row: &WrapperRow, moves: impl Fn(SlotNo) -> bool) -> Result<Wrapper, Failure> {
    let layer = |l: &'_ super::catalog::wrapper::LayerRow| u8::try_from(l.layer_no).map_err(|_| Error::DoesNotOpen);
    let mut layers = Vec::new();
    for l in &row.layers {
        layers.push((layer(l)?, l.kem_ciphertext.as_slice()));
    }
    let wrapper = Wrapper::parse(&Stored {
        uuid: row.uuid,
        policy_uuid: row.policy_uuid,
        epoch: u32::try_from(row.epoch).map_err(|_| Error::DoesNotOpen)?,
        generation: u64::try_from(row.generation).map_err(|_| Error::DoesNotOpen)?,
        dek_fingerprint: &row.dek_fingerprint,
        dek_wrap1: &row.dek_wrap1,
        dek_wrap2: &row.dek_wrap2,
        layers,
    })?;
    let described = projection::agrees(row.crypto_suite.as_deref(), &projection::crypto_suite(&wrapper))
        && row.layers.iter().zip(wrapper.slots().iter().skip(2)).all(|(l, slot)| {
            let is_described = || {
                projection::agrees(l.aad.as_deref(), &projection::layer_aad(&wrapper, slot))
                    && projection::agrees(l.meta.as_deref(), &projection::layer_meta(slot))
            };
            l.algorithm == Some(slot.header.algorithm)
                && (!moves(slot.header.slot) || is_described())
                && l.encap_pubkey.as_ref().is_none_or(|ek| Some(kdf::sha256(&[ek])) == slot.header.ek_sha256)
        });
    if described { Ok(wrapper) } else { Err(Failure::does_not_open()) }
}

/// The floors outside SQL that hold for every wrapper.
pub(crate) fn check_floors(wrapper: &Wrapper) -> Result<(), Failure> {
    let below = |setting: &str| {
        Err(Failure::state(
            format!("wrapper is below the floor of \"{setting}\""),
            format!("The administrator can change the setting \"{setting}\"; wrappers above it have to be made anew."),
        ))
    };
    if gucs::min_suite() > i32::from(SUITE_1) {
        return below("kms_wrap.min_suite");
    }
    if gucs::require_pq() && !wrapper.is_post_quantum(1) {
        return below("kms_wrap.require_pq");
    }
    if gucs::require_origin() && !wrapper.has_origin(binds_aad) {
        return below("kms_wrap.require_origin");
    }
    Ok(())
}

/// Refuses wrappers whose status does not allow opening.
pub(crate) fn check_status(row: &WrapperRow) -> Result<(), Failure> {
    match row.status {
        WrapperStatus::Active | WrapperStatus::Rotated => Ok(()),
        WrapperStatus::Retired => Err(Failure::state(
            format!("wrapper \"{}\" is retired", row.label()),
            "Set its status in kms_wrap.key_wrappers back to 'rotated' to open it again.",
        )),
        WrapperStatus::Invalid => Err(Failure::state(
            format!("wrapper \"{}\" is invalid", row.label()),
            "An invalid wrapper is never opened again; restore it from a backup.",
        )),
    }
}

/// The catalog's key of a slot, which must be the key that the bytes name.
pub(crate) fn slot_key<'k>(row: &WrapperRow, slot: &Container, keys: &'k HashMap<i64, Key>) -> Result<&'k Key, Failure> {
    let id = match (slot.header.slot, slot.header.slot.layer_no()) {
        (SlotNo::KMS1, _) => Some(row.kms1),
        (_, None) => Some(row.kms2),
        (_, Some(n)) => row.layers.iter().find(|l| l.layer_no == i16::from(n)).and_then(|l| l.key),
    };
    let key = id.and_then(|id| keys.get(&id)).ok_or_else(Failure::does_not_open)?;
    let same = key.key_ref.same_key(&slot.header.key_ref)
        && key.algorithm == slot.header.algorithm
        && key.public_key.as_ref().map(|ek| kdf::sha256(&[ek])) == slot.header.ek_sha256;
    if same { Ok(key) } else { Err(Failure::does_not_open()) }
}

/// Why a key may not be asked, if so.
pub(crate) fn barred(key: &Key, intent: Intent) -> Option<Failure> {
    let hint = match key.status {
        _ if !key.provider_enabled => {
            return Some(Failure::state(
                format!("key provider \"{}\" is disabled", key.provider),
                "Set is_enabled in kms_wrap.kms_providers to use its keys again.",
            ));
        }
        KeyStatus::Active | KeyStatus::Retired => return None,
        KeyStatus::Compromised if intent == Intent::MoveAway => return None,
        KeyStatus::Compromised => {
            format!("Move its wrappers away with kms_wrap.kw_schedule_rewrap(from_key => {}, ...) and a target key for their slot.", key.id)
        }
        KeyStatus::Disabled => format!("Enable it with kms_wrap.kw_set_key_status({}, 'active').", key.id),
        KeyStatus::Destroyed => "A destroyed key never comes back.".to_owned(),
    };
    Some(Failure::state(format!("KMS key {} is {}", key.label(), key.status.name()), hint))
}

/// Opens the DEK of a parsed wrapper.
///
/// `every_path` asks all keys, so that each path of a redundant wrapper is proved; otherwise the second path is tried only when the first
/// cannot be reached or its key was put out of use.
pub(crate) fn open(row: &WrapperRow, wrapper: &Wrapper, keys: &HashMap<i64, Key>, every_path: bool) -> Result<Dek, Failure> {
    check_floors(wrapper)?;
    let slots = wrapper.slots();
    let mut slot_keys = Vec::new();
    for slot in slots {
        slot_keys.push(slot_key(row, slot, keys)?);
    }
    let mut outcomes: Vec<Outcome> = slots.iter().map(|_| Outcome::Missing).collect();
    let (mut obstacle, mut refusal) = (None, None);
    let mut ask = |outcomes: &mut [Outcome], asked: &dyn Fn(SlotNo) -> bool| {
        let chosen: Vec<_> = slots.iter().zip(&slot_keys).zip(outcomes).filter(|((slot, _), _)| asked(slot.header.slot)).collect();
        let shares = shares(wrapper, &chosen.iter().map(|((slot, key), _)| (*slot, **key)).collect::<Vec<_>>())?;
        for ((_, outcome), share) in chosen.into_iter().zip(shares) {
            match share {
                Ok(share) => *outcome = share,
                Err(NoShare::Obstacle(failure)) => drop(obstacle.get_or_insert(failure)),
                Err(NoShare::Refusal(failure)) => drop(refusal.get_or_insert(failure)),
            }
        }
        Ok::<_, Failure>(())
    };
    // At once, since each may take a round trip; in a redundant wrapper the second path only when the first one needs it.
    let both = every_path || wrapper.mode() == Mode::Split;
    if both {
        ask(&mut outcomes, &|_| true)?;
    } else {
        // In a trigger a first path that hangs must not leave the second one without time.
        remote::leaving_half(|| ask(&mut outcomes, &|slot| slot != SlotNo::KMS2))?;
        if outcomes.first().is_none_or(|first| matches!(first, Outcome::Missing)) {
            ask(&mut outcomes, &|slot| slot == SlotNo::KMS2)?;
        }
    }
    let opened = wrapper.open(&outcomes);
    if matches!(opened, Err(Unopened::DoesNotOpen)) {
        alarm(wrapper, &slot_keys, &outcomes);
        return Err(Failure::does_not_open());
    }
    // No other path makes up for a key that answers wrongly; and whoever asks for every path wants to hear of an obstacle on any.
    if let Some(failure) = refusal.or(if every_path { obstacle.take() } else { None }) {
        return Err(failure);
    }
    opened.map_err(|_| obstacle.unwrap_or_else(Failure::does_not_open))
}

/// Tells of a wrapper that did not verify, where no key's rejection has done so. Its keys that opened to what the wrapper does not commit to stand
/// for it; if all that were asked opened rightly, the rest of its bytes was altered, and the first of them does.
pub(crate) fn alarm(wrapper: &Wrapper, keys: &[&Key], outcomes: &[Outcome]) {
    if outcomes.iter().any(|outcome| matches!(outcome, Outcome::Failed)) {
        return;
    }
    let mut opened = Vec::new();
    for ((slot, key), outcome) in wrapper.slots().iter().zip(keys).zip(outcomes) {
        if let Outcome::Share(share) = outcome {
            opened.push((*key, wrapper.share_is_committed(slot.header.slot, share)));
        }
    }
    let none_is_wrong = opened.iter().all(|(_, is_committed)| *is_committed);
    let blamed = opened.iter().filter(|(_, is_committed)| !is_committed).chain(opened.iter().take(usize::from(none_is_wrong)));
    for (key, _) in blamed {
        kms::count_rejected(key, 1);
    }
}

/// Whether a wrapper that was opened before may still be: what [`open`] looks at before it asks a provider.
pub(crate) fn check_keys(row: &WrapperRow, wrapper: &Wrapper, keys: &HashMap<i64, Key>, outage: Outage) -> Result<(), Failure> {
    check_floors(wrapper)?;
    let (mut open_paths, mut obstacle) = (0, None);
    for slot in wrapper.slots() {
        let key = slot_key(row, slot, keys)?;
        match usable(key).and_then(|()| if outage == Outage::Fail { reachable(key) } else { Ok(()) }) {
            Ok(()) if slot.header.slot.layer_no().is_none() => open_paths += 1,
            Ok(()) => {}
            Err(NoShare::Obstacle(failure)) if wrapper.mode() == Mode::Redundant && slot.header.slot.layer_no().is_none() => {
                obstacle = Some(failure);
            }
            Err(NoShare::Obstacle(failure) | NoShare::Refusal(failure)) => return Err(failure),
        }
    }
    match obstacle {
        Some(failure) if open_paths == 0 => Err(failure),
        _ => Ok(()),
    }
}

/// Why a slot gave no answer.
enum NoShare {
    /// Its provider cannot be reached, or an operator put the key out of use: the other path of a redundant wrapper may open.
    Obstacle(Failure),
    /// Its provider refuses, or the key may only be moved away from: that is for a person to look at.
    Refusal(Failure),
}

impl From<Failure> for NoShare {
    fn from(failure: Failure) -> Self {
        Self::Refusal(failure)
    }
}

fn usable(key: &Key) -> Result<(), NoShare> {
    let Some(failure) = barred(key, Intent::Use) else { return Ok(()) };
    let put_out_of_use = !key.provider_enabled || matches!(key.status, KeyStatus::Disabled | KeyStatus::Destroyed);
    Err(if put_out_of_use { NoShare::Obstacle(failure) } else { NoShare::Refusal(failure) })
}

/// Whether the last call of the key's provider came to an answer.
fn reachable(key: &Key) -> Result<(), NoShare> {
    remote::check_last_call(key).map_err(|error| NoShare::Obstacle(Failure::provider(&key.provider, &error)))
}

/// Asks the keys of slots, all at once.
fn shares(wrapper: &Wrapper, slots: &[(&Container, &Key)]) -> Result<Vec<Result<Outcome, NoShare>>, Failure> {
    let mut aads = Vec::new();
    for (slot, _) in slots {
        aads.push(wrapper.slot_aad(slot.header.slot)?);
    }
    let usable: Vec<_> = slots.iter().map(|(_, key)| usable(key)).collect();
    let asked = slots.iter().zip(&aads).zip(&usable).filter(|(_, usable)| usable.is_ok());
    let parts: Vec<_> = asked.map(|(((slot, key), aad), _)| (*key, vec![(slot.blob.as_slice(), aad.as_slice())])).collect();
    let mut answers = kms::open_all(&parts)?.into_iter();
    let outcome = |(usable, (_, key)): (Result<(), NoShare>, &(&Container, &Key))| {
        usable?;
        match answers.next() {
            Some(Ok(shares)) => Ok(shares.into_iter().next().flatten().map_or(Outcome::Failed, Outcome::Share)),
            Some(Err(error)) if error.is_outage() => Err(NoShare::Obstacle(Failure::provider(&key.provider, &error))),
            Some(Err(error)) => Err(NoShare::Refusal(Failure::provider(&key.provider, &error))),
            None => Err(Failure::internal("KMS answer").into()),
        }
    };
    Ok(usable.into_iter().zip(slots).map(outcome).collect())
}
