//! Where a model comes from: local files, a model hub, short names with pinned hashes.
