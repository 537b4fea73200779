//! A web server for doubles of clouds, with faults on demand. It runs as tasks of the test's own runtime, so that threads can be counted while
//! it answers.

use serde_json::Value;
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap, VecDeque},
    rc::Rc,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// What happens to the next request instead of an answer.
#[derive(Clone)]
pub(crate) enum Fault {
    /// This text with this status.
    Raw(u16, String),
    /// The answer with a field set to another value.
    Field(&'static str, Value),
    /// The answer without a field.
    Without(&'static str),
    /// No answer.
    Hang,
    /// Answers, but later.
    Delay(u64),
}

pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn has(&self, header: &str, value: &str) -> bool {
        self.headers.get(header).is_some_and(|v| v == value)
    }

    pub(crate) fn bearer(&self) -> &str {
        self.headers.get("authorization").and_then(|v| v.strip_prefix("Bearer ")).unwrap_or_default()
    }

    pub(crate) fn form(&self) -> HashMap<String, String> {
        url::form_urlencoded::parse(&self.body).into_owned().collect()
    }
}

pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) header: &'static str,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn json(status: u16, body: &Value) -> Self {
        Self { status, header: "content-type: application/json\r\n", body: body.to_string() }
    }
}

/// What a server is told, and what it saw.
#[derive(Default)]
pub(crate) struct Wire {
    pub(crate) faults: RefCell<VecDeque<Fault>>,
    /// Method and path of the requests.
    pub(crate) log: RefCell<Vec<String>>,
    pub(crate) most_at_once: Cell<usize>,
    at_once: Cell<usize>,
}

impl Wire {
    pub(crate) fn fault(&self, fault: Fault) {
        self.faults.borrow_mut().push_back(fault);
    }

    /// How many requests had this in their line.
    pub(crate) fn count(&self, part: &str) -> usize {
        self.log.borrow().iter().filter(|line| line.contains(part)).count()
    }
}

pub(crate) struct Web {
    pub(crate) url: String,
    pub(crate) wire: Rc<Wire>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Web {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Web {
    /// Starts listening; needs a `LocalSet`.
    pub(crate) async fn start<H: Fn(&Request) -> Reply + 'static>(handler: H) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (wire, handler) = (Rc::new(Wire::default()), Rc::new(handler));
        let shared = Rc::clone(&wire);
        let task = tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::task::spawn_local(serve(stream, Rc::clone(&shared), Rc::clone(&handler)));
            }
        });
        Self { url, wire, task }
    }
}

async fn read(stream: &mut TcpStream) -> Option<Request> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let text = String::from_utf8(bytes[..head].to_vec()).ok()?;
    let mut lines = text.split("\r\n");
    let mut words = lines.next()?.split(' ').map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let headers: BTreeMap<_, _> =
        lines.filter_map(|l| l.split_once(':')).map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned())).collect();
    let len: usize = headers.get("content-length").and_then(|v| v.parse().ok()).unwrap_or(0);
    let mut body = bytes.split_off(head + 4);
    while body.len() < len {
        if stream.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    Some(Request { method, path, headers, body })
}

async fn serve<H: Fn(&Request) -> Reply>(mut stream: TcpStream, wire: Rc<Wire>, handler: Rc<H>) {
    while let Some(request) = read(&mut stream).await {
        wire.log.borrow_mut().push(format!("{} {}", request.method, request.path));
        wire.at_once.set(wire.at_once.get() + 1);
        wire.most_at_once.set(wire.most_at_once.get().max(wire.at_once.get()));
        // Other requests get their turn, so that they are under way together.
        tokio::task::yield_now().await;
        let fault = wire.faults.borrow_mut().pop_front();
        let mut reply = handler(&request);
        let edit = |body: &str, edit: &dyn Fn(&mut serde_json::Map<String, Value>)| {
            let mut json: Value = serde_json::from_str(body).unwrap();
            edit(json.as_object_mut().unwrap());
            json.to_string()
        };
        match fault {
            Some(Fault::Raw(status, body)) => (reply.status, reply.body) = (status, body),
            Some(Fault::Field(name, value)) => reply.body = edit(&reply.body, &|o| drop(o.insert(name.to_owned(), value.clone()))),
            Some(Fault::Without(name)) => reply.body = edit(&reply.body, &|o| assert!(o.remove(name).is_some(), "{name}")),
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Delay(ms)) => tokio::time::sleep(Duration::from_millis(ms)).await,
            None => {}
        }
        wire.at_once.set(wire.at_once.get() - 1);
        let head = format!("HTTP/1.1 {} x\r\n{}content-length: {}\r\n\r\n", reply.status, reply.header, reply.body.len());
        if stream.write_all(head.as_bytes()).await.is_err() || stream.write_all(reply.body.as_bytes()).await.is_err() {
            return;
        }
    }
}
