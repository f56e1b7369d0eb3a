//! Payloads only the receiver can open.
//!
//! A sealed payload is [`SEALED_MAGIC`], one message of the one-way Noise pattern X
//! (`Noise_X_25519_ChaChaPoly_BLAKE2s`, Noise Protocol Framework revision 34 §7.4) with an empty payload, and a
//! sequence of Noise transport messages. The sender is authenticated by its static key, secrecy is forward to the
//! receiver's key. What the payload is for ([`SealContext`]) is bound as prologue. Each transport message holds a
//! marker byte (1 in the last, else 0) and up to [`CHUNK_BYTES`] of content, behind its length as two bytes, most
//! significant first. Order follows from the messages' counters, so exchanged, repeated, cut and appended chunks are
//! refused.
//!
//! A sender without an Ed25519 key ([`crate::rsa`]) uses the pattern N instead, which tells nothing about who sealed.
//! Readers say which of the two they expect, and take neither for the other.

use std::fmt;
use std::io::{self, Read, Write};

use snow::{Builder, HandshakeState, TransportState};

use crate::id::{CollaborationId, OrganizationId};
use crate::key::{OrganizationKey, OrganizationPublicKey};
use crate::manifest::Nonce;
use crate::payload::SEALED_MAGIC;

const PATTERN: &str = "Noise_X_25519_ChaChaPoly_BLAKE2s";
/// The ephemeral key, the static key with its tag, and the tag of the empty payload.
const HANDSHAKE_BYTES: usize = 32 + 48 + 16;
const ANONYMOUS_PATTERN: &str = "Noise_N_25519_ChaChaPoly_BLAKE2s";
/// The ephemeral key and the tag of the empty payload.
const ANONYMOUS_HANDSHAKE_BYTES: usize = 32 + 16;
const TAG_BYTES: usize = 16;
const MAX_MESSAGE_BYTES: usize = 65_535;
const MORE: u8 = 0;
const LAST: u8 = 1;

/// The content of a full chunk in bytes: a Noise message less its tag and the marker.
pub const CHUNK_BYTES: usize = MAX_MESSAGE_BYTES - TAG_BYTES - 1;

/// Which way a payload goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From who asks to who runs.
    Input,
    /// From who ran to who asked.
    Result,
}

/// What a payload is for. Both ends must name the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealContext {
    /// Which way it goes.
    pub direction: Direction,
    /// Where the task belongs.
    pub collaboration_id: CollaborationId,
    /// Who sealed it.
    pub sender: OrganizationId,
    /// Who may open it.
    pub receiver: OrganizationId,
    /// The nonce of the task's manifest.
    pub nonce: Nonce,
}

impl SealContext {
    fn prologue(&self) -> Vec<u8> {
        let mut prologue = b"twinmesh/sealed/1\0".to_vec();
        prologue.push(match self.direction {
            Direction::Input => 1,
            Direction::Result => 2,
        });
        for id in [self.collaboration_id.get(), self.sender.get(), self.receiver.get()] {
            prologue.extend_from_slice(&id.to_be_bytes());
        }
        prologue.extend_from_slice(self.nonce.as_bytes());
        prologue
    }
}

