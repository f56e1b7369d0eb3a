//! One connection to a coordinator, with as little work on this side as can be: both sides share the machine.

use anyhow::{Context as _, bail, ensure};
use serde_json::Value as Json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A connection that is kept, and whoever asks on it.
#[derive(Debug)]
pub(super) struct Link {
    stream: TcpStream,
    token: String,
    buffer: Vec<u8>,
}

/// An answer's status and its body.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

impl Answer {
    /// The body, if the status is this one.
    pub(super) fn expect(self, status: u16) -> anyhow::Result<Json> {
        ensure!(self.status == status, "the answer is {}: {}", self.status, String::from_utf8_lossy(&self.body));
        serde_json::from_slice(&self.body).context("the answer is not JSON")
    }
}

impl Link {
    /// Connects.
    pub(super) async fn open(host: &str, token: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(host).await.with_context(|| format!("cannot connect to {host}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, token: token.into(), buffer: Vec::with_capacity(16 * 1024) })
    }

    /// Asks and reads the whole answer.
    pub(super) async fn ask(&mut self, method: &str, path: &str, body: &str) -> anyhow::Result<Answer> {
        let (status, head) = self.begin(method, path, body).await?;
        let length: usize = header(&head, "content-length").context("the answer has no length")?.parse()?;
        while self.buffer.len() < length {
            self.fill().await?;
        }
        let rest = self.buffer.split_off(length);
        Ok(Answer { status, body: std::mem::replace(&mut self.buffer, rest) })
    }

    /// Follows the event log from a place on, or from its end.
    pub(super) async fn follow(mut self, after: &str) -> anyhow::Result<Follower> {
        let (status, _) = self.begin("GET", &format!("/event?after={after}"), "").await?;
        ensure!(status == 200, "the event stream is refused with {status}");
        let mut follower = Follower { link: self, line: Vec::new(), place: 0, data: String::new() };
        // The greeting.
        follower.next().await?;
        Ok(follower)
    }

    /// Sends a request and reads the answer's head; what came of the body stays in the buffer.
    async fn begin(&mut self, method: &str, path: &str, body: &str) -> anyhow::Result<(u16, String)> {
        let request = format!(
            "{method} /api{path} HTTP/1.1\r\nhost: coordinator\r\nauthorization: Bearer {}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.token,
            body.len()
        );
        self.stream.write_all(request.as_bytes()).await?;
        let end = loop {
            if let Some(at) = memchr::memmem::find(&self.buffer, b"\r\n\r\n") {
                break at + 4;
            }
            self.fill().await?;
        };
        let rest = self.buffer.split_off(end);
        let head = String::from_utf8(std::mem::replace(&mut self.buffer, rest)).context("the head is not text")?;
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).context("the answer has no status")?;
        Ok((status, head))
    }

    async fn fill(&mut self) -> anyhow::Result<()> {
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            bail!("the coordinator closed the connection");
        }
        Ok(())
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = head.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

/// A stream of events.
#[derive(Debug)]
pub(super) struct Follower {
    link: Link,
    line: Vec<u8>,
    /// The last event's place in the log.
    pub(super) place: i64,
    /// Its data.
    pub(super) data: String,
}

impl Follower {
    /// Reads to the next event.
    pub(super) async fn next(&mut self) -> anyhow::Result<()> {
        loop {
            let mut bytes = std::mem::take(&mut self.link.buffer).into_iter();
            for byte in bytes.by_ref() {
                if byte != b'\n' {
                    self.line.push(byte);
                    continue;
                }
                // Lines of the chunked coding stand between events, and are none of these.
                if let Some(data) = self.line.strip_prefix(b"data: ") {
                    self.data = String::from_utf8_lossy(data).into_owned();
                } else if let Some(place) = self.line.strip_prefix(b"id: ") {
                    self.place = std::str::from_utf8(place)?.trim().parse()?;
                }
                let ended = self.line.is_empty();
                self.line.clear();
                if ended {
                    self.link.buffer = bytes.collect();
                    return Ok(());
                }
            }
            self.link.fill().await?;
        }
    }

    /// Reads up to a place.
    pub(super) async fn reach(&mut self, place: i64) -> anyhow::Result<()> {
        while self.place < place {
            self.next().await?;
        }
        Ok(())
    }
}
