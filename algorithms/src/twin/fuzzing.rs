//! What another twin says, for those who throw anything at it.

use super::{
    channel::{Channel, Replay},
    frame::{Answer, Frame, Hello, Message, read_json, write_frames},
};

/// A connection: a greeting, then frames, as the two sides take them.
pub(crate) fn connection(bytes: &[u8]) {
    let mut rest = bytes;
    let hello = read_json::<Hello>(&mut rest);
    let _ = read_json::<Answer>(&mut { bytes });
    let mut channels = [Replay::Whole, Replay::Connection].map(Channel::new);
    for channel in &mut channels {
        channel.push(Message::Data(vec![0; 10].into()));
        let _ = channel.next();
        channel.push(Message::Goodbye);
        if let Ok(hello) = &hello {
            let _ = channel.has_forgotten(hello.received);
            let _ = channel.connected(hello.received, hello.received);
        }
    }
    // Without a greeting all of it is frames.
    let mut rest = if hello.is_ok() { rest } else { bytes };
    let mut frames = Vec::new();
    let mut length = 0;
    let start = rest;
    while let Ok(frame) = Frame::read(&mut rest) {
        length = start.len() - rest.len();
        for channel in &mut channels {
            take(channel, &frame);
        }
        frames.push(frame);
    }
    let mut written = Vec::new();
    let _ = write_frames(&mut written, &frames);
    assert_eq!(written.len(), length, "what is read is written again in as many bytes");
    let mut again = written.as_slice();
    for frame in frames {
        assert_eq!(Frame::read(&mut again).ok(), Some(frame), "and reads as it was");
    }
}

fn take(channel: &mut Channel, frame: &Frame) {
    let before = channel.received();
    match frame {
        Frame::Message(number, message) => {
            let taken = channel.message(*number, message.clone());
            let is_new = matches!(taken, Ok(Some(_)));
            assert_eq!(channel.received() - before, u64::from(is_new), "messages come one by one");
        }
        Frame::Received(number) => channel.acknowledge(*number),
        Frame::Abort | Frame::Forgotten => {}
    }
    let _ = (channel.must_report(), channel.is_delivered(), channel.kept_bytes());
    while channel.next().is_some() {}
}
