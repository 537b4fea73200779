//! The `pkcs11` kind against SoftHSM and Kryoptic.

use crate::{
    conformance::{self, Keys},
    pkcs11_token::*,
};
use kms_wrap::{
    core::{kem, suite::Algorithm},
    provider::{
        Provider, ProviderError, ProviderKey,
        config::{self, ConfigError},
        entropy::SystemEntropy,
        pkcs11_pin::Pins,
    },
};
use serde_json::{Value, json};
use std::{fs, process::Command, rc::Rc};

fn rsa(algorithm: Algorithm, public_key: &[u8]) -> ProviderKey<'_> {
    ProviderKey { name: "rsa", version: "", algorithm, public_key: Some(public_key) }
}

fn shared() -> Rc<dyn Provider> {
    softhsm_tokens();
    provider("shared", &softhsm(), SHARED)
}

fn configured(config: &Value) -> Result<Rc<dyn Provider>, ConfigError> {
    config::provider("pkcs11", config, &environment("config", Pins::default()))
}

fn wrong_field(config: &Value) -> String {
    configured(config).err().unwrap_or_else(|| panic!("accepted: {config}")).field
}

#[test]
fn configuration_names_the_field_that_is_wrong() {
    let module = softhsm();
    assert!(configured(&json!({"module": module, "token_label": "t", "pin_file": "pin"})).is_ok());
    assert!(configured(&json!({"module": module, "serial": "0123", "pin_file": "pin"})).is_ok());
    assert_eq!(wrong_field(&json!({"token_label": "t", "pin_file": "pin"})), "module");
    assert_eq!(wrong_field(&json!({"module": "libsofthsm2.so", "token_label": "t", "pin_file": "pin"})), "module");
    assert_eq!(wrong_field(&json!({"module": module, "pin_file": "pin"})), "token_label");
    assert_eq!(wrong_field(&json!({"module": module, "token_label": "t"})), "pin_file");
    assert_eq!(wrong_field(&json!({"module": module, "token_label": "t", "pin_file": "../pin"})), "pin_file");
    assert_eq!(wrong_field(&json!({"module": module, "token_label": "t", "pin_file": "pin", "pin": "1234"})), "pin");
}

#[test]
fn a_module_outside_the_allow_list_is_refused_by_the_setting_s_name() {
    let module = softhsm();
    let detour = module.replacen("/lib/", "/lib/../lib/", 1);
    for path in ["/usr/lib/evil.so", detour.as_str(), &format!("{module}.2")] {
        let error = configured(&json!({"module": path, "token_label": "t", "pin_file": "pin"})).err().unwrap();
        assert_eq!(error.field, "module");
        assert!(error.limit.contains("kms_wrap.pkcs11_modules"), "{}", error.limit);
    }
}

/// What every kind has to do.
#[test]
fn conformance_of_softhsm() {
    crate::fixture::run(|| async {
        let keys = Keys {
            key: "aes".into(),
            other: "other".into(),
            unknown: "nobody".into(),
            algorithm: Algorithm::Aes256Gcm,
            wrong_algorithm: Algorithm::RsaOaepSha1,
            binds: true,
            describes: true,
            most: 1000,
        };
        conformance::run(shared(), keys).await;
    });
}

fn batches(provider: &dyn Provider) {
    for n in [0, 1, 2, 151, 1000] {
        let shares = shares(n);
        let aads: Vec<_> = (0..n).map(|i| format!("aad {i}")).collect();
        let to_wrap: Vec<_> = shares.iter().zip(&aads).map(|(share, aad)| (share, aad.as_bytes())).collect();
        let blobs = run(provider.wrap(aes("aes"), &to_wrap)).unwrap();
        assert_eq!(blobs.len(), n);
        // Every seventh with the AAD of its neighbour.
        let to_open: Vec<_> = (0..n).map(|i| (blobs[i].as_slice(), aads[if i % 7 == 3 { i - 1 } else { i }].as_bytes())).collect();
        let opened = run(provider.unwrap(aes("aes"), &to_open)).unwrap();
        assert_eq!(opened.len(), n);
        for (i, share) in shares.iter().enumerate() {
            assert_eq!(same(opened[i].as_ref(), share), i % 7 != 3, "item {i} of {n}");
            assert_eq!(opened[i].is_none(), i % 7 == 3, "item {i} of {n}");
        }
    }
}

