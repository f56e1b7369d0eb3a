//! Server-sent events as the HTML standard describes them (section 9.2.6), without input or output.

/// A message longer than this is refused: events are small, so a longer one is an attack or another kind of server.
const MAX_MESSAGE_BYTES: usize = 1 << 20;

/// A message of the stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Message {
    /// The value of the last `event:` line.
    pub(super) event: String,
    /// The values of all `data:` lines.
    pub(super) data: String,
}

/// The error of a message that is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the event stream has a message of more than {MAX_MESSAGE_BYTES} bytes")]
pub(super) struct TooLong;

/// Cuts a stream of bytes into messages.
#[derive(Debug, Default)]
pub(super) struct Parser {
    line: Vec<u8>,
    /// Whether the last byte was a carriage return, after which a line feed belongs to the same line end.
    after_return: bool,
    message: Message,
}

impl Parser {
    /// Takes the next bytes and returns the messages they complete.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<Vec<Message>, TooLong> {
        let mut messages = Vec::new();
        for &byte in bytes {
            let after_return = std::mem::replace(&mut self.after_return, byte == b'\r');
            match byte {
                b'\n' if after_return => {}
                b'\n' | b'\r' => messages.extend(self.end_line()),
                byte => self.line.push(byte),
            }
            if self.line.len() + self.message.data.len() > MAX_MESSAGE_BYTES {
                return Err(TooLong);
            }
        }
        Ok(messages)
    }

    fn end_line(&mut self) -> Option<Message> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            let mut message = std::mem::take(&mut self.message);
            return message.data.pop().map(|_| message);
        }
        let line = String::from_utf8_lossy(&line);
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.message.event = value.into(),
            "data" => {
                self.message.data.push_str(value);
                self.message.data.push('\n');
            }
            // Comments (an empty field) keep the link alive; `id` stands in the data too; `retry` is ours to decide.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(event: &str, data: &str) -> Message {
        Message { event: event.into(), data: data.into() }
    }

    #[test]
    fn fields_comments_and_line_ends_read_as_the_standard_says() {
        let text = b": alive\n\nid: 4\nevent: hello\ndata: {\r\ndata:}\r\n\r\nevent: lost\n\ndata: x\r\rdata: cut";
        let messages = Parser::default().push(text).unwrap();
        assert_eq!(messages, [message("hello", "{\n}"), message("", "x")]);
    }

    #[test]
    fn an_endless_message_is_refused() {
        let mut parser = Parser::default();
        let line = format!("data: {}\n", "x".repeat(1024));
        let outcome = (0..2000).try_for_each(|_| parser.push(line.as_bytes()).map(drop));
        assert_eq!(outcome, Err(TooLong));
    }

    proptest! {
        #[test]
        fn cuts_between_chunks_do_not_matter(text in "(data|event|id|:| |x|\r|\n){0,60}", cuts in prop::collection::vec(1..5_usize, 60)) {
            let whole = Parser::default().push(text.as_bytes()).unwrap();
            let mut parser = Parser::default();
            let mut rest = text.as_bytes();
            let mut parts = Vec::new();
            for cut in cuts {
                let (chunk, after) = rest.split_at(cut.min(rest.len()));
                parts.extend(parser.push(chunk).unwrap());
                rest = after;
            }
            parts.extend(parser.push(rest).unwrap());
            prop_assert_eq!(whole, parts);
        }
    }
}
