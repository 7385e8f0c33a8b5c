//! `ls`, `du`, `stat` and `rm`: what is in a bucket, and less of it.

use super::{Session, print_line, starting};
use haul::bucket::{Listed, MAX_BATCH_KEYS, ObjectInfo, Page, PageRequest};
use haul::key::printable;
use haul::location::directory_prefix;
use haul::{Bucket, Error, ErrorKind, Result};
use indicatif::HumanBytes;
use serde_json::json;
use std::sync::Arc;

impl Session {
    pub async fn ls(&self, url: Option<&str>, recursive: bool, long: bool) -> Result<u8> {
        let Some(url) = url else {
            return self.ls_buckets().await;
        };
        let (bucket, path) = self.open(url)?;
        let prefix = directory_prefix(&path);
        let by_directory = !recursive;
        let mut pages = Pages::new(
            &bucket,
            PageRequest { prefix: prefix.clone(), by_directory, ..PageRequest::default() },
        );
        let mut any = false;
        while let Some(page) = self.or_stop(pages.next()).await? {
            any |= !page.objects.is_empty() || !page.prefixes.is_empty();
            for line in lines(page, &prefix, long, self.global.json) {
                print_line(line)?;
            }
        }
        if any || path.is_empty() {
            return Ok(0);
        }
        // Not a directory: perhaps an object.
        let info = self.or_stop(haul::object_info(&bucket, &path)).await.map_err(|error| {
            match error.kind() {
                ErrorKind::NotFound => Error::new(
                    ErrorKind::NotFound,
                    format!("cannot list {url}"),
                    "there is no such object or prefix",
                ),
                _ => error,
            }
        })?;
        let name = path.rsplit('/').next().unwrap_or(&path).len();
        let object = listed(&path, info);
        let line = object_line(&object, path.len() - name, long, self.global.json);
        print_line(line).map(|()| 0)
    }

    async fn ls_buckets(&self) -> Result<u8> {
        let endpoint = self.endpoint()?;
        for bucket in self.or_stop(endpoint.list_buckets()).await.map_err(Error::into_setup)? {
            if self.global.json {
                print_line(json!({ "bucket": bucket.name, "created": bucket.created }))?;
            } else {
                print_line(format_args!(
                    "{}  s3://{}",
                    printable(&bucket.created),
                    printable(&bucket.name)
                ))?;
            }
        }
        Ok(0)
    }

    pub async fn du(&self, url: &str) -> Result<u8> {
        let (bucket, path) = self.open(url)?;
        let prefix = directory_prefix(&path);
        let mut pages = Pages::new(&bucket, PageRequest { prefix, ..PageRequest::default() });
        let (mut objects, mut bytes) = (0, 0);
        while let Some(page) = self.or_stop(pages.next()).await? {
            objects += page.objects.len();
            bytes += page.objects.iter().map(|object| object.size).sum::<u64>();
        }
        if self.global.json {
            print_line(json!({ "url": url, "objects": objects, "bytes": bytes }))?;
        } else {
            print_line(format_args!(
                "{bytes} bytes ({}) in {objects} objects  {url}",
                HumanBytes(bytes)
            ))?;
        }
        Ok(0)
    }

    pub async fn stat(&self, url: &str) -> Result<u8> {
        let (bucket, key) = self.open_object(url)?;
        let info = self.or_stop(haul::object_info(&bucket, &key)).await?;
        if self.global.json {
            print_line(json!({
                "key": key, "size": info.size, "etag": info.etag.to_string(), "modified": info.modified,
                "content_type": info.content_type(), "metadata": info.metadata.0,
            }))?;
            return Ok(0);
        }
        print_line(format_args!("{}/{}", bucket.url(), printable(&key)))?;
        print_line(format_args!("  size          {} ({})", info.size, HumanBytes(info.size)))?;
        print_line(format_args!("  etag          {}", printable(&info.etag.to_string())))?;
        print_line(format_args!("  modified      {}", info.modified.as_deref().unwrap_or("-")))?;
        print_line(format_args!("  content-type  {}", info.content_type().unwrap_or("-")))?;
        for (name, value) in &info.metadata.0 {
            print_line(format_args!("  {:<13} {}", printable(name), printable(value)))?;
        }
        Ok(0)
    }

