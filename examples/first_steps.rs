//! What a first script does with a store: connect, list buckets, upload a file, download an object,
//! load one into memory, delete one, sync a directory.
//!
//!     export AWS_ENDPOINT_URL=https://... AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=...
//!     cargo run --example first_steps
//!
//! It makes a bucket of its own, `haul-first-steps-PID`, and removes it at the end.

use haul::{Bucket, Connection, Control, Credentials, Endpoint, Job, Place};
use std::sync::Arc;

type Failure = Box<dyn std::error::Error>;

/// Keys come from the environment, or from a key file by `haul::KeyFile::read`; never from the
/// code.
fn connect() -> Result<Endpoint, Failure> {
    let access_key = std::env::var("AWS_ACCESS_KEY_ID")?;
    let secret_key = std::env::var("AWS_SECRET_ACCESS_KEY")?;
    let endpoint_url = std::env::var("AWS_ENDPOINT_URL")?;
    let credentials = Credentials::new(&access_key, &secret_key, None)?;
    Ok(Endpoint::connect(&Connection::new(Some(endpoint_url), credentials))?)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let endpoint = connect()?;
    let name = format!("haul-first-steps-{}", std::process::id());
    endpoint.create_bucket(&name).await?;
    for bucket in endpoint.list_buckets().await? {
        println!("bucket {} made {}", bucket.name, bucket.created);
    }

    let bucket: Arc<dyn Bucket> = endpoint.bucket(&name);
    let folder = tempfile::tempdir()?;
    let (file, copy) = (folder.path().join("hello.txt"), folder.path().join("copy.txt"));
    std::fs::write(&file, "Hello, store!\n")?;

    let unwatched = Control::default();
    haul::upload_file(&bucket, &file, "greetings/hello.txt", &unwatched).await?;
    haul::download_file(&bucket, "greetings/hello.txt", &copy, &unwatched).await?;
    println!("downloaded: {}", std::fs::read_to_string(&copy)?.trim());
    let content = haul::read_object(&bucket, "greetings/hello.txt").await?;
    println!("in memory: {} bytes", content.len());
    haul::delete_object(&bucket, "greetings/hello.txt").await?;

    let target = Place::bucket(Arc::clone(&bucket), "mirror");
    let job = Job::new(Place::directory(folder.path()), target);
    let first = haul::run(&job, &unwatched).await?;
    let second = haul::run(&job, &unwatched).await?;
    println!("synced {} files, then {}", first.transferred, second.transferred);

    for key in ["mirror/hello.txt", "mirror/copy.txt"] {
        haul::delete_object(&bucket, key).await?;
    }
    endpoint.delete_bucket(&name).await?;
    Ok(())
}
