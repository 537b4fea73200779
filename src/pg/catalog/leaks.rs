//! Settings that write down statements, and stored queries over decrypted values.

use crate::pg::{report::Failure, spi};

const SETTINGS: &str = "SELECT name, setting FROM pg_catalog.pg_settings
     WHERE (name OPERATOR(pg_catalog.=) 'log_statement' AND setting OPERATOR(pg_catalog.=) ANY ('{mod,all}'))
        OR (name OPERATOR(pg_catalog.=) ANY ('{log_min_duration_statement,log_min_duration_sample,auto_explain.log_min_duration}')
            AND setting OPERATOR(pg_catalog.<>) '-1')
        OR (name OPERATOR(pg_catalog.=) ANY ('{log_transaction_sample_rate,log_parameter_max_length_on_error}') AND setting OPERATOR(pg_catalog.<>) '0')
        OR (name OPERATOR(pg_catalog.=) ANY ('{pgaudit.log,pg_stat_statements.track}') AND setting OPERATOR(pg_catalog.<>) ALL ('{none,\"\"}'))
     ORDER BY name";

/// Settings, with their values, under which texts of statements or their parameters are written somewhere.
pub(crate) fn settings() -> Result<Vec<(String, String)>, Failure> {
    spi::select(SETTINGS, &[], |row| Ok((row.next()?, row.next()?)))
}

// Views over views too. Indexes, statistics and generated columns cannot call what is not IMMUTABLE, but those of a materialized view keep what it has.
const MATERIALIZED_VIEWS: &str = "WITH RECURSIVE opened (relation) AS (
         SELECT w.ev_class FROM pg_catalog.pg_proc f
         JOIN pg_catalog.pg_depend d ON d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.refobjid OPERATOR(pg_catalog.=) f.oid
         JOIN pg_catalog.pg_rewrite w ON d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND w.oid OPERATOR(pg_catalog.=) d.objid
         WHERE f.pronamespace OPERATOR(pg_catalog.=) 'kms_wrap'::pg_catalog.regnamespace
           AND f.proname OPERATOR(pg_catalog.=) ANY ('{kw_decrypt,kw_decrypt_text,kw_open_column,kw_open_column_text}')
         UNION
         SELECT w.ev_class FROM opened o
         JOIN pg_catalog.pg_depend d ON d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid OPERATOR(pg_catalog.=) o.relation
         JOIN pg_catalog.pg_rewrite w ON d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND w.oid OPERATOR(pg_catalog.=) d.objid
     )
     SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) FROM opened o
     JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) o.relation AND c.relkind OPERATOR(pg_catalog.=) 'm'
     JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace ORDER BY 1";

/// Materialized views whose query decrypts values, or reads a view that does.
pub(crate) fn materialized_views() -> Result<Vec<String>, Failure> {
    spi::select(MATERIALIZED_VIEWS, &[], |row| row.next())
}