/// Why a payload cannot be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// It does not begin like a sealed payload.
    #[error("the payload is not sealed")]
    NotSealed,
    /// Sealed to another key, for another purpose, or altered: these cannot be told apart.
    #[error("the payload cannot be opened: it was altered, sealed to another key, or made for another task")]
    CannotOpen,
    /// Opened, but made by somebody else.
    #[error("the payload was sealed by another key than that of organization {expected}")]
    OtherSender {
        /// Who should have sealed it.
        expected: OrganizationId,
    },
    /// It ends before its end.
    #[error("the payload is cut short")]
    Truncated,
    /// Something follows its end.
    #[error("the payload has {0} or more bytes after its end")]
    Trailing(usize),
    /// The stream below.
    #[error("cannot read or write the sealed payload")]
    Io(#[source] io::Error),
    /// The sealing library refused; does not happen with valid keys.
    #[error("the payload cannot be sealed")]
    Noise(#[source] snow::Error),
}

impl From<SealError> for io::Error {
    fn from(error: SealError) -> Self {
        match error {
            SealError::Io(error) => error,
            error => io::Error::new(io::ErrorKind::InvalidData, error),
        }
    }
}

/// Seals a payload that fits in memory.
///
/// # Errors
/// Only when the random source fails.
pub fn seal(
    sender: &OrganizationKey,
    receiver: &OrganizationPublicKey,
    context: &SealContext,
    content: &[u8],
) -> Result<Vec<u8>, SealError> {
    let mut sealer = Sealer::new(Vec::with_capacity(sealed_len(content.len())), sender, receiver, context)?;
    sealer.write_all(content).map_err(SealError::Io)?;
    sealer.finish()
}

/// Seals a payload that fits in memory, for a sender who has no key to prove that it is theirs.
///
/// # Errors
/// Only when the random source fails.
pub fn seal_anonymous(
    receiver: &OrganizationPublicKey,
    context: &SealContext,
    content: &[u8],
) -> Result<Vec<u8>, SealError> {
    let mut sealer = Sealer::anonymous(Vec::with_capacity(sealed_len(content.len())), receiver, context)?;
    sealer.write_all(content).map_err(SealError::Io)?;
    sealer.finish()
}

/// Opens a payload that fits in memory.
///
/// # Errors
/// When it is not sealed, cannot be opened with this key and context, or was made by another sender.
pub fn open(
    receiver: &OrganizationKey,
    sender: &OrganizationPublicKey,
    context: &SealContext,
    sealed: &[u8],
) -> Result<Vec<u8>, SealError> {
    Opener::new(sealed, receiver, sender, context)?.whole()
}

/// Opens a payload that fits in memory and that anybody may have sealed.
///
/// # Errors
/// When it is not sealed, cannot be opened with this key and context, or its sender is not anonymous.
pub fn open_anonymous(receiver: &OrganizationKey, context: &SealContext, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
    Opener::anonymous(sealed, receiver, context)?.whole()
}

/// The length of a sealed payload, in bytes, from that of its content.
#[must_use]
pub fn sealed_len(content: usize) -> usize {
    let chunks = content.div_ceil(CHUNK_BYTES).max(1);
    SEALED_MAGIC.len() + HANDSHAKE_BYTES + content + chunks * (2 + 1 + TAG_BYTES)
}

/// Seals what is written to it, a chunk at a time. [`Sealer::finish`] must be called: without it the payload is cut
/// short and will be refused.
pub struct Sealer<W> {
    inner: W,
    transport: TransportState,
    /// The marker and the content of the chunk being filled.
    plain: Vec<u8>,
    message: Vec<u8>,
}

impl<W> fmt::Debug for Sealer<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer([redacted])")
    }
}

impl<W: Write> Sealer<W> {
    /// Begins a sealed payload on `inner`.
    ///
    /// # Errors
    /// When `inner` cannot be written to.
    pub fn new(
        inner: W,
        sender: &OrganizationKey,
        receiver: &OrganizationPublicKey,
        context: &SealContext,
    ) -> Result<Self, SealError> {
        let secret = sender.sealing_secret().to_bytes();
        let builder = |prologue| builder(PATTERN, prologue)?.local_private_key(&secret);
        Self::begin(inner, receiver, &context.prologue(), builder)
    }

    /// Begins a sealed payload that does not tell who sealed it.
    ///
    /// # Errors
    /// When `inner` cannot be written to.
    pub fn anonymous(inner: W, receiver: &OrganizationPublicKey, context: &SealContext) -> Result<Self, SealError> {
        Self::begin(inner, receiver, &context.prologue(), |prologue| builder(ANONYMOUS_PATTERN, prologue))
    }

