//! Attention over weighted entries.
