//! The conformance suite on the embedded provider, whose keys the caller holds.

use crate::{
    conformance::{self, Keys},
    fixture::{Directory, run},
};
use kms_wrap::{
    core::{secret::Share, suite::Algorithm},
    provider::{
        Answer, Capabilities, Description, Provider, ProviderError, ProviderKey, ToOpen, ToWrap,
        entropy::SystemEntropy,
        local::{CAPABILITIES, Local, RootRef, SealedKey},
        root_key::KeyDirectory,
    },
};
use std::{cell::RefCell, collections::HashMap, rc::Rc};

/// Holds the sealed keys, as tables do.
struct WithKeys {
    local: RefCell<Local>,
    keys: HashMap<String, SealedKey>,
}

impl WithKeys {
    fn key(&self, key: ProviderKey<'_>) -> Result<&SealedKey, ProviderError> {
        let held = self.keys.get(key.name).ok_or_else(|| ProviderError::NotFound("No such row.".to_owned()))?;
        if held.identity.algorithm == key.algorithm {
            Ok(held)
        } else {
            Err(ProviderError::Denied("The row has another algorithm.".to_owned()))
        }
    }
}

impl Provider for WithKeys {
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    fn wrap<'a>(&'a self, key: ProviderKey<'a>, items: &'a [ToWrap<'a>]) -> Answer<'a, Vec<Vec<u8>>> {
        Box::pin(async move { self.local.borrow_mut().wrap(self.key(key)?, items, &mut SystemEntropy) })
    }

    fn unwrap<'a>(&'a self, key: ProviderKey<'a>, items: &'a [ToOpen<'a>]) -> Answer<'a, Vec<Option<Share>>> {
        Box::pin(async move { self.local.borrow_mut().unwrap(self.key(key)?, items) })
    }

    fn describe<'a>(&'a self, _: &'a str, _: Option<&'a str>, _: Algorithm) -> Answer<'a, Description> {
        Box::pin(async { Err(ProviderError::NotFound("Rows describe these keys.".to_owned())) })
    }

    fn health(&self) -> Answer<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}

#[test]
fn conformance_of_local() {
    run(|| async {
        let directory = Directory::new();
        let path = directory.path().join("keys");
        let keys = KeyDirectory { path, copied_by_backups: Vec::new() };
        let root = RootRef { name: "root".to_owned(), fingerprint: keys.create("root", &mut SystemEntropy).unwrap() };
        let mut local = Local::new(keys);
        let mut make = |name: &str| {
            let key = local.generate(name, Algorithm::Xaes256Gcm, [7; 16], &root, &mut SystemEntropy).unwrap();
            (name.to_owned(), key)
        };
        let keys = HashMap::from([make("k1"), make("k2")]);
        let provider = Rc::new(WithKeys { local: RefCell::new(local), keys });
        let keys = Keys {
            key: "k1".into(),
            other: "k2".into(),
            unknown: "k3".into(),
            algorithm: Algorithm::Xaes256Gcm,
            wrong_algorithm: Algorithm::MlKem768,
            binds: true,
            describes: false,
            most: 1000,
        };
        conformance::run(provider, keys).await;
    });
}
