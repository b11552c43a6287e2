//! The IO traits of the futures crates on streams.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use futures_io::{AsyncRead, AsyncWrite};

use super::{lease::SecondaryStream, ranges::RangeWriter, recv::RecvStream, stream, stream::SendStream};

impl AsyncRead for RecvStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        Self::poll_read(self.get_mut(), cx, buf).map_err(io::Error::from)
    }
}

macro_rules! async_write {
    ($name:ty, $close:expr) => {
        impl AsyncWrite for $name {
            fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
                stream::poll_slice(self.get_mut(), cx, buf).map_err(io::Error::from)
            }

            fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }

            fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                let close: fn(&mut Self) -> Result<(), _> = $close;
                Poll::Ready(close(self.get_mut()).map_err(io::Error::from))
            }
        }
    };
}

async_write!(SendStream, |stream| stream.finish());
async_write!(SecondaryStream, |stream| stream.finish());
async_write!(RangeWriter, |writer| writer.check_complete());
