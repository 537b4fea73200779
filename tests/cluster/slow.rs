//! A server that is far away.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{sleep, spawn};
use std::time::Duration;

/// A way to a server on which requests take their time. Ends with the process.
pub(crate) struct Slow {
    pub(crate) port: u16,
    millis: Arc<AtomicU64>,
}

impl Slow {
    pub(crate) fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, millis) = (listener.local_addr().unwrap().port(), Arc::new(AtomicU64::new(0)));
        let wait = Arc::clone(&millis);
        spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let server = TcpStream::connect(("127.0.0.1", server)).unwrap();
                let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let wait = Arc::clone(&wait);
                spawn(move || pass(from, to, &wait));
                spawn(move || pass(server, client, &AtomicU64::new(0)));
            }
        });
        Self { port, millis }
    }

    pub(crate) fn set(&self, millis: u64) {
        self.millis.store(millis, Ordering::Relaxed);
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, wait: &AtomicU64) {
    let mut bytes = [0; 8192];
    while let Ok(n @ 1..) = from.read(&mut bytes) {
        sleep(Duration::from_millis(wait.load(Ordering::Relaxed)));
        if to.write_all(&bytes[..n]).is_err() {
            break;
        }
    }
    drop(to.shutdown(Shutdown::Both));
}
