//! The extension: settings, catalog, errors, and the SQL functions. `fn_*` files hold entry points only: they convert, call and map.
#![allow(
    // Errors carry SQLSTATE, text, DETAIL and HINT by value; boxing them breaks pgrx's conversion.
    clippy::result_large_err,
    // pgrx passes arguments by value.
    clippy::needless_pass_by_value,
    // A method path is not general enough over the lifetime of a row.
    clippy::redundant_closure_for_method_calls,
    // Overflow checks are on in release builds too: a sum that does not fit is an ERROR.
    clippy::arithmetic_side_effects,
    // pgrx wants the columns of a function's result spelled out.
    clippy::type_complexity
)]

mod breaker;
mod cache;
mod catalog;
mod columns;
mod contexts;
mod core_dump;
mod deks;
mod describe;
mod discard;
mod fn_columns;
mod fn_health;
mod fn_index;
mod fn_jobs;
mod fn_protected;
mod fn_setup;
mod fn_values;
mod fn_watch;
mod fn_wrap;
mod grants;
mod gucs;
mod health;
mod health_leaks;
mod health_providers;
mod health_values;
mod init;
mod interrupt;
mod jobs;
mod json_arg;
mod kms;
mod known;
mod make;
mod oid_arg;
mod open;
mod owner;
mod pins;
mod probe;
mod probing;
mod protected;
mod quickstart;
mod remote;
mod report;
mod revocation;
mod rewrap;
mod rights;
mod rotate;
mod row_key;
mod schema;
mod seal;
mod setup;
mod setup_remote;
mod spi;
mod transaction;
mod unknown;
mod uuid_hash;
mod values;
mod varlena;
mod verify;
mod worker;
