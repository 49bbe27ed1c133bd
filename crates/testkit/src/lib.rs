//! Scripted models, fault scripts and the tower contract laws, for testing a stack of backstop layers.
