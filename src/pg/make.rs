//! Making a wrapper: policy and keys in, a stored row out.

use super::{
    catalog::{
        key::{Key, PolicyKey},
        policy::Policy,
        wrapper::{self, NewLayer, NewWrapper, WrapperRow},
    },
    kms,
    known::{self, Lock},
    open, remote,
    report::Failure,
    revocation,
};
use crate::{
    core::{
        context::Context,
        draft::{Built, Draft, Spec},
        entropy::Entropy,
        kdf,
        path::Mode,
        policy::{Candidate, Choice, Draw, Role, Selection, choose, layer_slots},
        projection,
        secret::{Dek, Secret},
        slot::{Container, SlotNo, SlotSpec},
        wrapper::{Outcome, Stored, Wrapper},
    },
    provider::{binds_aad, entropy::SystemEntropy},
};
use pgrx::Uuid;
use std::{cell::RefCell, collections::HashMap};
use zeroize::Zeroizing;

thread_local! {
    /// Turns of `round_robin` by policy, in this session: shared counters would make every wrap wait for every other.
    static TURNS: RefCell<HashMap<i64, u64>> = RefCell::new(HashMap::new());
}

/// After 2^31 - 1 writes `wrap_version` starts again, and a pair of keys may still have a row of that version. So many in a row that this
/// does not end would need as many wrappers of one pair, untouched since.
const MAX_GENERATION_TRIES: usize = 1000;

/// After the first try this transaction holds the keys, so that the second one meets the versions that the first one found.
const MAX_VERSION_TRIES: usize = 3;

/// What a new wrapper is for.
struct Purpose {
    name: &'static str,
    /// Of the caller's context, or of the scope.
    ctx_sha256: [u8; 32],
    scope_key: Option<Vec<u8>>,
    /// What `hash_mod` picks keys by.
    hash: u64,
    /// The wrapper that it takes the place of.
    replaces: Option<i64>,
}

/// Makes and stores a wrapper of purpose `caller`; returns its uuid.
pub(crate) fn wrap_dek(policy: &Policy, dek: Option<Dek>, context: &Context) -> Result<[u8; 16], Failure> {
    let uuid = new_uuid()?;
    let hash = hash_of(context, &uuid);
    let purpose = Purpose { name: "caller", ctx_sha256: context.sha256(), scope_key: None, hash, replaces: None };
    if store(policy, uuid, dek, &purpose)? { Ok(uuid) } else { Err(Failure::internal("no free wrap_version")) }
}

/// Makes and stores a wrapper of purpose `values` with a new DEK, unless its scope has a current one by then.
pub(crate) fn values_wrapper(policy: &Policy, ctx_sha256: [u8; 32], is_scoped: bool) -> Result<(), Failure> {
    let hash = u64::from_be_bytes(ctx_sha256.first_chunk().copied().unwrap_or_default());
    let scope_key = is_scoped.then(|| ctx_sha256.to_vec());
    store(policy, new_uuid()?, None, &Purpose { name: "values", ctx_sha256, scope_key, hash, replaces: None })?;
    Ok(())
}

/// Makes a new DEK for the scope of a current wrapper, which becomes rotated; returns the uuid of the new one.
pub(crate) fn rotate(policy: &Policy, old: &WrapperRow, ctx_sha256: [u8; 32]) -> Result<[u8; 16], Failure> {
    let uuid = new_uuid()?;
    let hash = u64::from_be_bytes(ctx_sha256.first_chunk().copied().unwrap_or_default());
    let scope_key = wrapper::scope_key(old.id)?;
    let purpose = Purpose { name: "values", ctx_sha256, scope_key, hash, replaces: Some(old.id) };
    if !store(policy, uuid, None, &purpose)? || !wrapper::set_successor(old.id, Uuid::from_bytes(uuid))? {
        return Err(Failure::changed());
    }
    Ok(uuid)
}

