//! haul: bulk sync and transfer between directories and S3 buckets.
//!
//! ```text
//! scan(source) ─┐
//!               ├─> plan: merge join ─> resolve (hash, HEAD) ─> execute ─> guard ─> deletes
//! scan(target) ─┘      (pure)               (bounded)              │
//!                                                                  └──> events
//! ```
//!
//! Both sides are streams in key order, merged into actions; nothing holds a whole tree. Every object
//! that is written carries its BLAKE3; every file that is fetched is verified before it gets its name.

pub mod bucket;
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
mod route;
mod run;
mod stop;
mod tree;

pub use bucket::{Bucket, BucketInfo, Connection, Credentials, Endpoint, KeyFile};
pub use entry::Entry;
pub use error::{Error, ErrorKind, Result};
pub use event::{Control, Deed, Event, Observer, Outcome, Summary};
pub use fingerprint::part_bytes;
pub use job::{Afterwards, Effect, Job, Place};
pub use key::Key;
pub use location::Location;
pub use object::{
    copy_object, delete_object, download_file, read_object, stream_object, upload_file,
    upload_stream,
};
pub use plan::Action;
pub use plan::compare::CompareBy;
pub use plan::guard::{Allowed, MaxDelete};
pub use run::run;
pub use scan::{Filter, FilterBuilder};
pub use stop::Stop;
