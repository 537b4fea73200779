//! Deadlines of calls that share one thread: a call that holds it, as those of PKCS#11 do, must not use up the time of the others.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    pin::pin,
    time::Duration,
};
use tokio::time::{Instant, timeout};

thread_local! {
    /// How long calls have held this thread, all together.
    static HELD: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

fn hold(time: Duration) {
    HELD.set(HELD.get().saturating_add(time));
}

/// Time in which this thread does something else than look after calls that it has begun.
pub struct Away {
    start: Instant,
    held_before: Duration,
}

impl Away {
    /// From now on.
    #[must_use]
    pub fn from_now() -> Self {
        Self { start: Instant::now(), held_before: HELD.get() }
    }

    /// Tells the calls that it was not their time. What other calls have held of it they know already.
    pub fn end(&self) {
        let by_others = HELD.get().saturating_sub(self.held_before);
        hold(self.start.elapsed().saturating_sub(by_others));
    }
}

/// How long one call may take.
pub struct Patience {
    whole: Duration,
    start: Instant,
    held_before: Duration,
    /// For how long the call itself has held the thread, which does count.
    held: Cell<Duration>,
}

impl Patience {
    /// From now on.
    #[must_use]
    pub fn new(whole: Duration) -> Self {
        Self { whole, start: Instant::now(), held_before: HELD.get(), held: Cell::new(Duration::ZERO) }
    }

    /// The time that the call has had, without that in which others held the thread.
    #[must_use]
    pub fn spent(&self) -> Duration {
        let by_others = HELD.get().saturating_sub(self.held_before).saturating_sub(self.held.get());
        self.start.elapsed().saturating_sub(by_others)
    }

    /// What is left of it.
    #[must_use]
    pub fn left(&self) -> Duration {
        self.whole.saturating_sub(self.spent())
    }

    /// Waits for a future of the call; `None` when nothing is left.
    pub async fn wait<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        let mut future = pin!(future);
        let mut watched = pin!(poll_fn(|context| {
            let start = Instant::now();
            let polled = future.as_mut().poll(context);
            let took = start.elapsed();
            self.held.set(self.held.get().saturating_add(took));
            hold(took);
            polled
        }));
        loop {
            if let Ok(done) = timeout(self.left(), watched.as_mut()).await {
                return Some(done);
            }
            // The timer does not know of the others.
            if self.left().is_zero() {
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::join;
    use std::task::Poll;
    use tokio::{
        task::{LocalSet, spawn_local, yield_now},
        time::sleep,
    };

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn run<T>(test: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        LocalSet::new().block_on(&runtime, test)
    }

    /// As of an HTTP client: a task of the loop takes it from the connection.
    async fn answer_after(time: Duration) -> &'static str {
        spawn_local(async move {
            sleep(time).await;
            "answer"
        })
        .await
        .unwrap()
    }

    fn hold_for(time: Duration) -> impl Future<Output = &'static str> {
        poll_fn(move |_| {
            std::thread::sleep(time);
            Poll::Ready("held")
        })
    }

    #[test]
    fn an_answer_that_came_while_another_call_held_the_thread_is_in_time() {
        let (one, other) = run(async {
            let (one, other) = (Patience::new(ms(100)), Patience::new(ms(100)));
            join(one.wait(answer_after(ms(50))), other.wait(hold_for(ms(400)))).await
        });
        assert_eq!((one, other), (Some("answer"), Some("held")));
    }

    #[test]
    fn an_answer_that_came_while_the_thread_was_elsewhere_is_in_time() {
        let answer = run(async {
            let patience = Patience::new(ms(100));
            let mut call = pin!(patience.wait(answer_after(ms(50))));
            assert!(futures_util::poll!(call.as_mut()).is_pending());
            let away = Away::from_now();
            std::thread::sleep(ms(200));
            // Another call of this thread in between counts once.
            assert_eq!(Patience::new(ms(100)).wait(hold_for(ms(200))).await, Some("held"));
            away.end();
            assert!(HELD.get() < ms(600));
            call.await
        });
        assert_eq!(answer, Some("answer"));
    }

    #[test]
    fn what_a_call_holds_itself_counts() {
        let (patience, waited) = run(async {
            let patience = Patience::new(ms(100));
            let slow = async {
                hold_for(ms(200)).await;
                yield_now().await;
                sleep(ms(1)).await;
            };
            let waited = patience.wait(slow).await;
            (patience, waited)
        });
        assert!(waited.is_none() && patience.left().is_zero() && patience.spent() >= ms(200));
    }

    #[test]
    fn nobody_waits_longer_because_of_others_that_wait() {
        let start = Instant::now();
        let waited = run(async {
            let (one, other) = (Patience::new(ms(100)), Patience::new(ms(150)));
            join(one.wait(sleep(ms(10_000))), other.wait(sleep(ms(10_000)))).await
        });
        assert!(waited == (None, None) && start.elapsed() < ms(1000), "{:?}", start.elapsed());
    }
}
