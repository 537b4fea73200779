//! Waiting for a KMS in a backend: on the backend's own thread, with an eye on what PostgreSQL wants meanwhile.

use super::report::Failure;
use crate::provider::patience::Away;
use std::{
    cell::OnceCell,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::Poll,
    time::{Duration, Instant},
};
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

fn with_runtime<T>(f: impl FnOnce(&Runtime) -> Result<T, Failure>) -> Result<T, Failure> {
    RUNTIME.with(|cell| {
        if cell.get().is_none() {
            let built = Builder::new_current_thread().enable_io().enable_time().build();
            let _ = cell.set(built.map_err(|_| Failure::internal("no event loop"))?);
        }
        f(cell.get().ok_or_else(|| Failure::internal("no event loop"))?)
    })
}

/// Lets the loop's own tasks, such as those of connections, take in what has come and send what is ready.
async fn turn() {
    yield_now().await;
    yield_now().await;
}

/// Drives a future to its end. A cancel, a termination or a statement timeout drops it and is raised as ever; the future has its own deadline.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> Result<T, Failure> {
    with_runtime(|runtime| {
        // Connections that the other side has closed since the last call find out now, and not under the request.
        runtime.block_on(turn());
        // A future that an ERROR drops may leave a task to the loop, such as for a connection that goes back to its pool.
        let _entered = runtime.enter();
        let mut future = pin!(future);
        loop {
            // Returned from the loop for the look, so that an ERROR leaves from no place inside of it.
            let start = Instant::now();
            // Before the next part of a future that has held the thread for so long: the timer comes after it only.
            let until_look =
                poll_fn(|context| if start.elapsed() >= LOOK { Poll::Ready(None) } else { future.as_mut().poll(context).map(Some) });
            match runtime.block_on(async { timeout(LOOK, until_look).await }) {
                Ok(Some(done)) => return Ok(done),
                Ok(None) | Err(_) => {
                    pgrx::check_for_interrupts!();
                }
            }
        }
    })
}

/// How often a future is polled when it is looked after: the head of an answer, its body and the request that follows come one after the other.
const TURNS: usize = 4;

/// A future that was begun and goes on by itself as far as others work for it: servers, and the network. Its own part is done when it is looked
/// after, from time to time and at the end. What this thread does in between is not its time.
pub(crate) struct Begun<T> {
    future: Option<Pin<Box<dyn Future<Output = T>>>>,
    done: Option<T>,
    away: Away,
}

impl<T> Begun<T> {
    /// Does the first part, so that requests are on their way.
    pub(crate) fn begin(future: impl Future<Output = T> + 'static) -> Result<Self, Failure> {
        let mut begun = Self { future: Some(Box::pin(future)), done: None, away: Away::from_now() };
        begun.look_after()?;
        Ok(begun)
    }

    /// Takes in what has come meanwhile and asks for what is next, without waiting.
    pub(crate) fn look_after(&mut self) -> Result<(), Failure> {
        self.away.end();
        let Some(future) = self.future.as_mut() else { return Ok(()) };
        let polled = with_runtime(|runtime| {
            Ok(runtime.block_on(async {
                let mut polled = Poll::Pending;
                for _ in 0..TURNS {
                    turn().await;
                    polled = poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await;
                    if polled.is_ready() {
                        break;
                    }
                }
                turn().await;
                polled
            }))
        })?;
        if let Poll::Ready(done) = polled {
            (self.future, self.done) = (None, Some(done));
        }
        self.away = Away::from_now();
        Ok(())
    }

    /// Waits for the end, as [`block_on`] does.
    pub(crate) fn end(mut self) -> Result<T, Failure> {
        self.look_after()?;
        match (self.done.take(), self.future.take()) {
            (Some(done), _) => Ok(done),
            (None, Some(future)) => block_on(future),
            (None, None) => Err(Failure::internal("future")),
        }
    }
}

impl<T> Drop for Begun<T> {
    fn drop(&mut self) {
        let Some(future) = self.future.take() else { return };
        // A call that is given up has not waited for this long.
        self.away.end();
        // As in block_on(): what is dropped may leave a task to the loop.
        let _ = with_runtime(|runtime| {
            let _entered = runtime.enter();
            drop(future);
            Ok(())
        });
    }
}
