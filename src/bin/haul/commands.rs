//! The commands: each turns its arguments into calls of the library, and answers an exit code.

mod cp;
mod listing;
mod past;
mod sync;
mod uploads;

use crate::args::Global;
use crate::settings;
use haul::{Bucket, Endpoint, Error, ErrorKind, Result, Stop};
use std::io::Write;
use std::sync::Arc;

/// What all commands have at hand.
pub struct Session {
    global: Global,
    stop: Stop,
}

impl Session {
    pub fn new(global: Global, stop: Stop) -> Self {
        Self { global, stop }
    }

    fn endpoint(&self) -> Result<Endpoint> {
        settings::connect(&self.global)
    }

    /// The bucket that `url` is in, and the path in it.
    fn open(&self, url: &str) -> Result<(Arc<dyn Bucket>, String)> {
        let (bucket, path) = settings::object(url)?;
        Ok((self.endpoint()?.bucket(&bucket), path))
    }

    /// As [`Session::open`], for a URL that must name an object.
    fn open_object(&self, url: &str) -> Result<(Arc<dyn Bucket>, String)> {
        match self.open(url)? {
            (_, path) if path.is_empty() => {
                let cause = "give s3://BUCKET/KEY";
                Err(Error::new(ErrorKind::Usage, format!("bad URL `{url}`"), cause))
            }
            // `dir/` is an object of its own: the marker of a directory.
            (bucket, path) if url.ends_with('/') => Ok((bucket, path + "/")),
            opened => Ok(opened),
        }
    }

    pub async fn mb(&self, url: &str) -> Result<u8> {
        let name = settings::bucket_only(url)?;
        self.endpoint()?.create_bucket(&name).await.map_err(starting)?;
        Ok(0)
    }

    /// SeaweedFS removes a bucket with all that is in it, so that we look first.
    pub async fn rb(&self, url: &str) -> Result<u8> {
        let name = settings::bucket_only(url)?;
        let endpoint = self.endpoint()?;
        let page = endpoint.bucket(&name).list_page(&haul::bucket::PageRequest::default()).await;
        if page.map_err(starting)?.objects.is_empty() {
            return endpoint.delete_bucket(&name).await.map(|()| 0);
        }
        let cause = format!("it is not empty; `haul rm -r s3://{name}` empties it");
        Err(Error::new(ErrorKind::Denied, format!("cannot remove s3://{name}"), cause))
    }

    pub async fn cat(&self, urls: &[String]) -> Result<u8> {
        for url in urls {
            let (bucket, key) = self.open_object(url)?;
            let mut stdout = tokio::io::stdout();
            let streamed = haul::stream_object(&bucket, &key, &mut stdout);
            match self.or_stop(streamed).await {
                // A reader that has gone has all that it wanted.
                Err(error) if error.kind() == ErrorKind::Closed => return Ok(0),
                outcome => outcome.map(drop)?,
            }
        }
        Ok(0)
    }

    /// `work`, unless a signal comes first.
    async fn or_stop<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.stop.requested() => {
                Err(Error::new(ErrorKind::Interrupted, "stopped", "by a signal"))
            }
            outcome = work => outcome.map_err(starting),
        }
    }
}

/// In a command that asks the server one thing, not to reach it is not to have started.
fn starting(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Network | ErrorKind::Hung | ErrorKind::Busy => error.into_setup(),
        _ => error,
    }
}

/// Prints a line of data. A reader that has gone, as in `haul ls | head`, is no error.
fn print_line(line: impl std::fmt::Display) -> Result<()> {
    let outcome = writeln!(std::io::stdout().lock(), "{line}");
    match outcome {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other.map_err(|e| Error::new(ErrorKind::Write, "cannot write to stdout", e)),
    }
}
