//! What is remembered of the two places themselves: what the source is on, whether their listings
//! are in order, and where these can be cut.

use super::{Catalog, Side, set_meta};
use crate::error::Result;
use crate::scan::Device;
use rusqlite::OptionalExtension;

const DEVICE: &str = "source_device";

impl Catalog {
    /// What the source directory was on last time; none where that is not known.
    ///
    /// # Errors
    /// `Setup`, once.
    pub fn device(&self) -> Result<Option<Device>> {
        let text = self.meta(DEVICE)?;
        Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
    }

    /// Remembers what the source directory is on.
    ///
    /// # Errors
    /// `Setup`, once.
    pub fn set_device(&self, device: &Device) -> Result<()> {
        let text = serde_json::to_string(device).unwrap_or_default();
        self.note(|connection| set_meta(connection, DEVICE, &text))
    }

    fn meta(&self, name: &str) -> Result<Option<String>> {
        self.with(|connection| {
            let select = "SELECT value FROM meta WHERE name = ?1";
            connection.query_row(select, [name], |row| row.get(0)).optional()
        })
    }

    /// True where the target's or source's listing was found to be out of key order.
    ///
    /// # Errors
    /// `Setup`, once.
    pub fn is_unordered(&self) -> Result<bool> {
        Ok(self.meta("unordered")?.is_some())
    }

    /// Where the ranges of a side's listing ended; none where that is not known.
    ///
    /// # Errors
    /// `Setup`, once.
    pub fn ends(&self, side: Side) -> Result<Option<Vec<String>>> {
        let text = self.meta(ends_name(side))?;
        Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
    }

    /// Remembers where the ranges of a side's listing will end.
    ///
    /// # Errors
    /// `Setup`, once.
    pub fn set_ends(&self, side: Side, ends: &[String]) -> Result<()> {
        let text = serde_json::to_string(ends).unwrap_or_default();
        self.with(|connection| set_meta(connection, ends_name(side), &text))
    }

    /// Remembers that a listing is out of key order.
    ///
    /// # Errors
    /// `Setup`, once.
    pub fn set_unordered(&self) -> Result<()> {
        self.with(|connection| set_meta(connection, "unordered", "1"))
    }
}

fn ends_name(side: Side) -> &'static str {
    match side {
        Side::Source => "source_ends",
        Side::Target => "target_ends",
    }
}
