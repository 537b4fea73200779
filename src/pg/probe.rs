//! Probes: one provider and its keys asked in turn, a call a step, so that a worker can do its jobs in between.
//!
//! Keys wrap and open a random share as those of wrappers are wrapped and opened: through the same deadlines and circuit breakers. A provider that
//! does not answer is not asked for its keys.

use super::{
    catalog::{
        health::Target,
        key::{self, Key},
        wrapper::{self, WrapperRow},
    },
    gucs,
    interrupt::block_on,
    kms, open, remote,
    report::Failure,
    setup,
};
use crate::{
    core::{
        entropy::Entropy,
        secret::Share,
        slot::{self, SlotNo},
        wrapper::Wrapper,
    },
    provider::{
        ProviderError,
        entropy::SystemEntropy,
        local,
        probe::{Opened, Status, Verdict, of_key, of_provider, text},
    },
};
use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

/// What a probe has found out about a provider, or about one of its keys.
pub(crate) struct Probed {
    pub(crate) provider: i64,
    pub(crate) provider_name: String,
    /// Id and reference; `None` for the provider itself.
    pub(crate) key: Option<(i64, String)>,
    pub(crate) verdict: Verdict,
}

impl Probed {
    pub(crate) fn latency_ms(&self) -> Option<i32> {
        self.verdict.latency.map(|latency| i32::try_from(latency.as_millis()).unwrap_or(i32::MAX))
    }
}

/// A blob that a key is asked to open.
struct Canary {
    aad: Vec<u8>,
    blob: Vec<u8>,
    expected: Expected,
}

enum Expected {
    /// A share that nobody needs.
    Random(Share),
    /// What a slot of a stored wrapper holds.
    Stored(Wrapper, SlotNo),
}

impl Canary {
    fn is_right(&self, share: &Share) -> bool {
        match &self.expected {
            Expected::Random(own) => bool::from(share.ct_eq(own)),
            Expected::Stored(wrapper, slot) => wrapper.share_is_committed(*slot, share),
        }
    }

    /// The slot of a stored wrapper that a key protects.
    fn stored(row: &WrapperRow, key: &Key) -> Option<Self> {
        let wrapper = open::parse(row).ok()?;
        let slot = if row.kms1 == key.id { SlotNo::KMS1 } else { SlotNo::KMS2 };
        if !wrapper.slot(slot)?.header.key_ref.same_key(&key.key_ref) {
            return None;
        }
        let (blob, aad) = (wrapper.slot(slot)?.blob.clone(), wrapper.slot_aad(slot).ok()?);
        Some(Self { aad, blob, expected: Expected::Stored(wrapper, slot) })
    }
}

/// The probe of one provider.
pub(crate) struct Round {
    target: Target,
    keys: VecDeque<Key>,
    /// By key: a share of a wrapper, for credentials that may only unwrap.
    stored: HashMap<i64, Canary>,
    answer: Option<Result<Duration, ProviderError>>,
    /// What has been wrapped, or not, and is to be opened next.
    wrapped: Option<(Key, Result<Duration, ProviderError>, Canary)>,
    probed: Vec<Probed>,
}

impl Round {
    /// Reads what to ask for.
    pub(crate) fn load(target: Target) -> Result<Self, Failure> {
        let keys = key::in_use(target.id)?;
        let mut stored = HashMap::new();
        // Anyone can wrap under a public key.
        for key in keys.iter().filter(|key| !key.is_local() && key.public_key.is_none()) {
            if let Some(canary) = wrapper::one_under(key.id)?.as_ref().and_then(|row| Canary::stored(row, key)) {
                stored.insert(key.id, canary);
            }
        }
        Ok(Self { target, keys: keys.into(), stored, answer: None, wrapped: None, probed: Vec::new() })
    }

    /// The provider's id.
    pub(crate) fn provider(&self) -> i64 {
        self.target.id
    }

    /// Makes one call at most; `false` when nothing is left to be asked.
    pub(crate) fn step(&mut self) -> Result<bool, Failure> {
        if self.answer.is_none() {
            self.ask()?;
        } else if let Some((key, wrapped, canary)) = self.wrapped.take() {
            self.open(&key, &wrapped, &canary)?;
        } else if let Some(key) = self.keys.pop_front() {
            self.wrap(key)?;
        }
        Ok(self.wrapped.is_some() || !self.keys.is_empty())
    }