    fn begin<'a>(
        mut inner: W,
        receiver: &OrganizationPublicKey,
        prologue: &'a [u8],
        builder: impl FnOnce(&'a [u8]) -> Result<Builder<'a>, snow::Error>,
    ) -> Result<Self, SealError> {
        let remote = receiver.sealing_key().to_bytes();
        let mut handshake = builder(prologue)
            .and_then(|builder| builder.remote_public_key(&remote)?.build_initiator())
            .map_err(SealError::Noise)?;
        let mut message = vec![0; MAX_MESSAGE_BYTES + 2];
        let length = handshake.write_message(&[], &mut message).map_err(SealError::Noise)?;
        inner.write_all(&SEALED_MAGIC).map_err(SealError::Io)?;
        inner.write_all(&message[..length]).map_err(SealError::Io)?;
        let transport = handshake.into_transport_mode().map_err(SealError::Noise)?;
        let mut plain = Vec::with_capacity(1 + CHUNK_BYTES);
        plain.push(MORE);
        Ok(Self { inner, transport, plain, message })
    }

    /// Writes the last chunk and returns what lies below, flushed.
    ///
    /// # Errors
    /// When it cannot be written to.
    pub fn finish(mut self) -> Result<W, SealError> {
        self.plain[0] = LAST;
        self.write_chunk()?;
        self.inner.flush().map_err(SealError::Io)?;
        Ok(self.inner)
    }

    fn write_chunk(&mut self) -> Result<(), SealError> {
        let length = self.transport.write_message(&self.plain, &mut self.message[2..]).map_err(SealError::Noise)?;
        let prefix = u16::try_from(length).expect("a Noise message has at most 65,535 bytes");
        self.message[..2].copy_from_slice(&prefix.to_be_bytes());
        self.inner.write_all(&self.message[..2 + length]).map_err(SealError::Io)?;
        self.plain.truncate(1);
        Ok(())
    }
}

impl<W: Write> Write for Sealer<W> {
    fn write(&mut self, content: &[u8]) -> io::Result<usize> {
        // A full chunk waits for more, since only `finish` knows that it is the last.
        if self.plain.len() == 1 + CHUNK_BYTES && !content.is_empty() {
            self.write_chunk()?;
        }
        let room = 1 + CHUNK_BYTES - self.plain.len();
        let taken = &content[..content.len().min(room)];
        self.plain.extend_from_slice(taken);
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Opens a sealed payload a chunk at a time. What it has returned is authentic, but only the end of the stream
/// without an error tells that it is whole.
pub struct Opener<R> {
    inner: R,
    transport: TransportState,
    message: Vec<u8>,
    plain: Vec<u8>,
    /// What of `plain` has not been read yet.
    unread: std::ops::Range<usize>,
    ended: bool,
}

impl<R> fmt::Debug for Opener<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Opener([redacted])")
    }
}

impl<R: Read> Opener<R> {
    /// Reads the beginning of a sealed payload and checks who made it.
    ///
    /// # Errors
    /// When it is not sealed, cannot be opened with this key and context, or was made by another sender.
    pub fn new(
        inner: R,
        receiver: &OrganizationKey,
        sender: &OrganizationPublicKey,
        context: &SealContext,
    ) -> Result<Self, SealError> {
        let (inner, handshake) =
            Self::begin::<{ SEALED_MAGIC.len() + HANDSHAKE_BYTES }>(inner, PATTERN, receiver, context)?;
        if handshake.get_remote_static() != Some(sender.sealing_key().as_bytes().as_slice()) {
            return Err(SealError::OtherSender { expected: context.sender });
        }
        Self::proceed(inner, handshake)
    }

