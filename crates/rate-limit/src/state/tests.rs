#[cfg(loom)]
mod interleaved;
#[cfg(not(loom))]
mod sequential;
