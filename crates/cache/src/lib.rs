//! A tower layer that answers from a complete earlier answer, or a simplified one, when no model can.