    pub async fn rm(&self, url: &str, recursive: bool, dry_run: bool) -> Result<u8> {
        if recursive {
            return self.rm_all(url, dry_run).await;
        }
        let (bucket, key) = self.open_object(url)?;
        self.or_stop(haul::object_info(&bucket, &key)).await.map_err(|error| {
            match error.kind() {
                ErrorKind::NotFound => {
                    let cause = "there is no such object (a prefix needs -r)";
                    Error::new(ErrorKind::NotFound, format!("cannot delete {url}"), cause)
                }
                _ => error,
            }
        })?;
        self.say_deleted(&bucket, &key, dry_run)?;
        if !dry_run {
            haul::delete_object(&bucket, &key).await?;
        }
        Ok(0)
    }

    async fn rm_all(&self, url: &str, dry_run: bool) -> Result<u8> {
        let (bucket, path) = self.open(url)?;
        let prefix = directory_prefix(&path);
        let mut pages = Pages::new(&bucket, PageRequest { prefix, ..PageRequest::default() });
        let (mut failed, mut any) = (false, false);
        while let Some(page) = self.or_stop(pages.next()).await? {
            let keys: Vec<String> = page.objects.into_iter().map(|object| object.key).collect();
            any |= !keys.is_empty();
            for key in &keys {
                self.say_deleted(&bucket, key, dry_run)?;
            }
            if dry_run {
                continue;
            }
            for batch in keys.chunks(MAX_BATCH_KEYS) {
                for (_, error) in self.or_stop(bucket.delete(batch)).await? {
                    crate::ui::note(&format!("haul: {error}"));
                    failed = true;
                }
            }
        }
        if !any && !path.is_empty() {
            let cause = "there is nothing below it";
            return Err(Error::new(ErrorKind::NotFound, format!("cannot delete {url}"), cause));
        }
        Ok(u8::from(failed))
    }

    fn say_deleted(&self, bucket: &Arc<dyn Bucket>, key: &str, dry_run: bool) -> Result<()> {
        let verb = if dry_run { "would delete" } else { "delete" };
        if self.global.json {
            return print_line(json!({ "event": verb.replace(' ', "_"), "key": key }));
        }
        if dry_run || !self.global.quiet {
            return print_line(format_args!("{verb} {}/{}", bucket.url(), printable(key)));
        }
        Ok(())
    }
}

/// The pages of a listing, one after the other.
struct Pages<'a> {
    bucket: &'a Arc<dyn Bucket>,
    request: Option<PageRequest>,
}

impl<'a> Pages<'a> {
    fn new(bucket: &'a Arc<dyn Bucket>, request: PageRequest) -> Self {
        Self { bucket, request: Some(request) }
    }

    async fn next(&mut self) -> Result<Option<Page>> {
        let Some(mut request) = self.request.take() else {
            return Ok(None);
        };
        let page = self.bucket.list_page(&request).await.map_err(starting)?;
        if page.next.is_some() && page.next != request.token {
            request.token.clone_from(&page.next);
            self.request = Some(request);
        }
        Ok(Some(page))
    }
}

fn listed(key: &str, info: ObjectInfo) -> Listed {
    let modified = info.modified.unwrap_or_default();
    Listed { key: key.to_owned(), size: info.size, etag: info.etag, modified, storage_class: None }
}

/// Prefixes and objects of a page, in one order.
fn lines(page: Page, prefix: &str, long: bool, json: bool) -> Vec<String> {
    let mut lines: Vec<(String, String)> = Vec::new();
    for directory in page.prefixes {
        let line = match (json, long) {
            (true, _) => json!({ "prefix": directory }).to_string(),
            (false, true) => {
                format!(
                    "{:>14}  {:<24}  {}",
                    "-",
                    "-",
                    printable(directory.get(prefix.len()..).unwrap_or(&directory))
                )
            }
            (false, false) => {
                printable(directory.get(prefix.len()..).unwrap_or(&directory)).into_owned()
            }
        };
        lines.push((directory, line));
    }
    for object in page.objects {
        let line = object_line(&object, prefix.len(), long, json);
        lines.push((object.key, line));
    }
    lines.sort();
    lines.into_iter().map(|(_, line)| line).collect()
}

fn object_line(object: &Listed, skip: usize, long: bool, json: bool) -> String {
    if json {
        return json!({
            "key": object.key, "size": object.size, "etag": object.etag.to_string(),
            "modified": object.modified, "storage_class": object.storage_class,
        })
        .to_string();
    }
    // The marker of the listed directory itself has no name of its own.
    let name = match object.key.get(skip..) {
        None | Some("") => "./",
        Some(name) => name,
    };
    match long {
        true => {
            let modified = printable(&object.modified);
            format!("{:>14}  {modified:<24}  {}", object.size, printable(name))
        }
        false => printable(name).into_owned(),
    }
}