fn damage(provider: &dyn Provider) {
    let share = shares(1).remove(0);
    let blob = run(provider.wrap(aes("aes"), &[(&share, b"aad")])).unwrap().remove(0);
    assert_eq!(blob.len(), 60);
    let mut bad: Vec<Vec<u8>> = (0..blob.len()).map(|n| blob[..n].to_vec()).collect();
    for i in 0..blob.len() {
        let mut flipped = blob.clone();
        flipped[i] ^= 1 << (i % 8);
        bad.push(flipped);
    }
    bad.push([blob.as_slice(), &[0]].concat());
    let mut items: Vec<(&[u8], &[u8])> = bad.iter().map(|bytes| (bytes.as_slice(), b"aad".as_slice())).collect();
    items.push((&blob, b""));
    items.push((&blob, b"aad"));
    let opened = run(provider.unwrap(aes("aes"), &items)).unwrap();
    let (last, others) = opened.split_last().unwrap();
    assert!(others.iter().all(Option::is_none));
    // Good bytes after bad ones still open.
    assert!(same(last.as_ref(), &share));
}

#[test]
fn softhsm_keeps_order_and_tells_a_wrong_aad() {
    batches(shared().as_ref());
}

#[test]
fn softhsm_opens_nothing_that_is_damaged() {
    damage(shared().as_ref());
}

#[test]
fn a_blob_of_another_key_does_not_open_and_equal_shares_have_other_blobs() {
    let provider = shared();
    let share = shares(1).remove(0);
    let blobs = run(provider.wrap(aes("aes"), &[(&share, b""), (&share, b"")])).unwrap();
    assert_ne!(blobs[0], blobs[1]);
    assert!(run(provider.unwrap(aes("other"), &[(&blobs[0], b"")])).unwrap()[0].is_none());
    // By id it is the same key.
    assert!(same(run(provider.unwrap(aes("id:01"), &[(&blobs[0], b"")])).unwrap()[0].as_ref(), &share));
}

#[test]
fn keys_that_do_not_fit_are_told_by_class() {
    let provider = shared();
    let class = |name: &str, algorithm| run(provider.describe(name, None, algorithm)).unwrap_err();
    let expected = |error: ProviderError, class: &str, word: &str| {
        assert_eq!(error.class(), class, "{error:?}");
        assert!(error.detail().contains(word), "{error:?}");
    };
    expected(class("nothing", Algorithm::Aes256Gcm), "not_found", "\"nothing\"");
    expected(class("id:ff", Algorithm::Aes256Gcm), "not_found", "\"id:ff\"");
    expected(class("id:xyz", Algorithm::Aes256Gcm), "denied", "hexadecimal");
    expected(class("double", Algorithm::Aes256Gcm), "denied", "ambiguous");
    expected(class("short", Algorithm::Aes256Gcm), "malformed", "256 bits");
    expected(class("small", Algorithm::RsaOaepSha1), "malformed", "2048");
    expected(class("rsa", Algorithm::Aes256Gcm), "malformed", "not AES-256-GCM");
    expected(class("aes", Algorithm::RsaOaepSha1), "malformed", "not RSA-OAEP-SHA1");
    expected(class("rsa", Algorithm::MlKem768), "malformed", "another type");
    expected(class("aes", Algorithm::Xaes256Gcm), "denied", "XAES-256-GCM");
    expected(run(provider.describe("aes", Some("2"), Algorithm::Aes256Gcm)).unwrap_err(), "not_found", "version");
    let share = shares(1).remove(0);
    expected(run(provider.wrap(aes("double"), &[(&share, b"")])).unwrap_err(), "denied", "ambiguous");
    expected(run(provider.unwrap(aes("rsa"), &[(&[0; 60], b"")])).err().unwrap(), "malformed", "not AES-256-GCM");
    expected(run(provider.decapsulate(aes("aes"), &[&[0; 1088]])).err().unwrap(), "denied", "KEM");
}

#[test]
fn an_aes_key_is_described_without_a_version() {
    let provider = shared();
    let description = run(provider.describe("aes", None, Algorithm::Aes256Gcm)).unwrap();
    assert_eq!((description.name.as_str(), description.version.as_str(), description.public_key), ("aes", "", None));
    run(provider.health()).unwrap();
}

