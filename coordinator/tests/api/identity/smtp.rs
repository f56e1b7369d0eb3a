//! A mail server that keeps what it gets.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use twinmesh_coordinator::config::{Config, Encryption};

use crate::ledger::federation::DEADLINE;

/// How the server behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// It takes all mail.
    Polite,
    /// It refuses every recipient for good.
    Strict,
    /// It puts off every recipient.
    Busy,
}

/// How the server encrypts.
pub(crate) enum Security {
    None,
    /// When it is asked to (RFC 3207).
    Starttls(TlsAcceptor),
    /// From the first byte (RFC 8314).
    Implicit(TlsAcceptor),
}

/// What stands among the commands when a connection is encrypted from there on.
pub(crate) const ENCRYPTED: &str = "(encrypted)";
/// What stands there when somebody did not believe our certificate.
pub(crate) const DISTRUSTED: &str = "(distrusted)";

pub(crate) struct Sink {
    pub(crate) address: SocketAddr,
    mails: Arc<Mutex<Vec<String>>>,
    /// What clients said besides.
    commands: Arc<Mutex<Vec<String>>>,
    changed: Arc<Notify>,
    server: JoinHandle<()>,
}

impl Sink {
    pub(crate) async fn start(manner: Manner) -> Self {
        Self::at(([127, 0, 0, 1], 0).into(), manner).await
    }

    pub(crate) async fn at(address: SocketAddr, manner: Manner) -> Self {
        Self::serve(address, manner, Security::None).await
    }

    /// One that encrypts.
    pub(crate) async fn secure(security: Security) -> Self {
        Self::serve(([127, 0, 0, 1], 0).into(), Manner::Polite, security).await
    }

    async fn serve(address: SocketAddr, manner: Manner, security: Security) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (mails, commands, changed) = (Arc::default(), Arc::default(), Arc::new(Notify::new()));
        let shared = (Arc::clone(&mails), Arc::clone(&commands), Arc::clone(&changed));
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // Whoever hangs up early is of no concern.
                let _ = receive(stream, manner, &security, &shared.0, &shared.1).await;
                shared.2.notify_one();
            }
        });
        Self { address, mails, commands, changed, server }
    }

    /// Settings that send mail here, and try again soon.
    pub(crate) fn settings(address: SocketAddr) -> impl Fn(&mut Config) {
        move |config| {
            config.mail.server = Some("127.0.0.1".into());
            config.mail.port = Some(address.port());
            config.mail.encryption = Encryption::None;
            config.mail.from = Some("Twinmesh <noreply@example.org>".into());
            config.mail.support = Some("helpdesk@example.org".into());
            config.mail.retry_after = "20ms".parse().unwrap();
        }
    }

    pub(crate) fn mails(&self) -> Vec<String> {
        self.mails.lock().unwrap().clone()
    }

    pub(crate) fn commands(&self) -> Vec<String> {
        self.commands.lock().unwrap().clone()
    }

    /// Waits for this many mails; the last of them.
    pub(crate) async fn nth(&self, count: usize) -> String {
        self.until(|sink| sink.mails().len() >= count).await;
        self.mails().swap_remove(count - 1)
    }

    pub(crate) async fn until(&self, fits: impl Fn(&Self) -> bool) {
        let waited = tokio::time::timeout(DEADLINE, async {
            while !fits(self) {
                self.changed.notified().await;
            }
        });
        waited.await.unwrap_or_else(|_| panic!("it did not come to this: {:?} {:?}", self.mails(), self.commands()));
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// The token of a mail: it stands alone in its line.
pub(crate) fn token(mail: &str) -> String {
    let token = mail.lines().find(|line| line.len() == 43 && !line.contains([' ', '.', ':']));
    token.unwrap_or_else(|| panic!("no token in {mail}")).to_owned()
}

async fn receive(
    stream: TcpStream,
    manner: Manner,
    security: &Security,
    mails: &Mutex<Vec<String>>,
    commands: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let encrypt = async |acceptor: &TlsAcceptor, stream: TcpStream| {
        let encrypted = acceptor.accept(stream).await;
        let word = if encrypted.is_ok() { ENCRYPTED } else { DISTRUSTED };
        commands.lock().unwrap().push(word.to_owned());
        encrypted
    };
    match security {
        Security::None => converse(stream, true, manner, false, mails, commands).await.map(drop),
        Security::Implicit(acceptor) => {
            let stream = encrypt(acceptor, stream).await?;
            converse(stream, true, manner, false, mails, commands).await.map(drop)
        }
        Security::Starttls(acceptor) => {
            let Some(stream) = converse(stream, true, manner, true, mails, commands).await? else { return Ok(()) };
            let stream = encrypt(acceptor, stream).await?;
            converse(stream, false, manner, false, mails, commands).await.map(drop)
        }
    }
}

/// Takes mail until the other side hangs up, or wants to go on encrypted: then the stream is returned.
async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    greets: bool,
    manner: Manner,
    offers_encryption: bool,
    mails: &Mutex<Vec<String>>,
    commands: &Mutex<Vec<String>>,
) -> std::io::Result<Option<S>> {
    let mut stream = BufReader::new(stream);
    if greets {
        stream.write_all(b"220 sink\r\n").await?;
    }
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        commands.lock().unwrap().push(line.trim_end().to_owned());
        let answer = match (line.get(..4).unwrap_or_default(), manner) {
            ("EHLO", _) if offers_encryption => "250-sink\r\n250-STARTTLS\r\n250 AUTH PLAIN\r\n",
            ("EHLO", _) => "250-sink\r\n250 AUTH PLAIN\r\n",
            ("STAR", _) if offers_encryption => {
                stream.write_all(b"220 go on\r\n").await?;
                assert!(stream.buffer().is_empty(), "nothing is said before the answer came");
                return Ok(Some(stream.into_inner()));
            }
            ("AUTH", _) => "235 welcome\r\n",
            ("RCPT", Manner::Strict) => "550 nobody of that name\r\n",
            ("RCPT", Manner::Busy) => "450 come back later\r\n",
            ("DATA", _) => {
                stream.write_all(b"354 go on\r\n").await?;
                let mut mail = String::new();
                while !mail.ends_with("\r\n.\r\n") {
                    if stream.read_line(&mut mail).await? == 0 {
                        return Ok(None);
                    }
                }
                mails.lock().unwrap().push(mail);
                "250 taken\r\n"
            }
            ("QUIT", _) => "221 bye\r\n",
            (_, _) => "250 fine\r\n",
        };
        stream.write_all(answer.as_bytes()).await?;
    }
}
