//! The `pkcs11` kind where a process matters: wrong PINs tried by many, forks, threads, sessions that others end, a token in trouble.
//!
//! Each test that is run by another one has a process of its own, with one thread, as a backend of PostgreSQL has.

use crate::pkcs11_token::*;
use cryptoki::{context::Pkcs11, mechanism::Mechanism, object::Attribute};
use kms_wrap::provider::{Provider, ProviderError};
use std::{
    env, fs,
    path::Path,
    process::{Child, Command, Stdio},
    rc::Rc,
};

/// Starts one of the ignored tests in a process of its own.
fn start(test: &str, environment: &[(&str, &str)]) -> Child {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", &format!("pkcs11_processes::{test}"), "--ignored", "--test-threads=1", "--nocapture"]);
    command.envs(environment.iter().copied());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn finish(child: Child) {
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    // A name that is no test's would pass without this.
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

fn run_alone(test: &str, environment: &[(&str, &str)]) {
    finish(start(test, environment));
}

/// The names of this process's threads.
fn threads() -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir("/proc/self/task").unwrap().map(|task| fs::read_to_string(task.unwrap().path().join("comm")).unwrap()).collect();
    names.sort();
    names
}

fn denied(provider: &Rc<dyn Provider>) -> String {
    match run(provider.health()) {
        Err(ProviderError::Denied(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_wrong_pin_is_tried_once() {
    softhsm_tokens();
    let trouble = folder("wrong-pin-trouble");
    run_alone("alone_wrong_pin", &[("KMS_WRAP_TEST_TROUBLE", trouble.to_str().unwrap())]);
}

#[test]
#[ignore = "another test runs it in a process of its own"]
fn alone_wrong_pin() {
    let logins = || fs::read(folder("wrong-pin-trouble").join("logins")).map_or(0, |bytes| bytes.len());
    write_pin("wrong-pin", "pin", "9999");
    let ledger = FileLedger::new("wrong-pin");
    // Ten providers, so ten sessions, and two calls of each.
    for round in 0..10 {
        let provider = provider("wrong-pin", &failing(), "wrong-pin");
        for text in [denied(&provider), denied(&provider)] {
            assert!(text.contains("PIN in file \"pin\"") && !text.contains("9999"), "{text}");
        }
        assert_eq!((ledger.refusals(), logins()), (1, 1), "round {round}");
    }
    // The same contents written again is another file, and worth one more try.
    write_pin("wrong-pin", "pin", "9999");
    let provider = provider("wrong-pin", &failing(), "wrong-pin");
    denied(&provider);
    denied(&provider);
    assert_eq!((ledger.refusals(), logins()), (2, 2));
    // The right one works in the same provider.
    write_pin("wrong-pin", "pin", PIN);
    round_trip(provider.as_ref(), aes("aes"));
    assert_eq!((ledger.refusals(), logins()), (2, 3));
}

#[test]
fn processes_at_once_try_a_wrong_pin_once_between_them() {
    softhsm_tokens();
    write_pin("crowd", "pin", "9999");
    let trouble = folder("crowd-trouble");
    let children: Vec<_> = (0..8).map(|_| start("alone_in_a_crowd", &[("KMS_WRAP_TEST_TROUBLE", trouble.to_str().unwrap())])).collect();
    children.into_iter().for_each(finish);
    assert_eq!(FileLedger::new("crowd").refusals(), 1);
    assert_eq!(fs::read(trouble.join("logins")).unwrap().len(), 1);
}

#[test]
#[ignore = "another test runs it in a process of its own"]
fn alone_in_a_crowd() {
    denied(&provider("crowd", &failing(), "crowd"));
}

#[test]
fn a_token_that_is_one_wrong_pin_from_its_lock_is_left_alone() {
    kryoptic_tokens();
    run_alone("alone_lockable", &[]);
}

#[test]
#[ignore = "another test runs it in a process of its own"]
fn alone_lockable() {
    let context = Pkcs11::new(kryoptic()).unwrap();
    let slots = || context.get_slots_with_token().unwrap();
    // More wrong files than any token allows PINs: the last tries must not be made.
    for _ in 0..20 {
        write_pin("lockable", "pin", "9999");
        denied(&provider("lockable", &kryoptic(), "lockable"));
    }
    let info =
        slots().into_iter().map(|slot| context.get_token_info(slot).unwrap()).find(|info| info.label().trim_end() == "lockable").unwrap();
    assert!(!info.user_pin_locked());
}

fn in_module(test: &str, module: &str, token: &str) {
    run_alone(test, &[("KMS_WRAP_TEST_MODULE", module), ("KMS_WRAP_TEST_TOKEN", token)]);
}

// Not asked of the proxy: it loads every module that the machine has, and OpenSC's makes one through GLib whatever it is told.
#[test]
fn no_thread_is_made_by_softhsm() {
    softhsm_tokens();
    in_module("alone_threads", &softhsm(), SHARED);
}

#[test]
fn no_thread_is_made_by_kryoptic() {
    kryoptic_tokens();
    in_module("alone_threads", &kryoptic(), "kryoptic");
}

#[test]
#[ignore = "another test runs it in a process of its own"]
fn alone_threads() {
    let before = threads();
    let token = setting("KMS_WRAP_TEST_TOKEN");
    let provider = provider("threads", &setting("KMS_WRAP_TEST_MODULE"), &token);
    run(provider.health()).unwrap();
    assert_eq!(threads(), before);
    round_trip(provider.as_ref(), aes("aes"));
    assert_eq!(threads(), before);
}

#[test]
fn processes_at_once_use_one_token() {
    softhsm_tokens();
    write_pin("many", "pin", PIN);
    let children: Vec<_> = (0..6).map(|_| start("alone_among_many", &[])).collect();
    children.into_iter().for_each(finish);
}

#[test]
#[ignore = "another test runs it in a process of its own"]
fn alone_among_many() {
    for _ in 0..20 {
        let provider = provider("many", &softhsm(), SHARED);
        round_trip(provider.as_ref(), aes("aes"));
    }
}

#[test]
fn a_child_of_a_fork_gets_a_session_of_its_own() {
    softhsm_tokens();
    // The proxy tells a child that it is not initialised, SoftHSM that it is.
    in_module("alone_forking", &proxy(), "proxied");
    in_module("alone_forking", &softhsm(), "forked");
}

#[test]
fn a_child_of_a_fork_gets_a_session_of_its_own_from_kryoptic() {
    kryoptic_tokens();
    in_module("alone_forking", &kryoptic(), "kryoptic");
}

#[test]
#[ignore = "another test runs it in a process of its own"]
fn alone_forking() {
    let module = setting("KMS_WRAP_TEST_MODULE");
    let token = setting("KMS_WRAP_TEST_TOKEN");
    let provider = provider("forking", &module, &token);
    let share = shares(1).remove(0);
    let blob = run(provider.wrap(aes("aes"), &[(&share, b"aad")])).unwrap().remove(0);
    let works = || {
        let opened = run(provider.unwrap(aes("aes"), &[(&blob, b"aad")]));
        opened.is_ok_and(|opened| same(opened[0].as_ref(), &share)) && run(provider.health()).is_ok()
    };
    for _ in 0..3 {
        assert!(in_a_fork(&works));
        // The child has not ended what is its parent's.
        assert!(works());
    }
    drop(provider);
}

/// Whether something holds in a child of this process.
#[allow(unsafe_code)] // only a real fork shows what a module makes of one
fn in_a_fork(holds: &dyn Fn() -> bool) -> bool {
    unsafe extern "C" {
        safe fn fork() -> i32;
        safe fn _exit(code: i32) -> !;
        unsafe fn waitpid(pid: i32, status: *mut i32, options: i32) -> i32;
    }
    match fork() {
        -1 => panic!("no fork"),
        0 => _exit(i32::from(!holds())),
        pid => {
            let mut status = -1;
            // SAFETY: the status is a valid place for one int for as long as the call.
            assert_eq!(unsafe { waitpid(pid, &raw mut status, 0) }, pid);
            status == 0
        }
    }
}

#[test]
fn what_others_end_is_begun_again() {
    softhsm_tokens();
    run_alone("alone_interrupted", &[]);
}

#[test]
#[ignore = "another test runs it in a process of its own"]
fn alone_interrupted() {
    let provider = provider("lonely", &softhsm(), "lonely");
    round_trip(provider.as_ref(), aes("aes"));
    let others = Pkcs11::new(softhsm()).unwrap();
    let slots = others.get_slots_with_token().unwrap();
    let slot = slots.into_iter().find(|slot| others.get_token_info(*slot).unwrap().label().trim_end() == "lonely").unwrap();

    others.open_ro_session(slot).unwrap().logout().unwrap();
    round_trip(provider.as_ref(), aes("aes"));
    others.open_ro_session(slot).unwrap().logout().unwrap();
    run(provider.health()).unwrap();
    round_trip(provider.as_ref(), aes("aes"));

    others.finalize().unwrap();
    round_trip(provider.as_ref(), aes("aes"));
}

#[test]
fn a_key_that_is_replaced_is_found_again_and_one_that_is_gone_is_not() {
    softhsm_tokens();
    run_alone("alone_replacing", &[]);
}

#[test]
#[ignore = "another test runs it in a process of its own"]
fn alone_replacing() {
    let provider = provider("replaced", &softhsm(), "replaced");
    let share = shares(1).remove(0);
    let blob = run(provider.wrap(aes("aes"), &[(&share, b"")])).unwrap().remove(0);
    let delete = ["--delete-object", "--type", "secrkey", "--label", "aes"];
    tool(&softhsm(), "replaced", &delete);
    tool(&softhsm(), "replaced", &["--keygen", "--key-type", "AES:32", "--label", "aes", "--id", "02"]);
    assert!(run(provider.unwrap(aes("aes"), &[(&blob, b"")])).unwrap()[0].is_none());
    round_trip(provider.as_ref(), aes("aes"));
    tool(&softhsm(), "replaced", &delete);
    let error = run(provider.unwrap(aes("aes"), &[(&blob, b"")])).err().unwrap();
    assert_eq!(error.class(), "not_found", "{error:?}");
}

#[test]
fn a_token_in_trouble_does_not_pass_for_bytes_that_do_not_verify() {
    softhsm_tokens();
    let trouble = folder("trouble");
    run_alone("alone_in_trouble", &[("KMS_WRAP_TEST_TROUBLE", trouble.to_str().unwrap())]);
}

#[test]
#[ignore = "another test runs it in a process of its own"]
fn alone_in_trouble() {
    let provider = provider("failing", &failing(), "failing");
    let share = shares(1).remove(0);
    let blob = run(provider.wrap(aes("aes"), &[(&share, b"")])).unwrap().remove(0);
    let bad = [0; 60];
    let switch = folder("trouble").join("fail");
    // CKR_GENERAL_ERROR, CKR_FUNCTION_FAILED, CKR_DEVICE_ERROR, CKR_DEVICE_MEMORY, CKR_DEVICE_REMOVED, CKR_TOKEN_NOT_PRESENT, a vendor's
    for code in ["5", "6", "30", "31", "32", "e0", "80000001"] {
        fs::write(&switch, code).unwrap();
        for bytes in [blob.as_slice(), &bad] {
            let error = run(provider.unwrap(aes("aes"), &[(bytes, b"")])).err().unwrap_or_else(|| panic!("code {code} was no error"));
            assert_eq!(error.class(), "unavailable", "code {code}: {error:?}");
        }
        assert_eq!(run(provider.wrap(aes("aes"), &[(&share, b"")])).unwrap_err().class(), "unavailable", "code {code}");
        fs::remove_file(&switch).unwrap();
        let opened = run(provider.unwrap(aes("aes"), &[(&blob, b""), (&bad, b"")])).unwrap();
        assert!(same(opened[0].as_ref(), &share) && opened[1].is_none(), "code {code}");
    }
    odd_answers(provider.as_ref(), &folder("trouble"));
}

/// An AES key that only decrypts, which pkcs11-tool cannot make. The provider has logged the process in.
fn make_retired_key(token: &str) {
    let context = Pkcs11::new(softhsm()).unwrap();
    let slots = context.get_slots_with_token().unwrap();
    let slot = slots.into_iter().find(|slot| context.get_token_info(*slot).unwrap().label().trim_end() == token).unwrap();
    let template = [
        Attribute::Label(b"retired".to_vec()),
        Attribute::Token(true),
        Attribute::ValueLen(32.into()),
        Attribute::Encrypt(false),
        Attribute::Decrypt(true),
    ];
    context.open_rw_session(slot).unwrap().generate_key(&Mechanism::AesKeyGen, &template).unwrap();
}

/// Whatever code a token has for bytes that do not verify, and for an encryption that a retired key must not do: bad bytes are bad bytes.
fn odd_answers(provider: &dyn Provider, trouble: &Path) {
    let share = shares(1).remove(0);
    let blob = run(provider.wrap(aes("aes"), &[(&share, b"")])).unwrap().remove(0);
    let bad = [0; 60];
    make_retired_key("failing");
    let check = |name: &str, reject: &str, encrypt: &str| {
        let opened = run(provider.unwrap(aes(name), &[(&bad, b"")]));
        let opened = opened.unwrap_or_else(|error| panic!("{name}, {reject} and {encrypt}: {error:?}"));
        assert!(opened[0].is_none());
    };
    // CKR_GENERAL_ERROR, CKR_FUNCTION_FAILED, CKR_DEVICE_ERROR, CKR_DEVICE_MEMORY, CKR_HOST_MEMORY, CKR_FUNCTION_CANCELED,
    // CKR_MECHANISM_PARAM_INVALID, CKR_BUFFER_TOO_SMALL, CKR_WRAPPED_KEY_INVALID, CKR_SIGNATURE_LEN_RANGE, CKR_AEAD_DECRYPT_FAILED, a vendor's
    for reject in ["5", "6", "30", "31", "2", "50", "71", "150", "110", "c1", "42", "80000001"] {
        fs::write(trouble.join("reject"), reject).unwrap();
        check("aes", reject, "none");
        check("retired", reject, "none");
        for encrypt in ["5", "6", "30", "71", "68", "80000001"] {
            fs::write(trouble.join("encrypt"), encrypt).unwrap();
            check("retired", reject, encrypt);
        }
        fs::remove_file(trouble.join("encrypt")).unwrap();
        assert!(same(run(provider.unwrap(aes("aes"), &[(&blob, b"")])).unwrap()[0].as_ref(), &share));
    }
    fs::remove_file(trouble.join("reject")).unwrap();
    // A token that is gone is an outage for such a key too.
    for code in ["32", "e0", "e1", "b3"] {
        fs::write(trouble.join("fail"), code).unwrap();
        let error = run(provider.unwrap(aes("retired"), &[(&bad, b"")])).err().unwrap_or_else(|| panic!("code {code} was no error"));
        assert_eq!(error.class(), "unavailable", "code {code}: {error:?}");
        fs::remove_file(trouble.join("fail")).unwrap();
    }
}
