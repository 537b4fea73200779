//! What a DEK of purpose `values` is for. Its hash stands where a caller's context hash stands in other wrappers, under a label of its own: a
//! wrapper that somebody else's DEK came into can never pass for one of these, nor one column's for another's.

use super::{context::Context, kdf::sha256};

const LABEL: &[u8] = b"kms_wrap/v1/scope\0";

/// Free values: the context pairs that the policy's `dek_scope` names, of those that the context has.
#[must_use]
pub fn of_context(context: &Context, names: &[String]) -> [u8; 32] {
    sha256(&[LABEL, &[1], &context.only(names).encode()])
}

/// Values of a protected column, and of one tenant of it. `tenant` is the tenant column in its binary send form.
#[must_use]
pub fn of_column(column: &[u8; 16], tenant: Option<&[u8]>) -> [u8; 32] {
    match tenant {
        None => sha256(&[LABEL, &[2], column]),
        Some(tenant) => sha256(&[LABEL, &[3], column, tenant]),
    }
}

/// A generation of a column's blind index.
#[must_use]
pub fn of_index(column: &[u8; 16], generation: u8) -> [u8; 32] {
    sha256(&[LABEL, &[4], column, &[generation]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_differ_from_each_other_and_from_contexts() {
        let context = Context::from_json(&serde_json::json!({"tenant": "7", "other": "x"})).unwrap();
        let names = ["tenant".to_owned()];
        let all = [
            of_context(&context, &names),
            of_context(&context, &[]),
            context.sha256(),
            of_column(&[1; 16], None),
            of_column(&[1; 16], Some(&[])),
            of_column(&[1; 16], Some(&[1])),
            of_column(&[2; 16], None),
            of_index(&[1; 16], 1),
            of_index(&[1; 16], 2),
        ];
        for (i, a) in all.iter().enumerate() {
            assert!(all.iter().skip(i + 1).all(|b| a != b));
        }
    }

    #[test]
    fn only_named_pairs_count() {
        let hash = |json| of_context(&Context::from_json(&json).unwrap(), &["tenant".to_owned()]);
        assert_eq!(hash(serde_json::json!({"tenant": "7"})), hash(serde_json::json!({"tenant": "7", "row": "1"})));
        assert_ne!(hash(serde_json::json!({"tenant": "7"})), hash(serde_json::json!({"tenant": "8"})));
        assert_ne!(hash(serde_json::json!({"tenant": ""})), hash(serde_json::json!({})));
    }
}
