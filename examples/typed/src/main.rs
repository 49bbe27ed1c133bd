//! A typed request service behind backstop.

fn main() {}
