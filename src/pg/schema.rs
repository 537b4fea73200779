//! The order of the hand-written schema in `sql/`. Functions come from `#[pg_extern]` in the `fn_*` files.

use pgrx::extension_sql_file;

extension_sql_file!("../../sql/guard.sql", name = "guard", bootstrap);
extension_sql_file!("../../sql/tables/registry.sql", name = "registry", requires = ["guard"]);
extension_sql_file!("../../sql/tables/policies.sql", name = "policies", requires = ["registry"]);
extension_sql_file!("../../sql/tables/wrappers.sql", name = "wrappers", requires = ["policies"]);
extension_sql_file!("../../sql/tables/jobs.sql", name = "jobs", requires = ["wrappers"]);
extension_sql_file!("../../sql/tables/columns.sql", name = "columns", requires = ["policies"]);
extension_sql_file!("../../sql/tables/grants.sql", name = "grants", requires = ["policies"]);
extension_sql_file!("../../sql/revocation.sql", name = "revocation", requires = ["jobs", "columns", "grants"]);
extension_sql_file!("../../sql/values.sql", name = "values", requires = ["guard"]);
extension_sql_file!("../../sql/protected.sql", name = "protected", requires = ["values"]);
extension_sql_file!("../../sql/triggers.sql", name = "triggers", requires = ["jobs", "columns"]);
extension_sql_file!("../../sql/views.sql", name = "views", requires = ["jobs", fn_wrap::kw_key_version_of]);
extension_sql_file!("../../sql/columns/overview.sql", name = "columns_overview", requires = ["columns"]);
extension_sql_file!("../../sql/columns/checks.sql", name = "columns_checks", requires = ["columns"]);
extension_sql_file!("../../sql/columns/obstacles.sql", name = "columns_obstacles", requires = ["columns_checks"]);
extension_sql_file!("../../sql/columns/decrypting_view.sql", name = "columns_decrypting_view", requires = ["columns_checks"]);
extension_sql_file!("../../sql/columns/protect.sql", name = "columns_protect", requires = ["columns_decrypting_view"]);
extension_sql_file!("../../sql/columns/encrypt.sql", name = "columns_encrypt", requires = ["columns_checks"]);
extension_sql_file!("../../sql/columns/unprotect.sql", name = "columns_unprotect", requires = ["columns_decrypting_view"]);
extension_sql_file!("../../sql/data.sql", name = "data", requires = ["triggers"]);
extension_sql_file!("../../sql/dump.sql", name = "dump", requires = ["jobs", "columns", "grants"]);
extension_sql_file!("../../sql/comments_registry.sql", name = "comments_registry", requires = ["triggers", "views"]);
extension_sql_file!("../../sql/comments_wrappers.sql", name = "comments_wrappers", requires = ["triggers", "views"]);
extension_sql_file!("../../sql/comments_views.sql", name = "comments_views", requires = ["triggers", "views"]);
extension_sql_file!("../../sql/comments_grants.sql", name = "comments_grants", requires = ["grants"]);
extension_sql_file!("../../sql/comments_columns.sql", name = "comments_columns", requires = ["columns_overview"]);
extension_sql_file!("../../sql/procedures.sql", name = "procedures", requires = ["jobs"]);
extension_sql_file!("../../sql/finalize.sql", name = "finalize", finalize);
