//! Rewrapping: shares of a batch of wrappers move to other keys. A batch reads and computes; only `write` locks and writes rows.

use super::{
    catalog::{
        Held,
        key::{self, Key},
        policy::{self, Policy},
        rewritten::{self, Rewritten},
        wrapper::{self, WrapperRow},
    },
    kms,
    make::{self, check_domains, check_floors, slot_spec},
    open::{self, Intent},
    remote,
    report::Failure,
};
use crate::{
    core::{
        projection,
        secret::Share,
        slot::{Container, MAX_LAYERS, SlotNo},
        wrapper::{SlotRewrap, Wrapper},
    },
    provider::entropy::SystemEntropy,
};
use std::collections::{BTreeMap, HashMap, HashSet};
use tokio::task::yield_now;

/// Which slots go to which keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Targets(BTreeMap<u8, i64>);

impl Targets {
    /// From the arguments of kw_rewrap and kw_schedule_rewrap, or the columns of a job. `layers` maps layer numbers to keys: `{"1": 1007}`.
    pub(crate) fn new(kms1: Option<i64>, kms2: Option<i64>, layers: Option<&serde_json::Value>) -> Result<Self, Failure> {
        let bad = || {
            Failure::bad_argument(
                "invalid value for argument \"target_layers\"",
                format!("It must be a JSON object of layer numbers 1 to {MAX_LAYERS} and ids of kms_keys, such as {{\"1\": 1007}}."),
            )
        };
        let mut targets = BTreeMap::new();
        targets.extend(kms1.map(|key| (SlotNo::KMS1.code(), key)));
        targets.extend(kms2.map(|key| (SlotNo::KMS2.code(), key)));
        if let Some(layers) = layers {
            for (layer, key) in layers.as_object().ok_or_else(bad)? {
                let slot =
                    layer.parse().ok().and_then(SlotNo::layer).filter(|s| s.layer_no().map(|n| n.to_string()).as_ref() == Some(layer));
                targets.insert(slot.ok_or_else(bad)?.code(), key.as_i64().ok_or_else(bad)?);
            }
        }
        if targets.is_empty() {
            return Err(Failure::bad_argument(
                "no target key given",
                "At least one of target_kms1, target_kms2 and target_layers must name a key.",
            ));
        }
        Ok(Self(targets))
    }

    /// Numbers of the layers among them.
    pub(crate) fn layers(&self) -> impl Iterator<Item = i16> + '_ {
        self.iter().filter_map(|(slot, _)| slot.layer_no().map(i16::from))
    }

    /// Whether a slot has a target.
    fn has(&self, slot: SlotNo) -> bool {
        self.0.contains_key(&slot.code())
    }

    /// Slots and target keys, in slot order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (SlotNo, i64)> + '_ {
        self.0.iter().filter_map(|(code, key)| Some((SlotNo::from_code(*code)?, *key)))
    }
}

/// What a batch of wrappers needs from the catalog, read before any provider is asked.
pub(crate) struct Batch {
    rows: Vec<(WrapperRow, Targets)>,
    keys: HashMap<i64, Key>,
    policies: HashMap<i64, Policy>,
    members: HashSet<(i64, i64, String)>,
}

/// What became of one wrapper of a batch.
pub(crate) enum Rewrap {
    /// Every target slot has its target key already, in the key's version.
    Current,
    /// New bytes, not written yet.
    Ready(Box<Rewritten>),
    /// It cannot be done.
    Failed(Failure),
}

impl Batch {
    /// Reads keys and policies of these wrappers and targets.
    pub(crate) fn load(rows: Vec<(WrapperRow, Targets)>) -> Result<Self, Failure> {
        let key_ids: HashSet<i64> =
            rows.iter().flat_map(|(row, targets)| row.key_ids().chain(targets.iter().map(|t| t.1)).collect::<Vec<_>>()).collect();
        let policy_ids: HashSet<i64> = rows.iter().map(|(row, _)| row.policy_id).collect();
        let policy_ids: Vec<i64> = policy_ids.into_iter().collect();
        Ok(Self {
            keys: key::by_ids(&key_ids.into_iter().collect::<Vec<_>>())?,
            policies: policy::by_ids(&policy_ids)?,
            members: policy::members(&policy_ids)?,
            rows,
        })
    }

    /// Whether all shares move between local keys, so that nobody has to be waited for.
    pub(crate) fn is_local(&self) -> bool {
        self.keys.values().all(Key::is_local)
    }