    /// The results, the provider's own first.
    pub(crate) fn finish(mut self) -> Vec<Probed> {
        let has_working_key = self.probed.iter().any(|p| p.verdict.latency.is_some());
        let answer = self.answer.take().unwrap_or_else(|| Err(ProviderError::Malformed("It was not asked.".to_owned())));
        let verdict = of_provider(&answer, has_working_key, gucs::kms_timeout());
        let own = Probed { provider: self.target.id, provider_name: self.target.name, key: None, verdict };
        std::iter::once(own).chain(self.probed).collect()
    }

    fn ask(&mut self) -> Result<(), Failure> {
        let start = Instant::now();
        let (answer, ends) = if self.target.kind == local::KIND {
            let answer = check_root(&self.target);
            let ends = answer.is_err();
            (answer, ends)
        } else {
            match remote::of(self.target.id, &self.target.name, &self.target.kind, &self.target.config) {
                Ok(remote) => {
                    let answer = block_on(remote.call(1, |provider| provider.health()))?;
                    let ends = answer.as_ref().is_err_and(ProviderError::is_outage);
                    (answer, ends)
                }
                Err(unfit) => (Err(unfit), true),
            }
        };
        if let (Err(e), true) = (&answer, ends) {
            let down = Verdict { status: Status::Down, latency: None, error: Some(text(e)) };
            while let Some(key) = self.keys.pop_front() {
                self.push(&key, down.clone());
            }
        }
        self.answer = Some(answer.map(|()| start.elapsed()));
        Ok(())
    }

    fn wrap(&mut self, key: Key) -> Result<(), Failure> {
        let share = Share::random(&mut SystemEntropy)?;
        let mut aad = vec![0; 32];
        SystemEntropy.fill(&mut aad)?;
        let start = Instant::now();
        let blob = if key.algorithm.is_kem() {
            // Anyone can encapsulate: nobody is asked.
            let ek = key.public_key.as_deref().unwrap_or_default();
            slot::seal_layer(key.algorithm, ek, &aad, &share, &mut SystemEntropy)
                .map_err(|_| ProviderError::Malformed("Its public key cannot be used.".to_owned()))
        } else {
            let answers = kms::wrap_all(&[(&key, vec![(&share, &aad)])])?.pop();
            let answers = answers.ok_or_else(|| Failure::internal("KMS answer"))?;
            answers.and_then(|mut blobs| blobs.pop().ok_or_else(|| ProviderError::Malformed("It returned nothing.".to_owned())))
        };
        match blob {
            Ok(blob) => self.wrapped = Some((key, Ok(start.elapsed()), Canary { aad, blob, expected: Expected::Random(share) })),
            Err(e) => {
                let stored = if matches!(e, ProviderError::Denied(_)) { self.stored.remove(&key.id) } else { None };
                match stored {
                    Some(stored) => self.wrapped = Some((key, Err(e), stored)),
                    None => self.push(&key, of_key(&Err(e), &Opened::NotTried, gucs::kms_timeout())),
                }
            }
        }
        Ok(())
    }

    fn open(&mut self, key: &Key, wrapped: &Result<Duration, ProviderError>, canary: &Canary) -> Result<(), Failure> {
        let start = Instant::now();
        let answer = kms::open_all(&[(key, vec![(&canary.blob, &canary.aad)])])?.pop().ok_or_else(|| Failure::internal("KMS answer"))?;
        let opened = match answer.map(|shares| shares.into_iter().next().flatten()) {
            Err(e) => Opened::Failed(e),
            Ok(Some(share)) if canary.is_right(&share) => Opened::Right(start.elapsed()),
            Ok(_) => match canary.expected {
                Expected::Random(_) => Opened::Wrong,
                // Somebody may have altered the row, which says nothing about the key. It was counted.
                Expected::Stored(..) => Opened::NotTried,
            },
        };
        self.push(key, of_key(wrapped, &opened, gucs::kms_timeout()));
        Ok(())
    }

    fn push(&mut self, key: &Key, verdict: Verdict) {
        let key = (key.id, key.key_ref.external_key_ref.clone());
        self.probed.push(Probed { provider: self.target.id, provider_name: self.target.name.clone(), key: Some(key), verdict });
    }
}

fn check_root(target: &Target) -> Result<(), ProviderError> {
    let unfit = || ProviderError::Malformed("Its configuration names no root key.".to_owned());
    let config = serde_json::from_str(&target.config).map_err(|_| unfit())?;
    let root = setup::configured_root(&target.name, &config).map_err(|_| unfit())?;
    kms::with_local(|local| local.check_root(&root))
}