/// `false` when no row could be inserted: a scope has one current wrapper.
fn store(policy: &Policy, uuid: [u8; 16], dek: Option<Dek>, purpose: &Purpose) -> Result<bool, Failure> {
    if !policy.is_enabled {
        return Err(Failure::policy_disabled(&policy.name));
    }
    let dek = match dek {
        Some(dek) => dek,
        None => Dek::generate(&mut SystemEntropy)?,
    };
    let dek = Zeroizing::new(dek.expose().to_vec());
    for _ in 0..MAX_VERSION_TRIES {
        if let Some(stored) = try_store(policy, uuid, &dek, purpose)? {
            return Ok(stored);
        }
        // Whoever has set the version may not have told yet.
        revocation::bump();
    }
    Err(Failure::policy_changed())
}

/// `None` when a key was set to another version while its provider wrapped under the old one.
fn try_store(policy: &Policy, uuid: [u8; 16], dek: &Zeroizing<Vec<u8>>, purpose: &Purpose) -> Result<Option<bool>, Failure> {
    let listed = known::listed(policy.id)?;
    let choice = choose_keys(policy, &listed, purpose.hash)?;
    let keys: HashMap<i64, &Key> = listed.iter().map(|pk| (pk.key.id, &pk.key)).collect();
    let slots = slots(&choice, &keys)?;
    let [(_, kms1), (_, kms2), ..] = slots.as_slice() else { return Err(Failure::internal("chosen slots")) };
    check_domains(policy, kms1, kms2)?;
    for _ in 0..MAX_GENERATION_TRIES {
        let generation = wrapper::next_generation()?;
        let spec = Spec {
            uuid,
            mode: policy.mode,
            policy_uuid: policy.uuid,
            ctx_sha256: purpose.ctx_sha256,
            generation: u64::try_from(generation).map_err(Failure::internal)?,
            slots: slots.iter().map(|(slot, key)| slot_spec(*slot, key)).collect(),
        };
        let copy = Dek::from_bytes(dek.clone()).ok_or_else(|| Failure::internal("DEK length"))?;
        let built = build(spec, copy, &slots)?;
        let stored = Stored {
            uuid,
            policy_uuid: policy.uuid,
            epoch: 1,
            generation: u64::try_from(generation).map_err(Failure::internal)?,
            dek_fingerprint: &built.dek_fingerprint,
            dek_wrap1: &built.dek_wrap1,
            dek_wrap2: &built.dek_wrap2,
            layers: built.layers.iter().map(|(n, bytes)| (*n, bytes.as_slice())).collect(),
        };
        let parsed = Wrapper::parse(&stored)?;
        check_floors(policy, &parsed)?;
        prove(policy, &parsed, &slots, dek)?;
        // Now that the providers have answered: these take row locks. A key may have been put out of use while it worked for us: nothing may be
        // stored under one that is destroyed, or under a version that whoever set another one believes to have seen the last of.
        match known::lock_active(&slots.iter().map(|(_, key)| *key).collect::<Vec<_>>())? {
            Lock::Held => {}
            Lock::OtherVersion => return Ok(None),
            Lock::OutOfUse => {
                return Err(Failure::state(
                    "a KMS key of the new wrapper was put out of use meanwhile",
                    "Try again: the policy picks another key, or says which slot has none.",
                ));
            }
        }
        if let Some(old) = purpose.replaces
            && !wrapper::set_rotated(old)?
        {
            return Err(Failure::changed());
        }
        let row = NewWrapper {
            uuid,
            policy_id: policy.id,
            purpose: purpose.name,
            scope_key: purpose.scope_key.clone(),
            kms1: choice.kms1,
            kms2: choice.kms2,
            crypto_suite: projection::crypto_suite(&parsed),
            generation,
            layers: new_layers(&parsed, &slots, &built),
            dek_fingerprint: built.dek_fingerprint.to_vec(),
            dek_wrap1: built.dek_wrap1,
            dek_wrap2: built.dek_wrap2,
        };
        if wrapper::insert(row)? {
            return Ok(Some(true));
        }
        if purpose.name == "values" {
            break;
        }
    }
    Ok(Some(false))
}

