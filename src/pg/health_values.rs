//! What kw_health says about protected columns, and about grants to roles that are gone.

use super::{
    catalog::{grant, watch},
    health::{Finding, finding, green},
    protected,
    report::Failure,
};

pub(super) fn columns() -> Result<Vec<Finding>, Failure> {
    Ok(watch::protected_columns()?.iter().map(column).collect())
}

fn column(c: &watch::ColumnRow) -> Finding {
    const WHAT: &str = "column";
    let name = format!("{}.{}.{}", c.schema, c.table, c.column);
    let trigger = |detail: &str| {
        let action =
            "Make it as kw_protect_column(dry_run => true) shows it on another column, ENABLE ALWAYS, and CALL kw_encrypt_column()";
        finding(WHAT, &name, "red", detail, action)
    };
    match (c.relation, c.trigger_state.as_deref()) {
        (None, _) => finding(
            WHAT,
            &name,
            "yellow",
            "its table, or the CHECK constraint that marks the column, is gone",
            "After DROP TABLE delete its row in protected_columns; otherwise add the CHECK constraint kw_sealed_... again",
        ),
        (Some(_), Some("missing")) => trigger("the seal trigger is missing: plain values are refused by the CHECK constraint alone"),
        (Some(_), Some("always")) if !c.has_primary_key => {
            finding(WHAT, &name, "red", "the table has lost its primary key: no row can be written", "Add the primary key again")
        }
        (Some(relation), Some("always"))
            if !protected::has_its_key(relation, c.tenant_column.as_deref(), &c.key_forms, c.key_columns.as_deref()) =>
        {
            finding(
                WHAT,
                &name,
                "red",
                format!(
                    "values are bound to a key of {}, which the table has no more: they do not open, and no row can be written",
                    c.key_forms.join(", ")
                ),
                "Change primary key and types of key and tenant columns back",
            )
        }
        (Some(_), Some("always")) if c.unknown_envelopes > 0 => finding(
            WHAT,
            &name,
            "yellow",
            format!("{} values came by replication or restore before their wrappers", c.unknown_envelopes),
            "Bring the wrappers here, then set unknown_envelopes in protected_columns to 0",
        ),
        (Some(_), Some("always")) => match c.status.as_str() {
            "encrypting" => finding(WHAT, &name, "yellow", "old rows may still be plain", "CALL kms_wrap.kw_encrypt_column()"),
            "rewriting" => finding(
                WHAT,
                &name,
                "yellow",
                "all values are encrypted, but dead rows still hold plain ones",
                "CALL kms_wrap.kw_encrypt_column(): it rewrites the table, during which nobody can use it",
            ),
            _ if c.has_old_index => finding(
                WHAT,
                &name,
                "yellow",
                "its blind index has entries of two generations",
                "CALL kms_wrap.kw_encrypt_column() to end the rotation",
            ),
            _ => green(WHAT, &name, format!("protected by policy {}", c.policy)),
        },
        (Some(_), _) => trigger("the seal trigger is not ENABLE ALWAYS: some sessions, restores or replication write past it"),
    }
}

pub(super) fn grants() -> Result<Vec<Finding>, Failure> {
    let unusable = grant::unusable(None)?.into_iter().map(|(role, policy, privilege)| {
        let detail =
            format!("{privilege} on policy {policy} is granted to it, and it may not call the functions: it was dropped and made anew");
        finding("grant", role, "yellow", detail, "Take it away with kw_revoke(), and grant it again if the role is to have it")
    });
    let lost = watch::grants_without_role()?;
    Ok(lost
        .into_iter()
        .map(|(role, policy, privilege)| {
            let detail = format!("{privilege} on policy {policy} is granted to this name, and there is no such role");
            finding("grant", role, "yellow", detail, "Delete the row in policy_grants, or grant it to the role under its new name")
        })
        .chain(unusable)
        .collect())
}