fn oaep(provider: &dyn Provider, module: &str, token: &str, algorithm: Algorithm) {
    let public_key = run(provider.describe("rsa", None, algorithm)).unwrap().public_key.unwrap();
    // The judge is another program's reading of the same object.
    let file = folder("shared").join(format!("{token}.der"));
    tool(module, token, &["--read-object", "--type", "pubkey", "--label", "rsa", "-o", file.to_str().unwrap()]);
    assert_eq!(fs::read(file).unwrap(), public_key);

    let key = rsa(algorithm, &public_key);
    let shares = shares(3);
    let items: Vec<_> = shares.iter().map(|share| (share, b"aad".as_slice())).collect();
    let mut blobs = run(provider.wrap(key, &items)).unwrap();
    blobs[1][17] ^= 1;
    blobs.push(vec![0; 256]);
    blobs.push(vec![0xff; 256]);
    blobs.push(blobs[0][..255].to_vec());
    let items: Vec<_> = blobs.iter().map(|blob| (blob.as_slice(), b"aad".as_slice())).collect();
    let opened = run(provider.unwrap(key, &items)).unwrap();
    let good: Vec<_> = opened.iter().map(Option::is_some).collect();
    assert_eq!(good, [true, false, true, false, false, false]);
    assert!(same(opened[0].as_ref(), &shares[0]) && same(opened[2].as_ref(), &shares[2]));

    let mut another = public_key.clone();
    another[100] ^= 1;
    assert_eq!(run(provider.wrap(rsa(algorithm, &another), &[(&shares[0], b"")])).unwrap_err().class(), "malformed");
}

#[test]
fn softhsm_wraps_under_the_registered_rsa_key() {
    oaep(shared().as_ref(), &softhsm(), SHARED, Algorithm::RsaOaepSha1);
}

#[test]
fn a_token_without_sha_256_in_oaep_says_so_and_does_not_fall_back() {
    let provider = shared();
    let public_key = run(provider.describe("rsa", None, Algorithm::RsaOaepSha256)).unwrap().public_key.unwrap();
    let share = shares(1).remove(0);
    let error = run(provider.wrap(rsa(Algorithm::RsaOaepSha256, &public_key), &[(&share, b"")])).unwrap_err();
    assert_eq!(error.class(), "denied", "{error:?}");
}

#[test]
fn a_share_of_another_length_is_none() {
    let provider = shared();
    let public_key = run(provider.describe("rsa", None, Algorithm::RsaOaepSha1)).unwrap().public_key.unwrap();
    let dir = folder("length");
    fs::write(dir.join("spki"), &public_key).unwrap();
    fs::write(dir.join("31"), [7; 31]).unwrap();
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).current_dir(&dir).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let common = ["pkeyutl", "-encrypt", "-pubin", "-keyform", "DER", "-inkey", "spki", "-pkeyopt", "rsa_padding_mode:oaep"];
    openssl(&[common.as_slice(), &["-in", "31", "-out", "blob"]].concat());
    let blob = fs::read(dir.join("blob")).unwrap();
    assert!(run(provider.unwrap(rsa(Algorithm::RsaOaepSha1, &public_key), &[(&blob, b"")])).unwrap()[0].is_none());
}

#[test]
fn pin_files_that_are_not_fit_are_not_tried() {
    softhsm_tokens();
    let config = json!({"module": softhsm(), "token_label": SHARED, "pin_file": "the-pin"});
    let ledger = FileLedger::new("unfit");
    let environment = environment("unfit", Pins(Some(ledger.clone())));
    let refused = |word: &str| {
        let error = run(config::provider("pkcs11", &config, &environment).unwrap().health()).unwrap_err();
        assert_eq!(error.class(), "denied", "{error:?}");
        assert!(error.detail().contains("the-pin") && error.detail().contains(word), "{error:?}");
        assert!(!error.detail().contains(PIN), "{error:?}");
    };
    refused("missing");
    write_pin("unfit", "the-pin", "");
    refused("empty");
    write_pin("unfit", "the-pin", "\n");
    refused("empty");
    write_pin("unfit", "the-pin", "1234\n5678\n");
    refused("more than one line");
    write_pin("unfit", "the-pin", PIN);
    set_mode(&folder("unfit").join("the-pin"), 0o644);
    refused("0644");
    assert_eq!(ledger.refusals(), 0);
    set_mode(&folder("unfit").join("the-pin"), 0o400);
    run(config::provider("pkcs11", &config, &environment).unwrap().health()).unwrap();
}

#[test]
fn nothing_logs_in_without_a_ledger() {
    softhsm_tokens();
    write_pin("no-ledger", "pin", PIN);
    let config = json!({"module": softhsm(), "token_label": SHARED, "pin_file": "pin"});
    let error = run(config::provider("pkcs11", &config, &environment("no-ledger", Pins::default())).unwrap().health()).unwrap_err();
    assert_eq!(error.class(), "denied", "{error:?}");
}

