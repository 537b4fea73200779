//! Probes: one provider and its keys asked in turn, a call a step, so that a worker can do its jobs in between.
//!
//! Keys wrap and open a random share as those of wrappers are wrapped and opened: through the same deadlines and circuit breakers. A provider that
//! does not answer is not asked for its keys.

use super::{
    catalog::{health::Target, key::Key},
    gucs,
    interrupt::block_on,
    kms, remote,
    report::Failure,
    setup,
};
use crate::{
    core::{entropy::Entropy, secret::Share, slot},
    provider::{
        ProviderError,
        entropy::SystemEntropy,
        local,
        probe::{Opened, Status, Verdict, of_key, of_provider, text},
    },
};
use std::{
    cell::RefCell,
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

/// A share that nobody needs, and its blob.
struct Canary {
    share: Share,
    aad: [u8; 32],
    blob: Vec<u8>,
}

thread_local! {
    /// What keys have wrapped and opened before, by reference and public key: what a key can still open that wraps no more.
    static CANARIES: RefCell<HashMap<(Vec<u8>, Option<Vec<u8>>), Canary>> = RefCell::default();
}

/// The probe of one provider.
pub(crate) struct Round {
    target: Target,
    keys: VecDeque<Key>,
    answer: Option<Result<Duration, ProviderError>>,
    /// What has been wrapped, or not, and is to be opened next.
    wrapped: Option<(Key, Result<Duration, ProviderError>, Canary)>,
    probed: Vec<Probed>,
}

impl Round {
    pub(crate) fn new(target: Target, keys: Vec<Key>) -> Self {
        Self { target, keys: keys.into(), answer: None, wrapped: None, probed: Vec::new() }
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
            self.open(key, &wrapped, canary)?;
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
        let mut canary = Canary { share: Share::random(&mut SystemEntropy)?, aad: [0; 32], blob: Vec::new() };
        SystemEntropy.fill(&mut canary.aad)?;
        let start = Instant::now();
        let blob = if key.algorithm.is_kem() {
            // Anyone can encapsulate: nobody is asked.
            let ek = key.public_key.as_deref().unwrap_or_default();
            slot::seal_layer(key.algorithm, ek, &canary.aad, &canary.share, &mut SystemEntropy)
                .map_err(|_| ProviderError::Malformed("Its public key cannot be used.".to_owned()))
        } else {
            let answers = kms::wrap_all(&[(&key, vec![(&canary.share, &canary.aad)])])?.pop();
            let answers = answers.ok_or_else(|| Failure::internal("KMS answer"))?;
            answers.and_then(|mut blobs| blobs.pop().ok_or_else(|| ProviderError::Malformed("It returned nothing.".to_owned())))
        };
        match blob {
            Ok(blob) => {
                canary.blob = blob;
                self.wrapped = Some((key, Ok(start.elapsed()), canary));
            }
            Err(e) => {
                let older = if matches!(e, ProviderError::Denied(_)) { take_canary(&key)? } else { None };
                match older {
                    Some(older) => self.wrapped = Some((key, Err(e), older)),
                    None => self.push(&key, of_key(&Err(e), &Opened::NotTried, gucs::kms_timeout())),
                }
            }
        }
        Ok(())
    }

    fn open(&mut self, key: Key, wrapped: &Result<Duration, ProviderError>, canary: Canary) -> Result<(), Failure> {
        let start = Instant::now();
        let answer = kms::open_all(&[(&key, vec![(&canary.blob, &canary.aad)])])?.pop().ok_or_else(|| Failure::internal("KMS answer"))?;
        let opened = match answer.map(|shares| shares.into_iter().next().flatten()) {
            Err(e) => Opened::Failed(e),
            Ok(Some(share)) if bool::from(share.ct_eq(&canary.share)) => Opened::Right(start.elapsed()),
            Ok(_) => Opened::Wrong,
        };
        // What has opened before goes back until it is rejected; what is new stays when it has opened.
        let keeps = if wrapped.is_ok() { matches!(opened, Opened::Right(_)) } else { opened != Opened::Wrong };
        if keeps {
            let place = place(&key)?;
            CANARIES.with_borrow_mut(|canaries| canaries.insert(place, canary));
        }
        self.push(&key, of_key(wrapped, &opened, gucs::kms_timeout()));
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

fn place(key: &Key) -> Result<(Vec<u8>, Option<Vec<u8>>), Failure> {
    Ok((key.key_ref.encode()?, key.public_key.clone()))
}

fn take_canary(key: &Key) -> Result<Option<Canary>, Failure> {
    let place = place(key)?;
    Ok(CANARIES.with_borrow_mut(|canaries| canaries.remove(&place)))
}
