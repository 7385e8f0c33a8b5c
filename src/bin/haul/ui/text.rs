//! Lines for people: plans, summaries.

use super::Style;
use haul::key::printable;
use haul::{Action, Error, ErrorKind, Key, Result, Summary};
use indicatif::{HumanBytes, HumanCount};
use std::io::{BufWriter, Seek, Write};
use std::time::Duration;

/// Lines that wait for their end: in memory, and past 1 MiB in a temporary file.
#[derive(Default)]
pub struct Lines(Option<BufWriter<tempfile::SpooledTempFile>>, Option<std::io::Error>);

const MEMORY_BYTES: usize = 1 << 20;

impl Lines {
    pub fn push(&mut self, line: &str) {
        let begin = || BufWriter::new(tempfile::spooled_tempfile(MEMORY_BYTES));
        let file = self.0.get_or_insert_with(begin);
        if let Err(error) = writeln!(file, "{line}") {
            self.1.get_or_insert(error);
        }
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Copies everything to stdout. A reader that has gone is no error; a plan that is not whole
    /// is.
    pub fn print(self) -> Result<()> {
        let fail = |e: std::io::Error| Error::new(ErrorKind::Write, "cannot print the plan", e);
        if let Some(error) = self.1 {
            return Err(fail(error));
        }
        let Some(file) = self.0 else { return Ok(()) };
        let mut file = file.into_inner().map_err(|e| fail(e.into_error()))?;
        let mut stdout = std::io::stdout().lock();
        match file.rewind().and_then(|()| std::io::copy(&mut file, &mut stdout)) {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(fail(error)),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

pub fn planned(action: &Action, style: Style) -> String {
    let checks = style == Style::Check;
    match action {
        Action::Transfer { source, why, .. } | Action::Copy { source, why, .. } => {
            let verb = match (checks, action) {
                (true, _) if *why == haul::plan::Why::Missing => "missing",
                (true, _) => "differs",
                (false, Action::Copy { .. }) => "copy",
                (false, _) => "transfer",
            };
            format!("{verb:<9} {}  ({}, {why})", source.key, HumanBytes(source.size))
        }
        Action::Update { source, .. } => {
            format!("{:<9} {}  (mtime or mode has changed)", "update", source.key)
        }
        Action::Delete { target } => {
            let verb = if checks { "extra" } else { "delete" };
            format!("{verb:<9} {}  ({}, only at the target)", target.key, HumanBytes(target.size))
        }
        Action::Keep { key, by } => format!("{:<9} {key}  ({by})", "keep"),
        Action::Spare { target, cause } => {
            format!("{:<9} {}  (the source could not be read there: {cause})", "spare", target.key)
        }
        Action::Refuse { name, reason } => {
            format!("{:<9} {}  ({reason})", "refuse", printable(name))
        }
    }
}

pub fn disagreement(key: &Key, what: &str) -> String {
    format!("{:<9} {key}  ({what})", "rotten")
}

/// What a stopped run has left, and how to go on.
pub fn left((files, bytes, is_all): (u64, u64, bool)) -> String {
    let least = if is_all { "" } else { "at least " };
    format!(
        "left: {least}{} ({}). Run the same command again to go on: what has arrived, parts of large \
         files included, is not moved again",
        HumanCount(files),
        HumanBytes(bytes)
    )
}

/// One line that adds up a run.
pub fn summary(summary: &Summary, style: Style, elapsed: Duration) -> String {
    let mut parts = Vec::new();
    let mut part = |count: u64, text: String| {
        if count > 0 {
            parts.push(text);
        }
    };
    let count = |count: u64| HumanCount(count).to_string();
    let s = summary;
    match style {
        Style::Run => {
            let transferred =
                format!("{} transferred ({})", count(s.transferred), HumanBytes(s.bytes));
            part(1, transferred);
            part(s.copied, format!("{} copied within the target", count(s.copied)));
            part(s.updated, format!("{} with new metadata", count(s.updated)));
        }
        Style::Plan | Style::Check => {
            let verb = if style == Style::Plan { "to transfer" } else { "missing or different" };
            let bytes = HumanBytes(s.to_transfer_bytes);
            part(1, format!("{} {verb} ({bytes})", count(s.to_transfer)));
            let verb = if style == Style::Plan { "to delete" } else { "only at the target" };
            part(s.to_delete, format!("{} {verb}", count(s.to_delete)));
            part(s.to_update, format!("{} to get new metadata", count(s.to_update)));
        }
    }
    part(1, format!("{} the same", count(s.kept)));
    part(s.deleted, format!("{} deleted", count(s.deleted)));
    part(s.spared, format!("{} spared (unreadable source)", count(s.spared)));
    part(s.refused, format!("{} refused", count(s.refused)));
    part(s.unreadable, format!("{} unreadable", count(s.unreadable)));
    part(s.changed, format!("{} changed while read", count(s.changed)));
    part(s.unknown, format!("{} of them with no comparable hash", count(s.unknown)));
    part(s.unverified, format!("{} with no hash to verify by", count(s.unverified)));
    part(s.disagreements, format!("{} ROTTEN", count(s.disagreements)));
    part(s.failed, format!("{} FAILED", count(s.failed)));
    part(s.undeleted, format!("{} not deleted because transfers failed", count(s.undeleted)));
    let mut line = parts.join(", ");
    line = format!("{line}; {:.1} s", elapsed.as_secs_f64());
    if s.interrupted {
        line.push_str("; STOPPED");
    }
    line
}