    /// How many wrappers there are: as many generations are needed.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether every target slot of the only wrapper has its target key already, in the key's version.
    pub(crate) fn is_current(&self) -> bool {
        self.rows.iter().all(|(row, targets)| moves(row, targets, &self.keys).is_ok_and(|moves| moves.is_empty()))
    }

    /// Moves the shares. Asks each key once for all its shares. Answers stand in the order of the rows, by wrapper id.
    pub(crate) async fn run(&self, generations: &[i64]) -> Vec<(i64, Rewrap)> {
        let mut plans: Vec<Result<Plan<'_>, Failure>> =
            self.rows.iter().zip(generations).map(|((row, targets), generation)| self.plan(row, targets, *generation)).collect();
        each_key(
            &mut plans,
            |step| step.from,
            async |key, steps| {
                let items: Vec<(&[u8], &[u8])> = steps.iter().map(|s| (s.old_blob.as_slice(), s.old_aad.as_slice())).collect();
                let shares = kms::open_shares(key, &items).await?;
                steps.iter_mut().zip(shares).for_each(|(step, share)| step.share = share);
                Ok(())
            },
        )
        .await;
        for plan in &mut plans {
            verify(plan, |step| step.from);
        }
        each_key(
            &mut plans,
            |step| step.to,
            async |key, steps| {
                let mut blobs = Vec::new();
                if key.algorithm.is_kem() {
                    for step in steps.iter() {
                        let share = step.share.as_ref().ok_or_else(Failure::does_not_open)?;
                        blobs.push(step.rewrap.seal_layer(share, &mut SystemEntropy)?);
                    }
                } else {
                    let items: Option<Vec<_>> = steps.iter().map(|s| Some((s.share.as_ref()?, s.rewrap.aad()))).collect();
                    blobs = kms::wrap(key, &items.ok_or_else(Failure::does_not_open)?).await?;
                }
                for (step, blob) in steps.iter_mut().zip(blobs) {
                    step.new_blob = blob;
                    // An answer that does not come must not leave the old proof standing.
                    step.share = None;
                }
                // The old bytes are about to be overwritten, so each new blob is opened once more by its key.
                let items: Vec<(&[u8], &[u8])> = steps.iter().map(|s| (s.new_blob.as_slice(), s.rewrap.aad())).collect();
                let shares = kms::open_shares(key, &items).await?;
                steps.iter_mut().zip(shares).for_each(|(step, share)| step.share = share);
                Ok(())
            },
        )
        .await;
        for plan in &mut plans {
            verify(plan, |step| step.to);
        }
        self.rows.iter().zip(plans).map(|((row, _), plan)| (row.id, plan.and_then(Self::finish).unwrap_or_else(Rewrap::Failed))).collect()
    }

    /// Everything that can be refused before a provider is asked.
    fn plan<'a>(&'a self, row: &'a WrapperRow, targets: &Targets, generation: i64) -> Result<Plan<'a>, Failure> {
        open::check_status(row)?;
        let policy = self.policies.get(&row.policy_id).ok_or_else(|| Failure::internal("policy"))?;
        let wrapper = open::parse_to_move(row, |slot| targets.has(slot))?;
        open::check_floors(&wrapper)?;
        let mut plan = Plan { row, policy, wrapper, generation, kms1: row.kms1, kms2: row.kms2, steps: Vec::new() };
        for (slot, to) in moves(row, targets, &self.keys)? {
            let to = self.keys.get(&to).ok_or_else(|| Failure::unknown("KMS key", to))?;
            self.check_target(policy, slot, to)?;
            let old = plan.wrapper.slot(slot).ok_or_else(Failure::does_not_open)?;
            let from = open::slot_key(row, old, &self.keys)?;
            if let Some(failure) = open::barred(from, Intent::MoveAway) {
                return Err(failure);
            }
            if from.algorithm.class() != to.algorithm.class() {
                return Err(Failure::bad_argument(
                    format!("key {} is of another class than the key of slot {}", to.label(), slot.name()),
                    "A rewrap keeps the class of a slot: symmetric KMS key, RSA key, post-quantum KEM or hybrid KEM.",
                ));
            }
            let generation = u64::try_from(generation).map_err(Failure::internal)?;
            plan.steps.push(Step {
                slot,
                from,
                to,
                old_blob: old.blob.clone(),
                old_aad: plan.wrapper.slot_aad(slot)?,
                rewrap: plan.wrapper.rewrap(slot_spec(slot, to), generation)?,
                share: None,
                new_blob: Vec::new(),
            });
            match slot {
                SlotNo::KMS1 => plan.kms1 = to.id,
                SlotNo::KMS2 => plan.kms2 = to.id,
                _ => {}
            }
        }
        let kms = |id| self.keys.get(&id).ok_or_else(|| Failure::internal("key"));
        check_domains(policy, kms(plan.kms1)?, kms(plan.kms2)?)?;
        Ok(plan)
    }

