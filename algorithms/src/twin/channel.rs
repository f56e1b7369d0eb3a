//! One direction-pair of numbered messages with a twin, over however many connections it takes.
//!
//! Sender-based message logging (Johnson and Zwaenepoel, FTCS 1987): what was sent is kept, so that a twin that starts
//! over can be given everything again, and what it sends again is told from what is new by its number. No IO here.

use std::collections::VecDeque;

use super::frame::{Frame, Message};

/// After how many received bytes the sender is told, at the latest.
const REPORT_BYTES: usize = 256 * 1024;

/// How long sent messages are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replay {
    /// For the life of the run: a twin that starts over gets all of them again.
    Whole,
    /// Until they are received: lost connections are made up for, but a twin that starts over is not. For bulk.
    Connection,
}

/// Messages that a twin needs are kept no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Forgotten;

/// A number that leaves a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gap;

#[derive(Debug)]
pub(super) struct Channel {
    replay: Replay,
    /// The kept messages; the first one has number `first`.
    log: VecDeque<Message>,
    first: u64,
    kept_bytes: usize,
    /// The number of the next message for the current connection.
    cursor: u64,
    /// The other side has all messages up to this number.
    acknowledged: u64,
    /// The number of the last message that came.
    received: u64,
    /// The last number that the other side was told, or is about to be.
    reported: u64,
    unreported_bytes: usize,
}

impl Channel {
    pub(super) fn new(replay: Replay) -> Self {
        Self {
            replay,
            log: VecDeque::new(),
            first: 1,
            kept_bytes: 0,
            cursor: 1,
            acknowledged: 0,
            received: 0,
            reported: 0,
            unreported_bytes: 0,
        }
    }

    /// Adds a message to be sent.
    pub(super) fn push(&mut self, message: Message) {
        self.kept_bytes += message.len();
        self.log.push_back(message);
        self.forget();
    }

    /// The number of the last message added.
    fn last(&self) -> u64 {
        self.first + self.log.len() as u64 - 1
    }

    /// A new connection to a twin that has all messages up to `their_received` and was told that its own came up to
    /// `told`.
    pub(super) fn connected(&mut self, their_received: u64, told: u64) -> Result<(), Forgotten> {
        if self.has_forgotten(their_received) {
            return Err(Forgotten);
        }
        // More than was sent: this side started over, and its first messages need not be sent again.
        self.cursor = their_received.saturating_add(1);
        self.acknowledged = their_received;
        self.reported = told;
        // What came meanwhile over the old connection is reported at once.
        self.unreported_bytes = if told < self.received { REPORT_BYTES } else { 0 };
        self.forget();
        Ok(())
    }

    /// Whether a twin that has all messages up to `their_received` needs some that are not kept.
    pub(super) fn has_forgotten(&self, their_received: u64) -> bool {
        their_received.saturating_add(1) < self.first
    }

    /// Whether the other side should be told how far its messages came.
    pub(super) fn must_report(&self) -> bool {
        self.reported < self.received && self.unreported_bytes >= REPORT_BYTES
    }

    /// The next frame for the current connection.
    pub(super) fn next(&mut self) -> Option<Frame> {
        if self.must_report() {
            return Some(self.report());
        }
        let index = self.cursor.checked_sub(self.first).and_then(|index| usize::try_from(index).ok())?;
        let message = self.log.get(index)?.clone();
        self.cursor += 1;
        Some(Frame::Message(self.cursor - 1, message))
    }

    /// Tells the other side how far its messages came.
    pub(super) fn report(&mut self) -> Frame {
        self.reported = self.received;
        self.unreported_bytes = 0;
        Frame::Received(self.received)
    }

    /// Takes a message that came; `None` when it came before.
    pub(super) fn message(&mut self, number: u64, message: Message) -> Result<Option<Message>, Gap> {
        if number > self.received + 1 {
            return Err(Gap);
        }
        if number <= self.received {
            return Ok(None);
        }
        self.received = number;
        // The other side waits for the answer to its goodbye.
        let weight = if message == Message::Goodbye { REPORT_BYTES } else { message.len() };
        self.unreported_bytes = self.unreported_bytes.saturating_add(weight);
        Ok(Some(message))
    }

    /// The other side has all messages up to this number.
    pub(super) fn acknowledge(&mut self, number: u64) {
        // Nobody can have what was not sent.
        self.acknowledged = self.acknowledged.max(number.min(self.cursor - 1));
        self.forget();
    }

    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// Whether the other side has all that was added.
    pub(super) fn is_delivered(&self) -> bool {
        self.acknowledged >= self.last()
    }

    pub(super) fn kept_bytes(&self) -> usize {
        self.kept_bytes
    }

