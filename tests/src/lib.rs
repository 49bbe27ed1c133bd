//! Tests that cross layers; see the files in this folder.
