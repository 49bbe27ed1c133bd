//! A tower layer that enforces and names every phase in which a model can be slow.
