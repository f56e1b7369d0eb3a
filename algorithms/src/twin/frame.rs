//! What twins write on a connection: a greeting each, then frames.

use std::io::{self, IoSlice, Read, Write};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use twinmesh_protocol::id::{OrganizationId, TaskId};

/// The name and version of this protocol.
pub(super) const PROTOCOL: &str = "twinmesh-twin/1";

/// The longest greeting.
const MAX_HELLO: usize = 4096;

/// The longest message.
pub(super) const MAX_MESSAGE: usize = 256 * 1024 * 1024;

/// How many bytes come before a message: its kind, three zeros, its length and its number.
const HEADER: usize = 16;

/// The first word on a connection, from either side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) protocol: String,
    pub(super) task: TaskId,
    pub(super) from: OrganizationId,
    pub(super) to: OrganizationId,
    /// The number of the last message that came from the other side.
    pub(super) received: u64,
}

/// The answer to a greeting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Answer {
    Hello(Hello),
    Refused { refused: String, fatal: bool },
}

pub(super) fn write_json(stream: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_vec(value)?;
    let length = u32::try_from(text.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), text.as_slice()].concat())
}

pub(super) fn read_json<T: for<'a> Deserialize<'a>>(stream: &mut impl Read) -> io::Result<T> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX_HELLO {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the greeting is too long"));
    }
    let mut text = vec![0; length];
    stream.read_exact(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    /// A numbered message; numbers start at 1 and leave no gap.
    Message(u64, Message),
    /// All messages up to this number have come; also a sign of life.
    Received(u64),
    /// This twin has failed and will not come back.
    Abort,
    /// The other side needs messages that are not kept.
    Forgotten,
}

/// A numbered message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message {
    /// What the algorithm sends.
    Data(Bytes),
    /// The last message: this twin's result is safe and it needs nothing more.
    Goodbye,
}

impl Message {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Data(bytes) => bytes.len(),
            Self::Goodbye => 0,
        }
    }
}

const DATA: u8 = 1;
const GOODBYE: u8 = 2;
const RECEIVED: u8 = 3;
const ABORT: u8 = 4;
const FORGOTTEN: u8 = 5;

impl Frame {
    fn header(&self) -> [u8; HEADER] {
        let (kind, length, number) = match self {
            Self::Message(number, Message::Data(bytes)) => (DATA, bytes.len(), *number),
            Self::Message(number, Message::Goodbye) => (GOODBYE, 0, *number),
            Self::Received(number) => (RECEIVED, 0, *number),
            Self::Abort => (ABORT, 0, 0),
            Self::Forgotten => (FORGOTTEN, 0, 0),
        };
        let mut header = [0; HEADER];
        header[0] = kind;
        // Longer messages are refused when they are sent.
        header[4..8].copy_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
        header[8..].copy_from_slice(&number.to_be_bytes());
        header
    }

    /// Reads the next frame.
    pub(super) fn read(stream: &mut impl Read) -> io::Result<Self> {
        let mut header = [0; HEADER];
        stream.read_exact(&mut header)?;
        let [kind, _, _, _, l0, l1, l2, l3, number @ ..] = header;
        let (length, number) = (u32::from_be_bytes([l0, l1, l2, l3]) as usize, u64::from_be_bytes(number));
        let invalid = |text| io::Error::new(io::ErrorKind::InvalidData, text);
        if length > MAX_MESSAGE || (length > 0 && kind != DATA) {
            return Err(invalid("the frame is too long"));
        }
        match kind {
            DATA => {
                // In one piece, past the buffer of the reader. Long memory is mapped when it is written, so what is
                // promised but not sent takes none.
                let mut bytes = vec![0; length];
                stream.read_exact(&mut bytes)?;
                Ok(Self::Message(number, Message::Data(bytes.into())))
            }
            GOODBYE => Ok(Self::Message(number, Message::Goodbye)),
            RECEIVED => Ok(Self::Received(number)),
            ABORT => Ok(Self::Abort),
            FORGOTTEN => Ok(Self::Forgotten),
            _ => Err(invalid("the frame is of an unknown kind")),
        }
    }
}

/// Writes frames with as few calls as possible and without copying messages.
pub(super) fn write_frames(stream: &mut impl Write, frames: &[Frame]) -> io::Result<()> {
    let headers: Vec<_> = frames.iter().map(Frame::header).collect();
    let mut slices = Vec::with_capacity(2 * frames.len());
    for (header, frame) in headers.iter().zip(frames) {
        slices.push(IoSlice::new(header));
        if let Frame::Message(_, Message::Data(bytes)) = frame
            && !bytes.is_empty()
        {
            slices.push(IoSlice::new(bytes));
        }
    }
    let mut rest = slices.as_mut_slice();
    while !rest.is_empty() {
        match stream.write_vectored(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut rest, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes seven bytes at a time.
    struct Narrow(Vec<u8>);

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(7);
            self.0.extend_from_slice(&bytes[..count]);
            Ok(count)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn frames_come_back_as_they_were_written() {
        let frames = [
            Frame::Message(1, Message::Data(Bytes::from_static(b"some bytes"))),
            Frame::Message(2, Message::Data(Bytes::new())),
            Frame::Received(u64::MAX),
            Frame::Message(3, Message::Goodbye),
            Frame::Abort,
            Frame::Forgotten,
        ];
        let mut stream = Narrow(Vec::new());
        write_frames(&mut stream, &frames).unwrap();
        let mut rest = stream.0.as_slice();
        for frame in frames {
            assert_eq!(Frame::read(&mut rest).unwrap(), frame);
        }
        assert!(rest.is_empty());
    }

    #[test]
    fn malformed_and_truncated_frames_are_refused() {
        let mut stream = Vec::new();
        write_frames(&mut stream, &[Frame::Message(1, Message::Data(Bytes::from_static(b"some bytes")))]).unwrap();
        for length in 0..stream.len() {
            assert!(Frame::read(&mut &stream[..length]).is_err());
        }
        stream[0] = 9;
        assert!(Frame::read(&mut stream.as_slice()).is_err());
        stream[0] = DATA;
        stream[4] = 0xff;
        assert!(Frame::read(&mut stream.as_slice()).is_err());
        assert!(read_json::<Answer>(&mut [0xff; 8].as_slice()).is_err());
    }
}
