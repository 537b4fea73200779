//! A server that answers what real ones cannot be made to: tasks of the test's own runtime, on plain HTTP of the loopback.

use std::{cell::RefCell, rc::Rc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{AbortHandle, spawn_local},
    time::sleep,
};

/// What it does with a request.
pub(crate) enum Act {
    /// Sends these bytes, and waits for the next request.
    Send(Vec<u8>),
    /// Sends these bytes one by one, with a pause after each.
    Drip(Vec<u8>, Duration),
    /// Sends these bytes and ends the connection in an orderly way.
    Close(Vec<u8>),
    /// Sends these bytes and breaks the connection.
    Reset(Vec<u8>),
    /// Says nothing.
    Wait,
}

/// A request as it came.
#[derive(Clone)]
pub(crate) struct Request {
    /// Method, path and headers.
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Request {
    /// Method and path.
    pub(crate) fn line(&self) -> &str {
        self.head.split(" HTTP/").next().unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.split_once(": ").filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value))
    }
}

/// A whole answer.
pub(crate) fn answer(status: u16, body: &str) -> Act {
    Act::Send(format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes())
}

/// A running double. Ends with the test.
pub(crate) struct Double {
    pub(crate) port: u16,
    requests: Rc<RefCell<Vec<Request>>>,
    task: AbortHandle,
}

impl Double {
    pub(crate) async fn start(act: impl Fn(&Request) -> Act + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Rc::new(RefCell::new(Vec::new()));
        let (act, seen) = (Rc::new(act), Rc::clone(&requests));
        let task = spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (act, seen) = (Rc::clone(&act), Rc::clone(&seen));
                spawn_local(async move { serve(stream, &*act, &seen).await });
            }
        });
        Self { port, requests, task: task.abort_handle() }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The requests since the last look.
    pub(crate) fn take(&self) -> Vec<Request> {
        std::mem::take(&mut self.requests.borrow_mut())
    }

    /// The same, as methods and paths.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.take().iter().map(|request| request.line().to_owned()).collect()
    }
}

impl Drop for Double {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, act: &dyn Fn(&Request) -> Act, seen: &RefCell<Vec<Request>>) {
    while let Some(request) = read(&mut stream).await {
        seen.borrow_mut().push(request.clone());
        let sent = match act(&request) {
            Act::Send(bytes) => stream.write_all(&bytes).await,
            Act::Drip(bytes, pause) => {
                for byte in bytes {
                    if stream.write_all(&[byte]).await.is_err() {
                        return;
                    }
                    sleep(pause).await;
                }
                Ok(())
            }
            Act::Close(bytes) => {
                let _ = stream.write_all(&bytes).await;
                return;
            }
            Act::Reset(bytes) => {
                let _ = stream.write_all(&bytes).await;
                sleep(Duration::from_millis(5)).await;
                stream.set_zero_linger().unwrap();
                return;
            }
            Act::Wait => std::future::pending().await,
        };
        if sent.is_err() {
            return;
        }
    }
}

async fn read(stream: &mut TcpStream) -> Option<Request> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end].to_vec()).ok()?;
            let request = Request { head, body: String::new() };
            let len: usize = request.header("content-length").map_or(0, |len| len.parse().unwrap());
            if bytes.len() >= end + 4 + len {
                return Some(Request { body: String::from_utf8(bytes[end + 4..end + 4 + len].to_vec()).ok()?, ..request });
            }
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}
