//! What earlier runs of this pair have left unfinished and nobody goes on with: uploads that the
//! catalog knows are aborted, temporary files removed. What others have begun is not haul's to end.

use crate::error::ErrorKind;
use crate::execute::{Context, blocking};
use crate::route::Route;
use crate::scan::Filter;

/// Clears up after a run that has succeeded: nothing that `filter` admits is left to be done, and
/// the `temporary` files at the target that no run holds are nobody's.
pub(super) async fn clear(
    context: &Context<'_>,
    route: &Route<'_>,
    filter: &Filter,
    temporary: Vec<String>,
) {
    if let Some(tree) = route.tree().cloned() {
        blocking(move || {
            for path in temporary {
                // One that another run writes stays, and so does one that can't be removed.
                let _ = tree.clear_temporary(&path);
            }
        })
        .await;
    }
    let catalog = context.unfinished.as_ref();
    let found = context.ask(catalog, |catalog| Ok((catalog.uploads()?, catalog.downloads()?)));
    let (uploads, downloads) = found.await;
    for upload in uploads {
        // Copies are noted by the object's key, and can't be gone on with.
        let is_ours = upload.content.is_none() || filter.admits(upload.key.as_str());
        if let Some(bucket) = route.target_bucket().filter(|_| is_ours) {
            context.give_up(bucket, &upload.object_key, &upload.id).await;
        }
    }
    let Some(tree) = route.tree().cloned() else { return };
    let stale: Vec<_> = downloads.into_iter().filter(|key| filter.admits(key.as_str())).collect();
    let cleared = context.ask(catalog, move |catalog| {
        let mut cleared = Ok(());
        for key in &stale {
            match tree.clear(key) {
                Err(error) if error.kind() != ErrorKind::Refused => cleared = Err(error),
                // Where no file can be is none of ours.
                Ok(()) | Err(_) => cleared = catalog.close_download(key).and(cleared),
            }
        }
        cleared
    });
    cleared.await;
}
