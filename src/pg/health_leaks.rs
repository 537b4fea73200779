//! What kw_health says about places outside of protected columns that keep their plain values: texts of statements, and materialized views.

use super::{
    catalog::leaks,
    health::{Finding, finding},
    report::Failure,
};

/// Nothing where no column is protected.
pub(super) fn findings(has_columns: bool) -> Result<Vec<Finding>, Failure> {
    if !has_columns {
        return Ok(Vec::new());
    }
    let mut all: Vec<_> = leaks::settings()?.into_iter().map(|(name, value)| setting(&name, &value)).collect();
    all.extend(leaks::materialized_views()?.into_iter().map(|view| {
        let action = format!("DROP MATERIALIZED VIEW {view}, or make it without the decrypted columns");
        finding("materialized view", view, "yellow", "keeps decrypted values, and so do its indexes and statistics", action)
    }));
    Ok(all)
}

fn setting(name: &str, value: &str) -> Finding {
    let (what, action) = match name {
        "pg_stat_statements.track" => (
            "texts of statements are kept, with the values in those that are not normalised, such as DO, CALL and CREATE TABLE AS",
            "Bind values as parameters of ordinary statements, or set it to none for who writes them: ALTER ROLE ... SET",
        ),
        "log_parameter_max_length_on_error" => {
            ("values bound to statements that fail go to the log", "Set it to 0, or keep the log as secret as the values")
        }
        _ => (
            "texts of statements go to the log, with the values in them and those bound to them",
            "Bind values as parameters and set log_parameter_max_length to 0, or keep the log as secret as the values",
        ),
    };
    finding("setting", name, "yellow", format!("is {value}: {what}"), action)
}