    fn check_target(&self, policy: &Policy, slot: SlotNo, to: &Key) -> Result<(), Failure> {
        let part = if slot.layer_no().is_some() { "layer".to_owned() } else { slot.name() };
        if !self.members.contains(&(policy.id, to.id, part.clone())) {
            return Err(Failure::bad_argument(
                format!("key {} is not a key of policy \"{}\" for slot \"{part}\"", to.label(), policy.name),
                "A rewrap target must be one of the policy's keys for that slot; kms_wrap.kw_policy_add_key adds one.",
            ));
        }
        if !to.is_usable() {
            let failure = Failure::state(
                format!("KMS key {} cannot take new shares", to.label()),
                "It must be active, for wrapping, and its provider enabled and not suspended.",
            );
            // Jobs wait for the end of a suspension, which an outage may bring about in the middle of a campaign.
            return Err(if to.would_be_usable() { failure.passing() } else { failure });
        }
        Ok(())
    }

    /// Puts the new bytes together and checks that they make a wrapper that the policy allows.
    fn finish(plan: Plan<'_>) -> Result<Rewrap, Failure> {
        let Plan { row, policy, wrapper, generation, kms1, kms2, steps } = plan;
        if steps.is_empty() {
            return Ok(Rewrap::Current);
        }
        // What describes the suite names algorithms, not keys.
        let is_same_suite = steps.iter().all(|step| step.from.algorithm == step.to.algorithm);
        let moved_to = steps.iter().map(|step| (step.to.id, step.to.key_ref.key_version.clone())).collect();
        let mut moved: Vec<(SlotNo, i64, Vec<u8>)> = Vec::with_capacity(steps.len());
        for step in steps {
            moved.push((step.slot, step.to.id, step.rewrap.finish(step.new_blob)?));
        }
        let parts = moved.iter().map(|(slot, _, bytes)| (*slot, bytes.as_slice()));
        let wrapper = wrapper.rewritten(parts, u64::try_from(generation).map_err(Failure::internal)?)?;
        check_floors(policy, &wrapper)?;
        let (mut dek_wrap1, mut dek_wrap2, mut layers) = (None, None, Vec::new());
        for (slot_no, key, bytes) in moved {
            match slot_no {
                SlotNo::KMS1 => dek_wrap1 = Some(bytes),
                SlotNo::KMS2 => dek_wrap2 = Some(bytes),
                _ => {
                    let slot = wrapper.slot(slot_no).ok_or_else(Failure::does_not_open)?;
                    layers.push(make::new_layer(&wrapper, slot, key, bytes));
                }
            }
        }
        Ok(Rewrap::Ready(Box::new(Rewritten {
            id: row.id,
            old_generation: row.generation,
            generation,
            kms1,
            kms2,
            moved_to,
            crypto_suite: (!is_same_suite).then(|| projection::crypto_suite(&wrapper)),
            layers,
            dek_wrap1,
            dek_wrap2,
        })))
    }
}

/// A wrapper on its way.
struct Plan<'a> {
    row: &'a WrapperRow,
    policy: &'a Policy,
    wrapper: Wrapper,
    generation: i64,
    kms1: i64,
    kms2: i64,
    steps: Vec<Step<'a>>,
}

/// A slot on its way.
struct Step<'a> {
    slot: SlotNo,
    from: &'a Key,
    to: &'a Key,
    old_blob: Vec<u8>,
    old_aad: Vec<u8>,
    rewrap: SlotRewrap,
    share: Option<Share>,
    new_blob: Vec<u8>,
}

/// The slots of a wrapper that have another key than their target, or another version of it. A campaign's `current!` says the same in SQL.
fn moves(row: &WrapperRow, targets: &Targets, keys: &HashMap<i64, Key>) -> Result<Vec<(SlotNo, i64)>, Failure> {
    let mut moves = Vec::new();
    for (slot, to) in targets.iter() {
        let old_version = |container: &[u8]| keys.get(&to).is_some_and(|key| has_other_version(key, container));
        let from = match (slot, slot.layer_no()) {
            (SlotNo::KMS1, _) => Some(row.kms1).filter(|id| *id != to || !old_version(&row.dek_wrap1)),
            (_, None) => Some(row.kms2).filter(|id| *id != to || !old_version(&row.dek_wrap2)),
            // A layer's key has a public key, with which its version is pinned for good.
            (_, Some(n)) => {
                let layer = row.layers.iter().find(|l| l.layer_no == i16::from(n));
                layer
                    .ok_or_else(|| {
                        Failure::bad_argument(
                            format!("wrapper \"{}\" has no layer {n}", row.label()),
                            format!("It has {} layers.", row.layers.len()),
                        )
                    })?
                    .key
            }
        };
        if from != Some(to) {
            moves.push((slot, to));
        }
    }
    Ok(moves)
}