    fn forget(&mut self) {
        if self.replay == Replay::Whole {
            return;
        }
        while self.first <= self.acknowledged
            && let Some(message) = self.log.pop_front()
        {
            self.kept_bytes -= message.len();
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn data(number: u64) -> Message {
        Message::Data(format!("message {number}").into())
    }

    /// What may happen between two twins.
    #[derive(Debug, Clone, Copy)]
    enum Step {
        /// Side adds a message.
        Push(usize),
        /// Up to so many frames pass from a side.
        Pass(usize, usize),
        /// The connection breaks; what is under way is lost.
        Cut,
        /// A side starts over.
        Restart(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let side = 0..2_usize;
        proptest::collection::vec(
            prop_oneof![
                4 => side.clone().prop_map(Step::Push),
                4 => (side.clone(), 1..5_usize).prop_map(|(side, count)| Step::Pass(side, count)),
                1 => Just(Step::Cut),
                1 => side.prop_map(Step::Restart),
            ],
            0..80,
        )
    }

    struct Side {
        channel: Channel,
        pushed: u64,
        got: Vec<Message>,
    }

    impl Side {
        fn new(replay: Replay) -> Self {
            Self { channel: Channel::new(replay), pushed: 0, got: Vec::new() }
        }

        fn push(&mut self) {
            self.pushed += 1;
            self.channel.push(data(self.pushed));
        }

        fn take(&mut self, frame: Frame) {
            match frame {
                Frame::Message(number, message) => self.got.extend(self.channel.message(number, message).unwrap()),
                Frame::Received(number) => self.channel.acknowledge(number),
                Frame::Abort | Frame::Forgotten => unreachable!(),
            }
        }
    }

    fn connect(sides: &mut [Side; 2]) -> Result<(), Forgotten> {
        let received = [sides[0].channel.received(), sides[1].channel.received()];
        sides[0].channel.connected(received[1], received[0])?;
        sides[1].channel.connected(received[0], received[1])
    }

    fn pass(sides: &mut [Side; 2], from: usize, count: usize) {
        for _ in 0..count {
            let Some(frame) = sides[from].channel.next() else { return };
            sides[1 - from].take(frame);
        }
    }

    fn play(steps: &[Step], replay: Replay) -> [Side; 2] {
        let mut sides = [Side::new(replay), Side::new(replay)];
        let mut most = [0, 0];
        connect(&mut sides).unwrap();
        for step in steps {
            match *step {
                Step::Push(side) => sides[side].push(),
                Step::Pass(side, count) => pass(&mut sides, side, count),
                Step::Cut => {
                    // Frames that were taken from the channel but did not arrive.
                    for side in &mut sides {
                        let _lost = (side.channel.next(), side.channel.next());
                    }
                    connect(&mut sides).unwrap();
                }
                Step::Restart(_) if replay == Replay::Connection => {}
                Step::Restart(side) => {
                    most[side] = most[side].max(sides[side].pushed);
                    sides[side] = Side::new(replay);
                    connect(&mut sides).unwrap();
                }
            }
        }
        // The algorithm is the same in every attempt, so it comes as far as it was, at least.
        for (side, most) in sides.iter_mut().zip(most) {
            while side.pushed < most {
                side.push();
            }
        }
        while let Some(frame) = sides[0].channel.next() {
            sides[1].take(frame);
        }
        while let Some(frame) = sides[1].channel.next() {
            sides[0].take(frame);
        }
        sides
    }

    proptest! {
        #[test]
        fn every_message_arrives_once_and_in_order(steps in steps(), whole in any::<bool>()) {
            let sides = play(&steps, if whole { Replay::Whole } else { Replay::Connection });
            for (side, other) in [(0, 1), (1, 0)] {
                let expected: Vec<_> = (1..=sides[other].pushed).map(data).collect();
                prop_assert_eq!(&sides[side].got, &expected);
            }
        }
    }

    #[test]
    fn acknowledged_bulk_is_forgotten_and_then_missed() {
        let mut sides = [Side::new(Replay::Connection), Side::new(Replay::Connection)];
        connect(&mut sides).unwrap();
        sides[0].push();
        pass(&mut sides, 0, 1);
        assert!(!sides[0].channel.is_delivered());
        let report = sides[1].channel.report();
        sides[0].take(report);
        assert!(sides[0].channel.is_delivered());
        assert_eq!(sides[0].channel.kept_bytes(), 0);
        sides[1] = Side::new(Replay::Connection);
        assert_eq!(connect(&mut sides), Err(Forgotten));
    }

    #[test]
    fn a_gap_is_noticed_and_a_goodbye_is_answered_at_once() {
        let mut channel = Channel::new(Replay::Whole);
        channel.connected(0, 0).unwrap();
        assert_eq!(channel.message(2, data(2)), Err(Gap));
        channel.message(1, Message::Goodbye).unwrap();
        assert_eq!(channel.next(), Some(Frame::Received(1)));
        assert_eq!(channel.next(), None);
    }
}