/// Policy rules and floors that every written wrapper has to meet.
pub(crate) fn check_floors(policy: &Policy, wrapper: &Wrapper) -> Result<(), Failure> {
    open::check_floors(wrapper)?;
    if let Some(level) = policy.min_nist_level
        && !wrapper.is_post_quantum(level)
    {
        return Err(Failure::bad_argument(
            format!("policy \"{}\" requires a post-quantum layer", policy.name),
            format!("Its min_nist_level is {level}: every path needs a KEM layer of at least that NIST category."),
        ));
    }
    if policy.require_origin && !wrapper.has_origin(binds_aad) {
        return Err(Failure::bad_argument(
            format!("policy \"{}\" requires proof of origin", policy.name),
            "Every path needs a symmetric KMS key whose provider authenticates the wrapper's context.",
        ));
    }
    Ok(())
}

/// `split` means two owners.
pub(crate) fn check_domains(policy: &Policy, kms1: &Key, kms2: &Key) -> Result<(), Failure> {
    if kms1.id == kms2.id {
        return Err(Failure::bad_argument("kms1 and kms2 are the same key", "A wrapper needs two different KMS keys."));
    }
    if policy.mode == Mode::Split && !policy.allow_same_trust_domain && kms1.trust_domain == kms2.trust_domain {
        return Err(Failure::bad_argument(
            format!("keys {} and {} are of one trust domain", kms1.label(), kms2.label()),
            format!("Policy \"{}\" splits between two owners; both keys are of \"{}\".", policy.name, kms1.trust_domain),
        ));
    }
    Ok(())
}

/// What a slot's key is to core.
pub(crate) fn slot_spec(slot: SlotNo, key: &Key) -> SlotSpec {
    SlotSpec { slot, algorithm: key.algorithm, key_ref: key.key_ref.clone(), public_key: key.public_key.clone() }
}

/// How a layer's container is described in its row.
pub(crate) fn new_layer(wrapper: &Wrapper, slot: &Container, key: i64, kem_ciphertext: Vec<u8>) -> NewLayer {
    NewLayer {
        layer_no: slot.header.slot.layer_no().map_or(0, i16::from),
        key,
        algorithm: slot.header.algorithm,
        kem_ciphertext,
        aad: projection::layer_aad(wrapper, slot),
        meta: projection::layer_meta(slot),
    }
}

fn new_layers(wrapper: &Wrapper, slots: &[(SlotNo, &Key)], built: &Built) -> Vec<NewLayer> {
    let parts = wrapper.slots().iter().zip(slots).skip(2).zip(&built.layers);
    parts.map(|((slot, (_, key)), (_, bytes))| new_layer(wrapper, slot, key.id, bytes.clone())).collect()
}

fn slots<'k>(choice: &Choice, keys: &HashMap<i64, &'k Key>) -> Result<Vec<(SlotNo, &'k Key)>, Failure> {
    let chosen = [(SlotNo::KMS1, choice.kms1), (SlotNo::KMS2, choice.kms2)].into_iter().chain(layer_slots(&choice.layers));
    chosen.map(|(slot, id)| Ok((slot, *keys.get(&id).ok_or_else(|| Failure::internal("chosen key"))?))).collect()
}

fn choose_keys(policy: &Policy, listed: &[PolicyKey], hash: u64) -> Result<Choice, Failure> {
    let mut candidates = Vec::new();
    for pk in listed {
        candidates.push(Candidate {
            key: pk.key.id,
            role: Role::from_name(&pk.slot).ok_or_else(|| Failure::internal("slot of a policy key"))?,
            priority: pk.priority,
            weight: u32::try_from(pk.weight).unwrap_or(0),
            usable: pk.is_usable(),
            healthy: !pk.is_down && !remote::is_away(&pk.key),
        });
    }
    let draw = Draw {
        selection: policy.selection,
        turn: if policy.selection == Selection::RoundRobin { next_turn(policy.id)? } else { 0 },
        random: if policy.selection == Selection::Random { random_u64()? } else { 0 },
        hash,
    };
    let limit = |n: i16| usize::try_from(n).unwrap_or(0);
    let (least, most) = (limit(policy.min_layers), limit(policy.max_layers));
    choose(&candidates, least, most, draw).map_err(|none| {
        let slot = none.role.name();
        Failure::state(
            format!("policy \"{}\" has no usable key for slot \"{slot}\"", policy.name),
            format!("Add one with kms_wrap.kw_policy_add_key('{}', '{slot}', ...), or enable or resume one that it has.", policy.name),
        )
        .detail(format!(
            "Usable keys: {}, needed: {}. A usable key is active and its provider enabled and not suspended.",
            none.usable, none.needed
        ))
    })
}