/// Whether a container names another version than its key is set to. Bytes that are no container do: their wrapper then says what is wrong.
fn has_other_version(key: &Key, container: &[u8]) -> bool {
    let set = key.key_ref.key_version.as_str();
    !set.is_empty() && !Container::parse(container).is_ok_and(|c| c.header.key_ref.key_version == set)
}

/// Groups the steps of all plans by a key and runs `work` once a key. A failure hits every plan with a step of that key, and no other.
async fn each_key<'a>(
    plans: &mut [Result<Plan<'a>, Failure>],
    key_of: impl Fn(&Step<'a>) -> &'a Key,
    mut work: impl AsyncFnMut(&'a Key, &mut [&mut Step<'a>]) -> Result<(), Failure>,
) {
    let mut keys: BTreeMap<i64, &'a Key> = BTreeMap::new();
    for step in plans.iter().flatten().flat_map(|p| &p.steps) {
        keys.insert(key_of(step).id, key_of(step));
    }
    for (id, key) in keys {
        // Where whoever waits looks for interrupts: local keys give no other occasion.
        yield_now().await;
        let mut steps: Vec<&mut Step<'a>> = plans.iter_mut().flatten().flat_map(|p| &mut p.steps).filter(|s| key_of(s).id == id).collect();
        if let Err(failure) = work(key, &mut steps).await {
            for plan in plans.iter_mut() {
                if plan.as_ref().is_ok_and(|p| p.steps.iter().any(|s| key_of(s).id == id)) {
                    *plan = Err(failure.clone());
                }
            }
        }
    }
}

/// Fails a plan unless each of its shares is the one that the wrapper committed to. `key_of` has opened it.
fn verify<'a>(plan: &mut Result<Plan<'a>, Failure>, key_of: impl Fn(&Step<'a>) -> &'a Key) {
    let Ok(p) = plan else { return };
    let mut verified = true;
    for step in &p.steps {
        let is_committed = step.share.as_ref().map(|share| p.wrapper.share_is_committed(step.slot, share));
        verified &= is_committed == Some(true);
        // What was rejected has been counted.
        kms::count_rejected(key_of(step), usize::from(is_committed == Some(false)));
    }
    if !verified {
        *plan = Err(Failure::does_not_open());
    }
}

/// Writes rewrapped wrappers, but for those whose new keys were put out of use or got another version meanwhile; returns the ids that were written.
pub(crate) fn write(mut rewritten: Vec<Rewritten>, held: Held) -> Result<HashSet<i64>, Failure> {
    let mut targets: Vec<i64> = rewritten.iter().flat_map(|r| r.moved_to.iter().map(|(key, _)| *key)).collect();
    targets.sort_unstable();
    targets.dedup();
    let active = key::lock_active(&targets, held)?;
    rewritten.retain(|r| r.moved_to.iter().all(|(key, version)| active.get(key) == Some(version)));
    rewritten::update(rewritten, held)
}

/// Rewraps one wrapper now; returns its generation and whether anything was to be done.
pub(crate) fn rewrap_one(row: WrapperRow, targets: Targets) -> Result<(i64, bool), Failure> {
    let (id, old) = (row.id, row.generation);
    for (_, target) in targets.iter() {
        key::by_id(target)?;
    }
    let batch = Batch::load(vec![(row, targets)])?;
    for _ in 0..1000 {
        if batch.is_current() {
            return Ok((old, false));
        }
        let generations = wrapper::next_generations(batch.len())?;
        match remote::wait(batch.run(&generations))?.pop() {
            Some((_, Rewrap::Ready(new))) => {
                let (generation, new) = (new.generation, vec![*new]);
                if !rewritten::taken_versions(&new)?.is_empty() {
                    continue;
                }
                let written = write(new, Held::Wait)?;
                return if written.contains(&id) { Ok((generation, true)) } else { Err(Failure::changed()) };
            }
            Some((_, Rewrap::Current)) => return Ok((old, false)),
            Some((_, Rewrap::Failed(failure))) => return Err(failure),
            None => return Err(Failure::internal("empty batch")),
        }
    }
    Err(Failure::internal("no free wrap_version"))
}
