//! What is remembered of the listings themselves: whether they are in order, and where they can be cut.

use super::{Catalog, Side, set_meta};
use crate::error::Result;
use rusqlite::OptionalExtension;

impl Catalog {
    /// True where the target's or source's listing was found to be out of key order.
    ///
    /// # Errors
    /// `Setup`, once.
    pub fn is_unordered(&self) -> Result<bool> {
        let found = self.with(|connection| {
            connection
                .query_row("SELECT value FROM meta WHERE name = 'unordered'", [], |_| Ok(true))
                .optional()
        })?;
        Ok(found.unwrap_or(false))
    }

    /// Where the ranges of a side's listing ended; none where that is not known.
    ///
    /// # Errors
    /// `Setup`, once.
    pub fn ends(&self, side: Side) -> Result<Option<Vec<String>>> {
        let text: Option<String> = self.with(|connection| {
            let select = "SELECT value FROM meta WHERE name = ?1";
            connection.query_row(select, [ends_name(side)], |row| row.get(0)).optional()
        })?;
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