#[test]
fn a_token_that_is_absent_is_an_outage_and_one_of_two_is_ambiguous() {
    softhsm_tokens();
    let error = run(provider("shared", &softhsm(), "absent").health()).unwrap_err();
    assert_eq!(error.class(), "unavailable", "{error:?}");
    let error = run(provider("shared", &softhsm(), TWINS).health()).unwrap_err();
    assert_eq!(error.class(), "denied", "{error:?}");
    assert!(error.detail().contains("ambiguous"), "{error:?}");
}

#[test]
fn kryoptic_wraps_with_aes() {
    kryoptic_tokens();
    let provider = provider("kryoptic-use", &kryoptic(), "kryoptic");
    batches(provider.as_ref());
    damage(provider.as_ref());
}

#[test]
fn kryoptic_wraps_with_oaep_and_sha_256() {
    kryoptic_tokens();
    let provider = provider("kryoptic-use", &kryoptic(), "kryoptic");
    oaep(provider.as_ref(), &kryoptic(), "kryoptic", Algorithm::RsaOaepSha256);
}

#[test]
fn kryoptic_decapsulates() {
    kryoptic_tokens();
    let provider = provider("kryoptic-use", &kryoptic(), "kryoptic");
    run(provider.health()).unwrap();
    make_kem_keys();
    for (name, algorithm) in [("kem768", Algorithm::MlKem768), ("kem1024", Algorithm::MlKem1024)] {
        let public_key = run(provider.describe(name, None, algorithm)).unwrap().public_key.unwrap();
        let key = ProviderKey { name, version: "", algorithm, public_key: Some(&public_key) };
        // The other side is the implementation that makes layers.
        let made: Vec<_> = (0..20).map(|_| kem::encapsulate(algorithm, &public_key, &mut SystemEntropy).unwrap()).collect();
        let mut ciphertexts: Vec<_> = made.iter().map(|(ciphertext, _)| ciphertext.as_slice()).collect();
        let short = &ciphertexts[0][1..];
        ciphertexts.push(short);
        let mut altered = made[0].0.clone();
        altered[0] ^= 1;
        ciphertexts.push(&altered);
        let secrets = run(provider.decapsulate(key, &ciphertexts)).unwrap();
        assert_eq!(secrets.len(), 22);
        for ((_, shared), secret) in made.iter().zip(&secrets) {
            assert!(same(secret.as_ref(), shared));
        }
        assert!(secrets[20].is_none());
        assert!(secrets[21].as_ref().is_some_and(|secret| secret.expose() != made[0].1.expose()));

        let other = if algorithm == Algorithm::MlKem768 { Algorithm::MlKem1024 } else { Algorithm::MlKem768 };
        assert_eq!(run(provider.describe(name, None, other)).unwrap_err().class(), "malformed");
        assert_eq!(run(provider.wrap(key, &[(&shares(1)[0], b"")])).unwrap_err().class(), "denied");
        let mut another = public_key.clone();
        another[100] ^= 1;
        let another = ProviderKey { public_key: Some(&another), ..key };
        assert_eq!(run(provider.decapsulate(another, &ciphertexts)).err().unwrap().class(), "malformed");
    }
}

/// pkcs11-tool of this age knows no ML-KEM, so the keys are made through the module.
fn make_kem_keys() {
    use cryptoki::{
        context::Pkcs11,
        mechanism::Mechanism,
        object::{Attribute, MlKemParameterSetType},
    };
    let context = Pkcs11::new(kryoptic()).unwrap();
    let slots = context.get_slots_with_token().unwrap();
    let slot = slots.into_iter().find(|slot| context.get_token_info(*slot).unwrap().label().trim_end() == "kryoptic").unwrap();
    // The provider has logged the process in.
    let session = context.open_rw_session(slot).unwrap();
    for (name, set) in [("kem768", MlKemParameterSetType::ML_KEM_768), ("kem1024", MlKemParameterSetType::ML_KEM_1024)] {
        let label = Attribute::Label(name.as_bytes().to_vec());
        let public = [label.clone(), Attribute::Token(true), Attribute::ParameterSet(set.into()), Attribute::Encapsulate(true)];
        let private = [label, Attribute::Token(true), Attribute::Private(true), Attribute::Decapsulate(true)];
        session.generate_key_pair(&Mechanism::MlKemKeyPairGen, &public, &private).unwrap();
    }
}
