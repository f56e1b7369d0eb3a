//! What carries packets or bytes between a run and its twins.
//!
//! Whatever the carrier, an algorithm sees its twins at the same addresses (contract D.7), and each stream was admitted
//! to its mesh before a carrier gets it. [`Splice`] carries TCP connections over twin streams and needs no privilege and
//! no TUN device.

use std::{future::Future, io};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};

use crate::stream::TwinStream;

/// How much is held per direction between two sockets: about what a LAN takes in a millisecond at 1 Gbit/s.
const BUFFER_BYTES: usize = 128 * 1024;

/// The end of a connection at the run's side.
pub trait RunSocket: AsyncRead + AsyncWrite + Unpin + Send {
    /// Makes the coming close a reset where the socket knows the difference, so that the run does not take a broken
    /// connection for a finished one.
    fn reset_on_close(&mut self);
}

impl RunSocket for TcpStream {
    fn reset_on_close(&mut self) {
        if let Err(error) = self.set_zero_linger() {
            tracing::debug!(%error, "a connection to a run will be closed, not reset");
        }
    }
}

impl RunSocket for UnixStream {
    fn reset_on_close(&mut self) {}
}

/// How many bytes a carrier moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// From the run to its twin.
    pub sent: u64,
    /// From the twin to the run.
    pub received: u64,
}

/// A way to carry what runs say to each other.
pub trait Carrier: Send + Sync {
    /// The name by which status and configuration call it.
    fn name(&self) -> &'static str;

    /// Carries one connection until both sides have finished, or either is lost; then the other learns of it.
    ///
    /// # Errors
    ///
    /// The error of the side that was lost.
    fn carry(&self, run: impl RunSocket, twin: TwinStream) -> impl Future<Output = io::Result<Carried>> + Send;
}

/// Copies the bytes of each TCP connection into a twin stream of its own, and back.
#[derive(Clone, Copy, Debug, Default)]
pub struct Splice;

impl Carrier for Splice {
    fn name(&self) -> &'static str {
        "splice"
    }

    async fn carry(&self, mut run: impl RunSocket, twin: TwinStream) -> io::Result<Carried> {
        match splice(&mut run, twin).await {
            Ok((sent, received)) => Ok(Carried { sent, received }),
            Err(error) => {
                run.reset_on_close();
                Err(error)
            }
        }
    }
}

/// Copies both ways until both sides have finished. When one finishes, the other is told so and may go on.
///
/// Returns the bytes copied from `a` to `b` and from `b` to `a`.
///
/// # Errors
///
/// The first error of either side; both are then dropped, which resets a [`TwinStream`].
pub async fn splice(
    mut a: impl AsyncRead + AsyncWrite + Unpin,
    mut b: impl AsyncRead + AsyncWrite + Unpin,
) -> io::Result<(u64, u64)> {
    tokio::io::copy_bidirectional_with_sizes(&mut a, &mut b, BUFFER_BYTES, BUFFER_BYTES).await
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn one_side_may_finish_while_the_other_goes_on() {
        let (mut client, left) = duplex(64);
        let (right, mut server) = duplex(64);
        let copying = tokio::spawn(splice(left, right));
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut question = String::new();
        server.read_to_string(&mut question).await.unwrap();
        server.write_all(b"a longer answer").await.unwrap();
        server.shutdown().await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!((question.as_str(), answer.as_str()), ("question", "a longer answer"));
        assert_eq!(copying.await.unwrap().unwrap(), (8, 15));
    }
}
