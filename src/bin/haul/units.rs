//! Sizes, rates and timetables as people write them.

use chrono::{DateTime, Local, Timelike};
use haul::Bandwidth;
use std::time::SystemTime;

/// Units of bytes: of a thousand, and of 1,024.
const UNITS: [(&str, u64); 9] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

/// Reads `64MiB`, `1.5GB`. The unit is never left out: nobody knows what 100 would be.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let help = || format!("`{text}` is no size; write a number and its unit, as in 64MiB or 1.5GB");
    let lower = text.trim().to_ascii_lowercase();
    let matches = |(unit, _): &&(&str, u64)| lower.ends_with(&unit.to_ascii_lowercase());
    let (unit, factor) = UNITS.iter().find(matches).ok_or_else(help)?;
    let number: f64 = lower[..lower.len() - unit.len()].trim().parse().map_err(|_| help())?;
    #[expect(clippy::cast_precision_loss, reason = "a factor of at most 10^12")]
    let bytes = number * *factor as f64;
    if !(1.0..9e18).contains(&bytes) {
        return Err(help());
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
    Ok(bytes as u64)
}

/// Reads a number of requests a second.
pub fn parse_rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    if rate > 0.0 && rate.is_finite() {
        Ok(rate)
    } else {
        Err("it must be more than nothing".into())
    }
}

/// How many bytes a second may pass, by the time of day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timetable {
    /// From this minute of the day on; none for as many as go. In order, at least one.
    rows: Vec<(u16, Option<u64>)>,
}

impl Timetable {
    /// Reads `10MB/s`, `off`, or rows as `08:00,10MB/s 19:00,off`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut rows: Vec<(u16, Option<u64>)> = match text.contains(',') {
            false => vec![(0, parse_limit(text)?)],
            true => text.split_whitespace().map(parse_row).collect::<Result<_, _>>()?,
        };
        rows.sort_by_key(|(minute, _)| *minute);
        if rows.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return Err(format!("`{text}` names one time twice"));
        }
        if rows.is_empty() {
            return Err("write 10MB/s, off, or rows as `08:00,10MB/s 19:00,off`".into());
        }
        Ok(Self { rows })
    }

    /// The limit at this minute of the day: that of the last row before it, which may be
    /// yesterday's.
    fn at(&self, minute: u16) -> Option<u64> {
        let row = self.rows.iter().rfind(|(from, _)| *from <= minute);
        row.or(self.rows.last()).and_then(|(_, limit)| *limit)
    }

    /// By the local time.
    pub fn into_bandwidth(self) -> Bandwidth {
        Bandwidth::at(move |time| self.at(minute_of_day(time)))
    }
}

fn minute_of_day(time: SystemTime) -> u16 {
    let local = DateTime::<Local>::from(time);
    u16::try_from(local.hour() * 60 + local.minute()).unwrap_or(0)
}

fn parse_row(text: &str) -> Result<(u16, Option<u64>), String> {
    let help = || format!("`{text}` is no row; write a time and a rate, as in 08:00,10MB/s");
    let (time, limit) = text.split_once(',').ok_or_else(help)?;
    let (hour, minute) = time.split_once(':').ok_or_else(help)?;
    let (hour, minute): (u16, u16) =
        (hour.parse().map_err(|_| help())?, minute.parse().map_err(|_| help())?);
    if hour > 23 || minute > 59 {
        return Err(help());
    }
    Ok((hour * 60 + minute, parse_limit(limit)?))
}

fn parse_limit(text: &str) -> Result<Option<u64>, String> {
    if text == "off" {
        return Ok(None);
    }
    let size = text.strip_suffix("/s").unwrap_or(text);
    parse_bytes(size).map(Some).map_err(|_| {
        format!(
            "`{text}` is no rate; write a number and its unit, as in 10MB/s or 500KiB/s, or off"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_need_their_unit() {
        assert_eq!(parse_bytes("64MiB"), Ok(64 << 20));
        assert_eq!(parse_bytes("1.5 GB"), Ok(1_500_000_000));
        assert_eq!(parse_bytes("10kb"), Ok(10_000));
        assert_eq!(parse_bytes("7B"), Ok(7));
        for odd in ["100", "", "MiB", "-1MB", "0MB", "1e30TB", "nanMB", "10Mbit"] {
            assert!(parse_bytes(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn a_timetable_goes_round_the_clock() {
        let timetable = Timetable::parse("19:00,off 08:00,10MB/s").unwrap();
        let at = |hour: u16, minute: u16| timetable.at(hour * 60 + minute);
        assert_eq!(at(8, 0), Some(10_000_000));
        assert_eq!((at(18, 59), at(19, 0)), (Some(10_000_000), None));
        assert_eq!(at(3, 0), None, "yesterday evening's");
        assert_eq!(Timetable::parse("1MiB/s").unwrap().at(3), Some(1 << 20));
        assert_eq!(Timetable::parse("off").unwrap().at(3), None);
    }

    #[test]
    fn bad_timetables_say_what_is_wrong() {
        for odd in ["10", "25:00,off", "8,off", "08:00,10", "08:00,off 08:00,1MB/s", ",", ""] {
            let error = Timetable::parse(odd).unwrap_err();
            assert!(error.contains("write") || error.contains("twice"), "{odd}: {error}");
        }
    }
}
