//! `uploads`: multipart uploads that were begun and neither completed nor aborted.

use super::{Session, print_line};
use haul::bucket::UploadInfo;
use haul::key::printable;
use haul::{Bucket, Result};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

impl Session {
    pub async fn list_uploads(&self, url: &str) -> Result<u8> {
        let (bucket, path) = self.open(url)?;
        let mut pages = Pages::below(&bucket, path);
        while let Some(uploads) = self.or_stop(pages.next()).await? {
            for upload in uploads {
                self.print_upload("", &bucket, &upload)?;
            }
        }
        Ok(0)
    }

    pub async fn abort_uploads(
        &self,
        url: &str,
        older_than: Option<Duration>,
        dry_run: bool,
    ) -> Result<u8> {
        let (bucket, path) = self.open(url)?;
        let mut pages = Pages::below(&bucket, path);
        let mut failed = false;
        while let Some(uploads) = self.or_stop(pages.next()).await? {
            for upload in uploads.iter().filter(|upload| is_older(upload, older_than)) {
                if !self.global.quiet {
                    self.print_upload(
                        if dry_run { "would abort " } else { "abort " },
                        &bucket,
                        upload,
                    )?;
                }
                if dry_run {
                    continue;
                }
                let aborted = self.or_stop(bucket.abort_upload(&upload.key, &upload.id)).await;
                if let Err(error) = aborted {
                    if self.stop.is_requested() {
                        return Err(error);
                    }
                    crate::ui::note(&format!("haul: {error}"));
                    failed = true;
                }
            }
        }
        Ok(u8::from(failed))
    }

    fn print_upload(
        &self,
        verb: &str,
        bucket: &Arc<dyn Bucket>,
        upload: &UploadInfo,
    ) -> Result<()> {
        let UploadInfo { key, id, initiated } = upload;
        if self.global.json {
            return print_line(json!({ "key": key, "upload": id, "initiated": initiated }));
        }
        let (key, id, begun) = (printable(key), printable(id), printable(initiated));
        print_line(format_args!("{verb}{begun:<24}  {}/{key}  {id}", bucket.url()))
    }
}

/// True where the upload was begun long enough ago; one of which that is not known was not.
fn is_older(upload: &UploadInfo, age: Option<Duration>) -> bool {
    let Some(age) = age else { return true };
    let begun = humantime::parse_rfc3339_weak(&upload.initiated).ok();
    let elapsed = begun.and_then(|begun| SystemTime::now().duration_since(begun).ok());
    elapsed.is_some_and(|elapsed| elapsed >= age)
}

/// The uploads of one key and of those below it, page by page.
struct Pages<'a> {
    bucket: &'a Arc<dyn Bucket>,
    path: String,
    next: Option<(String, String)>,
    is_over: bool,
}

impl<'a> Pages<'a> {
    fn below(bucket: &'a Arc<dyn Bucket>, path: String) -> Self {
        Self { bucket, path, next: None, is_over: false }
    }

    async fn next(&mut self) -> Result<Option<Vec<UploadInfo>>> {
        if self.is_over {
            return Ok(None);
        }
        let page = self.bucket.list_uploads(&self.path, self.next.as_ref()).await?;
        (self.is_over, self.next) = (page.next.is_none(), page.next);
        let is_below = |upload: &UploadInfo| {
            let rest = upload.key.strip_prefix(&self.path);
            rest.is_some_and(|rest| {
                self.path.is_empty() || rest.is_empty() || rest.starts_with('/')
            })
        };
        Ok(Some(page.uploads.into_iter().filter(is_below).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_to_be_old_is_old() {
        let day = Duration::from_hours(24);
        let ago = |time: Duration| {
            let initiated = humantime::format_rfc3339_millis(SystemTime::now() - time).to_string();
            UploadInfo { key: "k".into(), id: "1".into(), initiated }
        };
        assert!(is_older(&ago(8 * day), Some(7 * day)) && !is_older(&ago(6 * day), Some(7 * day)));
        let unknown = UploadInfo { initiated: "yesterday".into(), ..ago(day) };
        assert!(!is_older(&unknown, Some(day)) && is_older(&unknown, None));
    }
}
