//! A tower service and layer that let another model answer when the first cannot.