fn next_turn(policy: i64) -> Result<u64, Failure> {
    let start = random_u64()?;
    Ok(TURNS.with_borrow_mut(|turns| {
        let turn = turns.entry(policy).or_insert(start);
        *turn = turn.wrapping_add(1);
        *turn
    }))
}

fn random_u64() -> Result<u64, Failure> {
    let mut bytes = [0; 8];
    SystemEntropy.fill(&mut bytes)?;
    Ok(u64::from_be_bytes(bytes))
}

/// One context, one choice. Without a context there is nothing to keep together, so the wrapper's own uuid spreads the choice.
fn hash_of(context: &Context, uuid: &[u8; 16]) -> u64 {
    let hash = if context.is_empty() { kdf::sha256(&[uuid]) } else { context.sha256() };
    u64::from_be_bytes(hash.first_chunk().copied().unwrap_or_default())
}

/// Wraps the shares and puts the wrapper together.
fn build(spec: Spec, dek: Dek, slots: &[(SlotNo, &Key)]) -> Result<Built, Failure> {
    let draft = Draft::new(spec, dek, &mut SystemEntropy)?;
    let parts: Vec<_> = draft.kms_slots().zip(slots).map(|(item, (_, key))| (*key, vec![item])).collect();
    let mut blobs = Vec::new();
    for (answer, (key, _)) in kms::wrap_all(&parts)?.into_iter().zip(&parts) {
        blobs.extend(answer.map_err(|e| Failure::provider(&key.provider, &e))?);
    }
    let blobs: [Vec<u8>; 2] = blobs.try_into().map_err(|_| Failure::internal("KMS answers"))?;
    Ok(draft.finish(blobs, &mut SystemEntropy)?)
}

/// Opens a new wrapper by every key. Not again where this process has done so before: for local keys, and for remote ones if the policy says so.
fn prove(policy: &Policy, wrapper: &Wrapper, slots: &[(SlotNo, &Key)], dek: &[u8]) -> Result<(), Failure> {
    let mut proven = true;
    for (_, key) in slots {
        proven &= kms::is_proven(key)? && (key.is_local() || !policy.verify_every_wrap);
    }
    if proven {
        return Ok(());
    }
    let mut aads = Vec::new();
    for slot in wrapper.slots() {
        aads.push(wrapper.slot_aad(slot.header.slot)?);
    }
    let items = wrapper.slots().iter().zip(&aads).map(|(slot, aad)| vec![(slot.blob.as_slice(), aad.as_slice())]);
    let parts: Vec<_> = slots.iter().map(|(_, key)| *key).zip(items).collect();
    let mut outcomes = Vec::new();
    for (answer, (key, _)) in kms::open_all(&parts)?.into_iter().zip(&parts) {
        let shares = answer.map_err(|e| Failure::provider(&key.provider, &e))?;
        outcomes.push(shares.into_iter().next().flatten().map_or(Outcome::Failed, Outcome::Share));
    }
    let opened = wrapper.open(&outcomes).map_err(|_| {
        open::alarm(wrapper, &slots.iter().map(|(_, key)| *key).collect::<Vec<_>>(), &outcomes);
        Failure::does_not_open()
    })?;
    let same = opened.expose().len() == dek.len() && bool::from(subtle::ConstantTimeEq::ct_eq(opened.expose(), dek));
    if !same {
        return Err(Failure::does_not_open());
    }
    for (_, key) in slots {
        kms::set_proven(key)?;
    }
    Ok(())
}

/// A UUID of version 7 (RFC 9562, section 5.7): time first, so that indexes on it stay dense.
fn new_uuid() -> Result<[u8; 16], Failure> {
    let random: Secret<16> = Secret::random(&mut SystemEntropy)?;
    let mut uuid = *random.expose();
    let millis = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_millis());
    let millis = u64::try_from(millis).unwrap_or(0).to_be_bytes();
    uuid[..6].copy_from_slice(&millis[2..]);
    uuid[6] = 0x70 | (uuid[6] & 0x0f);
    uuid[8] = 0x80 | (uuid[8] & 0x3f);
    Ok(uuid)
}
