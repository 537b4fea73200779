//! kms_wrap: column encryption inside PostgreSQL, with every data key under two KMS keys of different owners and post-quantum layers.
//!
//! `core` is pure, `provider` does I/O and knows no PostgreSQL, `pg` is the extension. Each may use only what stands before it.

pub mod core;
pub mod provider;

#[cfg(any(feature = "pg13", feature = "pg14", feature = "pg15", feature = "pg16", feature = "pg17", feature = "pg18"))]
mod pg;
#[cfg(any(feature = "pg13", feature = "pg14", feature = "pg15", feature = "pg16", feature = "pg17", feature = "pg18"))]
pgrx::pg_module_magic!();

#[cfg(not(panic = "unwind"))]
compile_error!("kms_wrap needs panic = \"unwind\": pgrx turns a panic into an ERROR by unwinding");
