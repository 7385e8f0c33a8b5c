//! The events of a run as JSON, one object a line.

use super::Style;
use haul::entry::Gap;
use haul::{Action, Key, Outcome, Summary};
use serde_json::json;

pub fn planned(action: &Action, style: Style) -> String {
    let line = |action: &str, key: &str, bytes: u64, reason: String| json!({ "event": "planned", "action": action, "key": key, "bytes": bytes, "reason": reason });
    match action {
        Action::Transfer { source, why, .. } => {
            line("transfer", source.key.as_str(), source.size, why.to_string())
        }
        Action::Copy { source, why, .. } => {
            line("copy", source.key.as_str(), source.size, why.to_string())
        }
        Action::Update { source, .. } => {
            line("update", source.key.as_str(), 0, "mtime or mode has changed".into())
        }
        Action::Delete { target } => line(
            if style == Style::Check { "extra" } else { "delete" },
            target.key.as_str(),
            target.size,
            "only at the target".into(),
        ),
        Action::Keep { key, by } => line("keep", key.as_str(), 0, by.to_string()),
        Action::Spare { target, cause } => {
            line("spare", target.key.as_str(), target.size, format!("source unreadable: {cause}"))
        }
        Action::Refuse { name, reason } => line("refuse", name, 0, reason.to_string()),
    }
    .to_string()
}

pub fn unread(gap: &Gap) -> String {
    json!({ "event": "unreadable", "key": gap.name(), "error": gap.cause() }).to_string()
}

pub fn disagreement(key: &Key, what: &str) -> String {
    json!({ "event": "disagreement", "key": key.as_str(), "error": what }).to_string()
}

pub fn finished(outcome: &Outcome) -> String {
    let (bytes, error) = match &outcome.result {
        Ok(bytes) => (Some(*bytes), None),
        Err(error) => (None, Some(error.to_string())),
    };
    json!({
        "event": "finished", "action": outcome.deed.name(), "key": outcome.key.as_str(),
        "bytes": bytes, "error": error, "verified": !outcome.unverified,
    })
    .to_string()
}

pub fn copied(source: &str, target: &str, bytes: u64) -> String {
    json!({ "event": "copied", "source": source, "target": target, "bytes": bytes }).to_string()
}

pub fn summary(summary: &Summary, exit: u8) -> String {
    json!({
        "event": "summary",
        "transferred": summary.transferred, "bytes": summary.bytes, "copied": summary.copied,
        "updated": summary.updated, "to_update": summary.to_update,
        "kept": summary.kept, "deleted": summary.deleted, "spared": summary.spared,
        "refused": summary.refused, "failed": summary.failed, "unreadable": summary.unreadable,
        "changed": summary.changed, "unverified": summary.unverified, "unknown": summary.unknown,
        "disagreements": summary.disagreements, "undeleted": summary.undeleted, "to_transfer": summary.to_transfer,
        "to_transfer_bytes": summary.to_transfer_bytes, "to_delete": summary.to_delete,
        "guard": summary.guard, "interrupted": summary.interrupted, "gave_up": summary.gave_up, "exit": exit,
    })
    .to_string()
}
