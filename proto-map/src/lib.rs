//! proto-map
