//! Waiting for a KMS in a backend: on the backend's own thread, with an eye on what PostgreSQL wants meanwhile.

use super::report::Failure;
use std::{cell::OnceCell, future::Future, pin::pin, time::Duration};
use tokio::{
    runtime::{Builder, Runtime},
    task::yield_now,
    time::timeout,
};

/// How often a wait looks whether the query was cancelled.
const LOOK: Duration = Duration::from_millis(20);

thread_local! {
    /// The event loop, made on first use in a backend, never in the postmaster. It runs nothing between calls, but keeps connections.
    static RUNTIME: OnceCell<Runtime> = const { OnceCell::new() };
}

/// Drives a future to its end. A cancel, a termination or a statement timeout drops it and is raised as ever; the future has its own deadline.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> Result<T, Failure> {
    RUNTIME.with(|cell| {
        if cell.get().is_none() {
            let built = Builder::new_current_thread().enable_io().enable_time().build();
            let _ = cell.set(built.map_err(|_| Failure::internal("no event loop"))?);
        }
        let runtime = cell.get().ok_or_else(|| Failure::internal("no event loop"))?;
        // Connections that the other side has closed since the last call find out now, and not under the request.
        runtime.block_on(async {
            yield_now().await;
            yield_now().await;
        });
        // A future that an ERROR drops may leave a task to the loop, such as for a connection that goes back to its pool.
        let _entered = runtime.enter();
        let mut future = pin!(future);
        loop {
            // Returned from the loop for the look, so that an ERROR leaves from no place inside of it.
            match runtime.block_on(async { timeout(LOOK, future.as_mut()).await }) {
                Ok(done) => return Ok(done),
                Err(_) => {
                    pgrx::check_for_interrupts!();
                }
            }
        }
    })
}