    /// Reads the beginning of a sealed payload that anybody may have made.
    ///
    /// # Errors
    /// When it is not sealed, cannot be opened with this key and context, or its sender is not anonymous.
    pub fn anonymous(inner: R, receiver: &OrganizationKey, context: &SealContext) -> Result<Self, SealError> {
        let (inner, handshake) = Self::begin::<{ SEALED_MAGIC.len() + ANONYMOUS_HANDSHAKE_BYTES }>(
            inner,
            ANONYMOUS_PATTERN,
            receiver,
            context,
        )?;
        Self::proceed(inner, handshake)
    }

    /// Reads the magic and the handshake, which have `N` bytes.
    fn begin<const N: usize>(
        mut inner: R,
        pattern: &str,
        receiver: &OrganizationKey,
        context: &SealContext,
    ) -> Result<(R, HandshakeState), SealError> {
        let mut head = [0; N];
        let length = read_up_to(&mut inner, &mut head)?;
        if !head[..length].starts_with(&SEALED_MAGIC) {
            return Err(SealError::NotSealed);
        }
        if length < head.len() {
            return Err(SealError::Truncated);
        }
        let prologue = context.prologue();
        let secret = receiver.sealing_secret().to_bytes();
        let mut handshake = builder(pattern, &prologue)
            .and_then(|builder| builder.local_private_key(&secret)?.build_responder())
            .map_err(SealError::Noise)?;
        handshake.read_message(&head[SEALED_MAGIC.len()..], &mut []).map_err(|_| SealError::CannotOpen)?;
        Ok((inner, handshake))
    }

    fn proceed(inner: R, handshake: HandshakeState) -> Result<Self, SealError> {
        let transport = handshake.into_transport_mode().map_err(SealError::Noise)?;
        Ok(Self {
            inner,
            transport,
            message: vec![0; MAX_MESSAGE_BYTES],
            plain: vec![0; MAX_MESSAGE_BYTES],
            unread: 0..0,
            ended: false,
        })
    }

    /// Opens all that is left.
    fn whole(mut self) -> Result<Vec<u8>, SealError> {
        let mut content = Vec::new();
        while self.next_chunk()? {
            content.extend_from_slice(self.chunk());
        }
        Ok(content)
    }

    /// Opens the next chunk; `false` when the payload has ended whole.
    fn next_chunk(&mut self) -> Result<bool, SealError> {
        if self.ended {
            return Ok(false);
        }
        let mut prefix = [0; 2];
        if read_up_to(&mut self.inner, &mut prefix)? < prefix.len() {
            return Err(SealError::Truncated);
        }
        let length = usize::from(u16::from_be_bytes(prefix));
        let message = &mut self.message[..length];
        if read_up_to(&mut self.inner, message)? < length {
            return Err(SealError::Truncated);
        }
        let length = self.transport.read_message(message, &mut self.plain).map_err(|_| SealError::CannotOpen)?;
        match self.plain[..length].first() {
            Some(&MORE) => {}
            Some(&LAST) => {
                self.ended = true;
                let mut more = [0; 1];
                match read_up_to(&mut self.inner, &mut more)? {
                    0 => {}
                    trailing => return Err(SealError::Trailing(trailing)),
                }
            }
            Some(_) | None => return Err(SealError::CannotOpen),
        }
        self.unread = 1..length;
        Ok(true)
    }

    fn chunk(&self) -> &[u8] {
        &self.plain[self.unread.clone()]
    }
}

impl<R: Read> Read for Opener<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.unread.is_empty() {
            if !self.next_chunk()? {
                return Ok(0);
            }
        }
        let taken = buffer.len().min(self.unread.len());
        buffer[..taken].copy_from_slice(&self.chunk()[..taken]);
        self.unread.start += taken;
        Ok(taken)
    }
}

fn builder<'a>(pattern: &str, prologue: &'a [u8]) -> Result<Builder<'a>, snow::Error> {
    Builder::new(pattern.parse()?).prologue(prologue)
}

fn read_up_to(reader: &mut impl Read, buffer: &mut [u8]) -> Result<usize, SealError> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(SealError::Io(error)),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests;
