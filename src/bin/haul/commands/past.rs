//! `history` and `manifest`: what is remembered of past runs and of contents.

use super::{Session, print_line};
use crate::settings;
use crate::ui::Single;
use haul::catalog::{History, PastRun};
use haul::fingerprint::Blake3;
use haul::key::printable;
use haul::{Control, Error, ErrorKind, Result};
use indicatif::{HumanBytes, HumanCount};
use serde_json::{Value, json};

impl Session {
    pub fn history(&self, limit: usize) -> Result<u8> {
        let state = settings::state_directory(&self.global).ok_or_else(|| {
            let cause = "neither HOME nor XDG_STATE_HOME is set; give --state-dir DIR";
            Error::new(ErrorKind::Usage, "no history", cause)
        })?;
        for run in History::of(&state).last(limit)? {
            if self.global.json {
                print_line(as_json(&run))?;
            } else {
                as_text(&run).into_iter().try_for_each(print_line)?;
            }
        }
        Ok(0)
    }

    pub async fn manifest(&self, place: &str, checksum: bool) -> Result<u8> {
        let place = settings::place(place, &self.global, &mut None)?;
        let state = settings::state_directory(&self.global).filter(|_| !checksum);
        let face = Single::new(&self.global);
        let control = Control { observer: &face, stop: self.stop.clone(), state: None };
        let json = self.global.json;
        let mut each = |entry: &haul::Entry, blake3: Blake3| {
            let key = entry.key.as_str();
            if json {
                let blake3 = blake3.to_string();
                return print_line(json!({ "key": key, "bytes": entry.size, "blake3": blake3 }));
            }
            print_line(checksum_line(key, blake3))
        };
        let summary = haul::manifest(&place, state.as_deref(), &control, &mut each).await?;
        face.end();
        Ok(summary.exit_code())
    }
}

/// A line as `b3sum` writes it: a name with a backslash or a line break is escaped, and a backslash
/// before the hash says so.
fn checksum_line(key: &str, blake3: Blake3) -> String {
    if !key.contains(['\\', '\n', '\r']) {
        return format!("{blake3}  {key}");
    }
    let escaped = key.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r");
    format!("\\{blake3}  {escaped}")
}

/// How a run ended, or that it has not.
fn state(run: &PastRun) -> String {
    match (run.exit, run.runner.may_live()) {
        (Some(exit), _) => format!("exit {exit}"),
        (None, true) => "running".into(),
        (None, false) => "killed".into(),
    }
}

fn as_json(run: &PastRun) -> Value {
    json!({
        "command": run.command, "source": run.source, "target": run.target, "state": state(run),
        "started": run.runner.started, "ended": run.ended, "exit": run.exit,
        "host": run.runner.host, "pid": run.runner.pid, "counts": run.summary, "errors": run.errors,
    })
}

fn as_text(run: &PastRun) -> Vec<String> {
    let count = |name: &str| run.summary.get(name).and_then(Value::as_u64).unwrap_or(0);
    let mut line = format!(
        "{}  {:<7}  {} {} -> {}",
        run.runner.started,
        state(run),
        run.command,
        printable(&run.source),
        printable(&run.target)
    );
    let counts = ["transferred", "copied", "updated", "kept", "deleted", "spared", "failed"];
    let shown = counts.into_iter().map(|name| (name, count(name))).filter(|(_, n)| *n > 0);
    let shown: Vec<String> = shown.map(|(name, n)| format!("{} {name}", HumanCount(n))).collect();
    if !shown.is_empty() {
        line = format!("{line}: {} ({})", shown.join(", "), HumanBytes(count("bytes")));
    }
    let errors = run.errors.iter().map(|error| format!("    {}", printable(error)));
    std::iter::once(line).chain(errors).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_names_are_escaped_as_b3sum_does() {
        let hash = Blake3::of(b"");
        assert_eq!(checksum_line("a b", hash), format!("{hash}  a b"));
        assert_eq!(checksum_line("a\\b\nc\r", hash), format!("\\{hash}  a\\\\b\\nc\\r"));
    }
}
