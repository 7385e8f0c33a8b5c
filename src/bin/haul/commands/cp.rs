//! `cp` and `mv`: one file or object, a stream, or with `-r` everything below.

use super::{Session, starting};
use crate::args::{Copy, Ends};
use crate::ui::Single;
use haul::{Afterwards, Bucket, Control, Error, ErrorKind, Location, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const STREAM: &str = "-";

/// One end of a single copy.
enum End {
    Stream,
    File(PathBuf),
    Object { bucket: Arc<dyn Bucket>, key: String },
}

impl Session {
    pub async fn cp(&self, copy: &Copy, afterwards: Afterwards) -> Result<u8> {
        let moves = afterwards == Afterwards::RemoveSource;
        if copy.recursive {
            let (source, target) = (copy.source.clone(), copy.target.clone());
            return self.transfer_all(&Ends { source, target }, afterwards).await;
        }
        if moves && (copy.source == STREAM || copy.target == STREAM) {
            return Err(usage("cannot move", "a stream can only be copied"));
        }
        let (source, target) = self.ends(copy)?;
        let single = Single::new(&self.global);
        let state = crate::settings::state_directory(&self.global);
        let control = Control { observer: &single, stop: self.stop.clone(), state };
        let bytes = match moves {
            true => self.move_one(&source, &target, &control).await,
            false => self.copy_one(&source, &target, &control).await,
        };
        let bytes = bytes.map_err(starting)?;
        single.done(&copy.source, &copy.target, bytes);
        Ok(0)
    }

    /// Both ends; a target that is a directory or a prefix takes the source's name.
    fn ends(&self, copy: &Copy) -> Result<(End, End)> {
        let endpoint = self.endpoint()?;
        let end = |text: &str| match (text, Location::parse(text)?) {
            (STREAM, _) => Ok(End::Stream),
            (_, Location::Local(path)) => Ok(End::File(path)),
            (_, Location::Bucket { bucket, path }) => {
                Ok(End::Object { bucket: endpoint.bucket(&bucket), key: path })
            }
        };
        let source = end(&copy.source)?;
        if let End::File(path) = &source
            && path.is_dir()
        {
            let what = format!("cannot copy {}", path.display());
            return Err(usage(&what, "it is a directory; use -r"));
        }
        let name = match &source {
            End::Stream => None,
            End::File(path) => Some(file_name(path)?),
            End::Object { key, .. } => key.rsplit('/').next().map(str::to_owned),
        };
        let is_directory = copy.target.ends_with('/');
        let target = match (end(&copy.target)?, name) {
            (End::Object { bucket, key }, Some(name)) if key.is_empty() || is_directory => {
                End::Object {
                    bucket,
                    key: format!("{}{name}", haul::location::directory_prefix(&key)),
                }
            }
            (End::File(path), Some(name)) if is_directory || path.is_dir() => {
                End::File(path.join(name))
            }
            (End::Object { key, .. }, None) if key.is_empty() || is_directory => {
                return Err(usage("bad target", "a stream needs a key, s3://BUCKET/KEY"));
            }
            (target, _) => target,
        };
        Ok((source, target))
    }

    async fn copy_one(&self, source: &End, target: &End, control: &Control<'_>) -> Result<u64> {
        match (source, target) {
            (End::Stream, End::Object { bucket, key }) => {
                haul::upload_stream(bucket, tokio::io::stdin(), key, control).await
            }
            (End::File(path), End::Object { bucket, key }) => {
                haul::upload_file(bucket, path, key, control).await
            }
            (End::Object { bucket, key }, End::Stream) => {
                let mut stdout = tokio::io::stdout();
                self.or_stop(haul::stream_object(bucket, key, &mut stdout)).await
            }
            (End::Object { bucket, key }, End::File(path)) => {
                haul::download_file(bucket, key, path, control).await.map_err(|e| hint(e, key))
            }
            (End::Object { bucket, key }, End::Object { bucket: to, key: to_key }) => {
                haul::copy_object(bucket, key, to, to_key, control).await.map_err(|e| hint(e, key))
            }
            (End::File(_) | End::Stream, End::File(_) | End::Stream) => Err(local()),
        }
    }

    /// The source goes only if it still is what was copied.
    async fn move_one(&self, source: &End, target: &End, control: &Control<'_>) -> Result<u64> {
        match (source, target) {
            (End::File(path), End::Object { bucket, key }) => {
                haul::move_file(bucket, path, key, control).await
            }
            (End::Object { bucket, key }, End::File(path)) => {
                haul::move_to_file(bucket, key, path, control).await.map_err(|e| hint(e, key))
            }
            (End::Object { bucket, key }, End::Object { bucket: to, key: to_key }) => {
                haul::move_object(bucket, key, to, to_key, control).await.map_err(|e| hint(e, key))
            }
            (End::Stream | End::File(_), _) | (_, End::Stream) => Err(local()),
        }
    }
}

/// The name that a file brings along.
fn file_name(path: &Path) -> Result<String> {
    let name = path.file_name().and_then(|name| name.to_str());
    let what = || format!("cannot copy {}", path.display());
    name.map(str::to_owned).ok_or_else(|| usage(&what(), "its name is not UTF-8, or no file's"))
}

fn local() -> Error {
    usage("cannot copy", "both ends are on this machine; use cp, mv or rsync")
}

fn usage(what: &str, cause: &str) -> Error {
    Error::new(ErrorKind::Usage, what, cause)
}

/// Who copies a prefix without `-r` is told so.
fn hint(error: Error, key: &str) -> Error {
    if error.kind() == ErrorKind::NotFound {
        let cause = "no such object (a prefix needs -r)";
        return Error::new(ErrorKind::NotFound, format!("cannot copy {key}"), cause);
    }
    error
}
