//! haul: bulk sync and transfer between directories and S3 buckets.
//!
//! ```text
//! scan(source) ─┐
//!               ├─> plan: merge join ─> resolve (hash, HEAD) ─> execute ─> guard ─> deletes
//! scan(target) ─┘      (pure)               (bounded)              │
//!                                                                  └──> events
//! ```
//!
//! Both sides are streams in key order, merged into actions; nothing holds a whole tree. Every
//! object that is written carries its BLAKE3; every file that is fetched is verified before it gets
//! its name.
//!
//! # From a script
//!
//! Connect with an endpoint and keys, from the environment or a key file ([`KeyFile::read`]), never
//! from the code:
//!
//! ```
//! use haul::{Bucket, Connection, Control, Credentials, Endpoint, Job, Place};
//! use std::sync::Arc;
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! # let variable = |name: &str| std::env::var(name).expect("run by `make test`");
//! # let (endpoint_url, folder) = (variable("HAUL_TEST_SEAWEED"), tempfile::tempdir()?);
//! # let (access_key, secret_key) = (variable("HAUL_TEST_ACCESS_KEY"), variable("HAUL_TEST_SECRET_KEY"));
//!
//! let credentials = Credentials::new(&access_key, &secret_key, None)?;
//! let endpoint = Endpoint::connect(&Connection::new(Some(endpoint_url), credentials))?;
//!
//! // All buckets.
//! endpoint.create_bucket("haul-guide").await?;
//! let buckets = endpoint.list_buckets().await?;
//! assert!(buckets.iter().any(|bucket| bucket.name == "haul-guide"));
//!
//! // Upload a file, download an object, load one into memory, delete one.
//! let bucket: Arc<dyn Bucket> = endpoint.bucket("haul-guide");
//! let (file, copy) = (folder.path().join("data.csv"), folder.path().join("copy.csv"));
//! std::fs::write(&file, "1,2,3\n")?;
//! let unwatched = Control::default();
//! haul::upload_file(&bucket, &file, "run1/data.csv", &unwatched).await?;
//! haul::download_file(&bucket, "run1/data.csv", &copy, &unwatched).await?;
//! assert_eq!(std::fs::read(&copy)?, b"1,2,3\n");
//! assert_eq!(haul::read_object(&bucket, "run1/data.csv").await?, &b"1,2,3\n"[..]);
//! haul::delete_object(&bucket, "run1/data.csv").await?;
//!
//! // Mirror a directory. The second run finds nothing to do.
//! let job = Job::new(Place::directory(folder.path()), Place::bucket(bucket.clone(), "mirror"));
//! assert_eq!(haul::run(&job, &unwatched).await?.transferred, 2);
//! assert_eq!(haul::run(&job, &unwatched).await?.transferred, 0);
//! # for key in ["mirror/data.csv", "mirror/copy.csv"] {
//! #     haul::delete_object(&bucket, key).await?;
//! # }
//! # endpoint.delete_bucket("haul-guide").await?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A [`Control`] says who watches a run ([`Observer`]) and who may stop it ([`Stop`]). A store that
//! is no S3 implements [`Bucket`]. Everything runs on the caller's tokio runtime, best on one of a
//! single thread: reading, hashing and writing go to its blocking threads.

#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod bucket;
pub mod catalog;
pub mod entry;
pub mod error;
pub mod event;
pub mod fingerprint;
pub mod job;
pub mod key;
pub mod location;
pub mod object;
pub mod plan;
pub mod scan;

mod execute;
mod hash;
mod manifest;
mod route;
mod run;
mod stop;
mod tree;

pub use bucket::{
    Bandwidth, Bucket, BucketInfo, Concurrency, Connection, Credentials, Endpoint, KeyFile,
    Signing, Trust,
};
pub use entry::Entry;
pub use error::{Error, ErrorKind, Result};
pub use event::{Control, Deed, Event, Observer, Outcome, Summary};
pub use fingerprint::part_bytes;
pub use job::{Afterwards, Effect, Job, Place};
pub use key::Key;
pub use location::Location;
pub use manifest::manifest;
pub use object::{
    copy_object, delete_object, download_file, move_file, move_object, move_to_file, object_info,
    read_object, stream_object, upload_file, upload_stream,
};
pub use plan::Action;
pub use plan::compare::CompareBy;
pub use plan::guard::{Allowed, MaxDelete};
pub use run::run;
pub use scan::{Filter, FilterBuilder};
pub use stop::Stop;
