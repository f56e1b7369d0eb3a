//! What a run printed, in a file of bounded size: the beginning and the end.

use std::{collections::VecDeque, fs::File, io, os::unix::fs::FileExt as _};

/// Writes the first half of what is allowed as it comes, and keeps the last half to be written now and then.
pub(super) struct Log {
    file: File,
    half_bytes: usize,
    head_bytes: usize,
    tail: VecDeque<u8>,
    omitted_bytes: u64,
    is_flushed: bool,
}

impl Log {
    pub(super) fn new(file: File, limit_bytes: u64) -> Self {
        let half_bytes = usize::try_from(limit_bytes / 2).unwrap_or(usize::MAX);
        Self { file, half_bytes, head_bytes: 0, tail: VecDeque::new(), omitted_bytes: 0, is_flushed: true }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (head, tail) = bytes.split_at(bytes.len().min(self.half_bytes - self.head_bytes));
        if !head.is_empty() {
            self.file.write_all_at(head, self.head_bytes as u64)?;
            self.head_bytes += head.len();
        }
        if !tail.is_empty() {
            self.is_flushed = false;
            self.tail.extend(tail);
            let excess = self.tail.len().saturating_sub(self.half_bytes);
            self.tail.drain(..excess);
            self.omitted_bytes += excess as u64;
        }
        Ok(())
    }

    /// Brings the file up to date.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if self.is_flushed {
            return Ok(());
        }
        let mut end = Vec::with_capacity(self.tail.len() + 64);
        if self.omitted_bytes > 0 {
            end.extend_from_slice(format!("\n[{} bytes omitted]\n", self.omitted_bytes).as_bytes());
        }
        let (front, back) = self.tail.as_slices();
        end.extend_from_slice(front);
        end.extend_from_slice(back);
        self.file.write_all_at(&end, self.head_bytes as u64)?;
        self.file.set_len((self.head_bytes + end.len()) as u64)?;
        self.is_flushed = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn a_long_log_keeps_its_beginning_and_its_end() {
        let mut file = tempfile::tempfile().unwrap();
        let mut log = Log::new(file.try_clone().unwrap(), 20);
        for word in ["beginning ", "which ", "is ", "followed ", "by ", "too ", "much ", "before ", "the ", "end"] {
            log.push(word.as_bytes()).unwrap();
            log.flush().unwrap();
        }
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "beginning \n[34 bytes omitted]\nre the end");
    }

    #[test]
    fn a_short_log_is_kept_whole() {
        let mut file = tempfile::tempfile().unwrap();
        let mut log = Log::new(file.try_clone().unwrap(), 20);
        log.push(b"fifteen letters").unwrap();
        log.flush().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "fifteen letters");
    }
}
